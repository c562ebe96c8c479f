"""The job on a small world: it learns, resumes, and gives the same on any workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import mmray
from jobs import train_joint
from mmray import storage
from mmray.errors import UserError
from tests.joint.worlds import write_rows


def flags(data: str, out: Path, *more: str) -> list[str]:
    small = ["--hidden", "16", "--dim", "8", "--dropout", "0.1", "--batch-size", "32"]
    often = ["--log-every", "2", "--lr", "5e-3", "--warmup", "4", "--pretrain-epochs", "1"]
    return ["--data", data, "--out", str(out), *small, *often, *more]


def test_learns_and_writes_a_model(picture_world: str, tmp_path: Path, local_mode: None) -> None:
    argv = flags(picture_world, tmp_path, "--steps", "40", "--local")
    result = train_joint.main(argv)
    assert result.steps == len(result.losses) == 40
    assert np.mean(result.losses[-5:]) < 0.9 * np.mean(result.losses[:5])
    assert result.metrics.keys() == {"loss_picture", "ap_picture", "ap_both"}
    assert result.metrics["ap_picture"] > 0.5
    tagger = mmray.load(f"models:/mmray-joint/{result.version}")
    assert tagger.tags_of_features(np.zeros((1, 48), np.float32), k=3)
    training = storage.read_json(Path(result.path) / "config.json")["training"]
    assert (training["steps"], training["mixup"], training["pretrained"]) == (40, 0.4, True)
    for tower in ("pictures_alone", "tags_alone"):
        assert (tmp_path / tower / "model" / "model.safetensors").is_file()

    assert train_joint.main(argv) == result
    with pytest.raises(UserError, match=r"other settings \(doubt: 0\.5 there, 0\.0 here\)"):
        train_joint.main([*argv, "--doubt", "0"])


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_one_and_two_workers_have_the_same_losses(picture_world: str, tmp_path: Path) -> None:
    steps = ("--steps", "12", "--pretrain-epochs", "0")
    results = [
        train_joint.main(flags(picture_world, tmp_path / workers, *steps, "--num-workers", workers))
        for workers in ("2", "1")
    ]
    assert len(results[0].losses) == 12
    assert results[0].losses == pytest.approx(results[1].losses, abs=1e-4)
    assert results[0].metrics == pytest.approx(results[1].metrics, abs=1e-3)


def test_a_run_killed_anywhere_ends_as_one_that_was_not(
    picture_world: str, tmp_path: Path, local_mode: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmray.training.checkpoint import Checkpoints

    class Killed(Exception):
        pass

    more = ("--steps", "12", "--checkpoint-every", "4", "--schedule", "constant", "--local")
    whole = train_joint.main(flags(picture_world, tmp_path / "whole", *more))
    argv = flags(picture_world, tmp_path / "killed", *more)
    save = Checkpoints.save
    for kill_in in ("pictures_alone", "tags_alone", "killed"):

        def dying(self, state, *args, kill_in=kill_in) -> None:
            save(self, state, *args)
            if Path(self.folder).parent.name == kill_in and state.step >= 4:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", dying)
            with pytest.raises(Killed):
                train_joint.main(argv)
    # The towers are found finished, and the joint training goes on from its checkpoint.
    assert train_joint.main(argv).losses == whole.losses
    probabilities = [
        mmray.load(str(tmp_path / name / "model")).scorer.probabilities(np.ones((2, 48)))
        for name in ("whole", "killed")
    ]
    assert np.array_equal(*probabilities)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--min-count", "9999"), "0 tags occur in 9999.*--min-count"),
        (("--max-tags", "0"), "--max-tags"),
        (("--hidden", "0"), "--hidden"),
        (("--dropout", "1"), "--dropout"),
        (("--mixup", "-1"), "--mixup"),
        (("--doubt", "nan"), "--doubt"),
        (("--lr", "0"), "--lr"),
    ],
)
def test_bad_flags_are_named(
    picture_world: str, tmp_path: Path, local_mode: None, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_joint.main(flags(picture_world, tmp_path / "out", "--local", *more))
    assert not (tmp_path / "out" / "model").exists()


def test_what_is_no_dataset_of_pictures(
    picture_world: str, tmp_path: Path, tiny_teacher: str, local_mode: None
) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json.*prepare_images"):
        train_joint.main(flags(str(tmp_path), tmp_path / "out", "--local"))
    clips = shutil.copytree(picture_world, tmp_path / "clips")
    manifest = storage.read_json(clips / "manifest.json")
    storage.write_json(clips / "manifest.json", {**manifest, "kind": "clips"})
    with pytest.raises(UserError, match="holds 'clips', expected a dataset of images"):
        train_joint.main(flags(str(clips), tmp_path / "out", "--local"))
    untagged = write_rows(tmp_path / "untagged", [{"tags": []}] * 40, tiny_teacher)
    with pytest.raises(UserError, match="pictures with tags"):
        train_joint.main(flags(untagged, tmp_path / "out", "--local"))
