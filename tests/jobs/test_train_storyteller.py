"""The storyteller's jobs: training, going on, measuring, telling; on a cluster too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import mmray
from jobs import evaluate, predict, train_storyteller
from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.storyteller.config import StoryOptions
from mmray.storyteller.task import StoryTask
from mmray.storyteller.texts import as_sentence
from mmray.storyteller.train import StoryTraining
from mmray.training.config import TrainConfig
from mmray.training.loader import Batch
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.joint.taggers import write_tagger
from tests.storyteller.books import write_book


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Path:
    root = tmp_path_factory.mktemp("stories")
    data = write_captioned(root / "data", tiny_teacher, grid=False)
    write_captioner(root / "captioner", data)
    for name in ("old", "memo"):
        write_book(root / f"{name}.txt", name, 900)
    return root


def flags(root: Path, out: Path, *more: str) -> list[str]:
    styles = [x for name in ("old", "memo") for x in ("--style", f"{name}={root}/{name}.txt")]
    sizes = ["--vocabulary", "200", "--dim", "32", "--layers", "1", "--max-length", "32"]
    training = ["--batch-size", "16", "--warmup", "5", "--log-every", "5"]
    files = ["--captions", f"{root}/data", "--captioner", f"{root}/captioner", "--out", str(out)]
    return [*files, *styles, *sizes, *training, *more]


@pytest.mark.usefixtures("local_mode")
def test_trained_measured_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(root, tmp_path / "out", "--steps", "60", "--local")
    trained = train_storyteller.main(argv)
    assert trained is not None
    assert trained.metrics["loss"] < 4.2
    assert train_storyteller.main(argv) == trained
    teller = mmray.load(f"models:/mmray-storyteller/{trained.version}", device="cpu")
    assert teller.stories([np.full((32, 32, 3), 90, np.uint8)], "old")[0][0].story
    with pytest.raises(UserError, match="other captions or styles"):
        train_storyteller.main([*argv, "--style", f"more={root}/old.txt"])
    asked = ["--model", trained.path, "--local"]
    metrics = evaluate.main(
        [
            "storyteller",
            *asked,
            "--data",
            f"{root}/data",
            "--pictures",
            "12",
            "--out",
            str(tmp_path),
        ]
    )
    for name in ("style.0", "style.1", "content.0.5", "shuffled.content", "retrieval.r10.0.5"):
        assert 0 <= metrics[name] <= 1
        assert 0 <= metrics[f"old.{name}"] <= 1
    assert metrics["retrieval.r10"] == metrics["retrieval.r10.0.5"]
    assert {"copied8", "distinct3", "loops4"} <= metrics.keys()
    assert metrics["empty"] == 0
    assert storage.read_json(tmp_path / "storyteller.json") == metrics
    assert (tmp_path / "storyteller.png").read_bytes().startswith(b"\x89PNG")
    assert "1, random direction" in capsys.readouterr().out
    told = [*asked, "--style", "memo", "--input", f"{root}/data", "--out", str(tmp_path / "told")]
    done = predict.main(["stories", *told, "--n", "2"])
    rows = Dataset(done.path, "stories").read(["id", "story", "stories", "captions"]).to_pylist()
    assert len(rows) == Dataset(f"{root}/data", "images").num_rows
    assert all(row["story"] == row["stories"][0]["story"] for row in rows)
    assert predict.main(["stories", *told, "--n", "2"]) == done
    with pytest.raises(UserError, match="style 'noir': unknown; known are memo, old"):
        predict.main(["stories", *asked, "--style", "noir", "--input", f"{root}/data"])


def test_no_style(root: Path, tmp_path: Path) -> None:
    training = StoryTraining(StoryOptions(), TrainConfig(), f"{root}/data", {}, str(tmp_path))
    with pytest.raises(UserError, match="--style: give one or more, as NAME=FILE"):
        training.run()


@pytest.mark.usefixtures("local_mode")
def test_stories_of_the_nearest_pictures(root: Path, tmp_path: Path, tiny_teacher: str) -> None:
    joint = write_tagger(tmp_path / "joint", Path(tiny_teacher.removeprefix("mmray:")))
    argv = flags(root, tmp_path / "out", "--steps", "20", "--local", "--joint", str(joint))
    with pytest.raises(UserError, match="--captioner, --joint: give one of them"):
        train_storyteller.main(argv)
    at = argv.index("--captioner")
    trained = train_storyteller.main([*argv[:at], *argv[at + 2 :]])
    assert trained is not None
    asked = ["stories", "--model", trained.path, "--style", "old", "--input", f"{root}/data"]
    done = predict.main([*asked, "--limit", "5", "--local", "--out", str(tmp_path / "told")])
    told = Dataset(done.path, "stories").read(["captions", "story"]).to_pylist()
    written = Dataset(f"{root}/data", "images").read(["captions"])["captions"].to_pylist()
    people = {as_sentence(caption) for captions in written for caption in captions}
    assert all(len(row["captions"]) == 5 for row in told)
    assert {caption for row in told for caption in row["captions"]} <= people
    own = [*asked, "--captioner", f"{root}/captioner", "--limit", "5", "--local"]
    other = predict.main([*own, "--out", str(tmp_path / "other")])
    told = Dataset(other.path, "stories").read(["captions"]).to_pylist()
    assert not {caption for row in told for caption in row["captions"]} & people


@pytest.mark.usefixtures("local_mode")
def test_another_vocabulary_spoils_no_run(root: Path, tmp_path: Path) -> None:
    argv = flags(root, tmp_path, "--steps", "5", "--local")
    trained = train_storyteller.main(argv)
    with pytest.raises(UserError, match="num_pieces"):
        train_storyteller.main([*argv, "--vocabulary", "150"])
    assert train_storyteller.main(argv) == trained


@pytest.mark.usefixtures("local_mode")
def test_a_killed_training_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--steps", "20", "--checkpoint-every", "5", "--log-every", "5", "--local"]
    whole = train_storyteller.main(flags(root, tmp_path / "whole", *more))
    learn, steps = StoryTask.loss, iter(range(12))

    def killed(self: StoryTask, model: nn.Module, batch: Batch) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return learn(self, model, batch)

    monkeypatch.setattr(StoryTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_storyteller.main(flags(root, tmp_path / "killed", *more))
    monkeypatch.setattr(StoryTask, "loss", learn)
    again = train_storyteller.main(flags(root, tmp_path / "killed", *more))
    assert whole is not None
    assert again is not None
    assert again.losses == whole.losses


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_one_and_two_workers_have_the_same_losses(root: Path, tmp_path: Path) -> None:
    results = [
        train_storyteller.main(
            flags(root, tmp_path / n, "--steps", "10", "--dropout", "0", "--num-workers", n)
        )
        for n in ("1", "2")
    ]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-4)
