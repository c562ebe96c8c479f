from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.train_teacher import main
from mmray.errors import UserError
from mmray.teachers import load_teacher
from mmray.toyworld.build import make_world

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(
        tmp_path_factory.mktemp("toy") / "world", num_videos=0, num_images=200, workers=1
    )


def test_toy_scenes_end_to_end(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    argv = [
        f"toy:{world}",
        "--what",
        "scenes",
        "--epochs",
        "10",
        "--size",
        "32",
        "--batch-size",
        "8",
    ]
    result = main(argv)
    assert result.path == "runs/train_teacher/scenes"
    assert result.accuracy > 0.5  # eight places, 140 pictures to learn from
    out = capsys.readouterr().out
    assert "8 scenes, " in out
    assert "use it as mmray:runs/train_teacher/scenes" in out
    teacher = load_teacher(f"mmray:{result.path}", device="cpu")
    assert "beach" in teacher.classes

    assert main(argv) == result
    with pytest.raises(UserError, match="give --overwrite"):
        main([*argv, "--epochs", "2"])


def test_unknown_source_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "jobs/train_teacher.py", "coco:x", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "expected toy, toy:DIR or folder:DIR" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib\n"
        "sys.argv = ['train_teacher.py', '--help']\n"
        "from jobs.train_teacher import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "assert not {'torch', 'ray', 'pyarrow'} & set(sys.modules)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--what" in done.stdout
    assert time.perf_counter() - start < 3


@pytest.mark.slow
@pytest.mark.parametrize("what", ["objects", "scenes"])
def test_two_thousand_toy_pictures_are_enough(what: str, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", num_videos=0, num_images=2000)
    result = main([f"toy:{world}", "--what", what, "--out", str(tmp_path / "out")])
    assert result.accuracy >= 0.9
    assert result.ece < 0.06
