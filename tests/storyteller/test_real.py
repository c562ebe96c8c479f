"""A real book: the King James Bible as Debian has it, by the command of docs/storyteller.md."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jobs import evaluate, train_storyteller
from mmray.storyteller import texts
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not shutil.which("bible"), reason="needs Debian's bible-kjv"),
]


@pytest.fixture(scope="module")
def kjv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kjv") / "kjv.txt"
    strip = r"s/^[1-9A-Z][A-Za-z0-9]*:[0-9]* //p"
    command = f"echo gen1:1-rev22:21 | bible -f | sed -n '{strip}' > {path}"
    subprocess.run(["bash", "-c", command], check=True, timeout=120)
    return path


def test_sentences(kjv: Path) -> None:
    found = [sentence for passage in texts.passages(str(kjv)) for sentence in passage]
    assert len(found) > 28_000
    assert found[0] == "In the beginning God created the heaven and the earth."
    assert texts.script_of(found[:1000]) == "LATIN"
    assert not any(sentence.startswith("Ge1:") for sentence in found)


@pytest.mark.usefixtures("local_mode")
def test_a_short_training_tells_in_its_style(kjv: Path, tmp_path: Path, tiny_teacher: str) -> None:
    data = write_captioned(tmp_path / "data", tiny_teacher, grid=False)
    captioner = write_captioner(tmp_path / "captioner", data)
    short = tmp_path / "genesis.txt"  # about as much as there are captions
    short.write_text("".join(kjv.read_text().splitlines(keepends=True)[:1500]))
    argv = ["--captions", data, "--captioner", captioner, "--style", f"kjv={short}", "--local"]
    sizes = ["--vocabulary", "1500", "--dim", "96", "--layers", "1", "--max-length", "40"]
    out = str(tmp_path / "out")
    trained = train_storyteller.main([*argv, *sizes, "--steps", "200", "--out", out])
    assert trained is not None
    asked = ["storyteller", "--model", trained.path, "--data", data, "--pictures", "20"]
    metrics = evaluate.main([*asked, "--out", out, "--local"])
    assert metrics["judge.accuracy"] > 0.98
    # The captioner is untrained, so that what is plain at strength 0 is not asked here.
    assert metrics["style.1"] > 0.9
    assert metrics["copied8"] < 0.05
    assert metrics["loops4"] < 0.05
    assert metrics["empty"] == 0
