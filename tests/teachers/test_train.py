from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.errors import UserError
from mmray.teachers import load_teacher, train
from mmray.teachers.labelled import labelled_pictures, read_pictures
from mmray.teachers.nets import PictureNet, new_net
from mmray.teachers.train import TeacherOptions, TrainedTeacher, train_teacher


@pytest.fixture
def options(shapes_folder: Callable[[int], Path]) -> TeacherOptions:
    return TeacherOptions(source=f"folder:{shapes_folder(60)}", size=32, epochs=6, batch_size=16)


def _state(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_learns_and_the_teacher_repeats_it(options: TeacherOptions, tmp_path: Path) -> None:
    lines: list[str] = []
    result = train_teacher(options, str(tmp_path / "out"), report=lines.append)
    assert result.accuracy > 0.9
    assert result.nll < 0.4
    assert 0 <= result.ece < 0.2
    assert len(lines) == 1 + options.epochs
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]

    teacher = load_teacher(f"mmray:{tmp_path}/out", device="cpu")
    assert teacher.classes == ["disc", "square", "stripes"]
    images, pictures = read_pictures(labelled_pictures(options.source, "objects"), 32)
    held_out = [i for i, p in enumerate(pictures) if train.split_of(p.key) == "test"]
    assert len(held_out) == result.num_test
    guesses = teacher(images[held_out]).argmax(axis=1)
    labels = [teacher.classes.index(pictures[i].label) for i in held_out]
    assert np.mean(guesses == labels) == pytest.approx(result.accuracy)


def test_the_card_and_the_config_say_what_it_is(options: TeacherOptions, tmp_path: Path) -> None:
    result = train_teacher(replace(options, epochs=1), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "disc, square, stripes" in card
    assert f"accuracy {result.accuracy:.1%}" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["kind"] == "teacher"
    assert config["training"]["options"]["source"] == options.source
    assert config["training"]["nll"] == result.nll


def test_same_seed_same_net(options: TeacherOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        # What runs before must not matter.
        torch.rand(len(name) + seed)
        train_teacher(replace(options, seed=seed), str(tmp_path / name))
    assert _state(tmp_path / "a") == _state(tmp_path / "b")
    assert _state(tmp_path / "a") != _state(tmp_path / "c")


def test_finished_work_is_kept(
    options: TeacherOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, out = replace(options, epochs=1), str(tmp_path / "out")
    first = train_teacher(options, out)
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
        assert train_teacher(options, out) == first
        with pytest.raises(UserError, match=r"trained with --epochs 1, not 2; give --overwrite"):
            train_teacher(replace(options, epochs=2), out)
    second = train_teacher(replace(options, epochs=2), out, overwrite=True)
    assert second != first
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["training"]["options"]["epochs"]
        == 2
    )


def test_an_interrupted_training_leaves_nothing_that_looks_finished(
    options: TeacherOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, out = replace(options, epochs=1), str(tmp_path / "out")
    train_teacher(options, out)

    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_card", stop)
        with pytest.raises(KeyboardInterrupt):
            train_teacher(options, out, overwrite=True)
    with pytest.raises(UserError, match=r"is not a model folder \(no config\.json\)"):
        load_teacher(f"mmray:{out}")
    assert train_teacher(options, out).accuracy >= 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_files_are_safe(
    options: TeacherOptions, tmp_path: Path, overwrite: bool
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"mine: holds thesis\.txt.*choose another --out"):
        train_teacher(options, str(out), overwrite=overwrite)
    (out / "thesis.txt").rename(out / "config.json")
    (out / "config.json").write_text('{"kind": "soundnet"}')
    with pytest.raises(UserError, match="choose another --out"):
        train_teacher(options, str(out), overwrite=overwrite)
    assert (out / "config.json").read_text() == '{"kind": "soundnet"}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected 1 or more"),
        ({"size": 8}, "--size 8: expected 32 or more"),
        ({"batch_size": 1}, "--batch-size 1: expected 2 or more"),
        ({"lr": 0.0}, "--lr 0: expected more than 0"),
        ({"limit": 0}, "--limit 0"),
        ({"what": "sounds"}, "--what sounds: expected objects or scenes"),
    ],
)
def test_bad_options(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_teacher(replace(TeacherOptions(), **change), "unused")


def test_too_few_pictures(shapes_folder: Callable[[int], Path], tmp_path: Path) -> None:
    root = shapes_folder(1)
    with pytest.raises(UserError, match="give at least ten a class"):
        train_teacher(TeacherOptions(source=f"folder:{root}"), str(tmp_path / "out"))
    for label in ("square", "stripes"):
        (root / label / "000.png").unlink()
    with pytest.raises(UserError, match=r"has the one class \['disc'\]; expected two or more"):
        train_teacher(TeacherOptions(source=f"folder:{root}"), str(tmp_path / "out"))


def _fixed_net(logits: torch.Tensor) -> tuple[PictureNet, torch.Tensor]:
    """A net that gives these logits for pictures 0, 1, ..., and the pictures."""

    class Look(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits[x[:, 0, 0, 0].long()]

    net = new_net("fixed", [str(i) for i in range(logits.shape[1])], 1, [1])
    net.body, net.head = Look(), torch.nn.Linear(logits.shape[1], logits.shape[1])
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(logits.shape[1]))
        net.head.bias.zero_()
    net.mean.zero_(), net.std.fill_(1)
    return net, torch.arange(len(logits), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 1, 3)


def test_score_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    net, images = _fixed_net(probabilities.log())
    accuracy, nll, ece = train.score(net, images, torch.tensor([0, 1, 1, 1]))
    assert accuracy == pytest.approx(0.75)
    expected = -np.log([0.9, 0.1, 0.6, 0.6]).mean()
    assert nll == pytest.approx(expected, abs=1e-5)
    # Two bins: sure by 0.9 and right half the time; sure by 0.6 and always right.
    assert ece == pytest.approx((0.4 * 2 + 0.4 * 2) / 4, abs=1e-5)


@pytest.mark.parametrize("true_temperature", [0.6, 1.0, 1.7])
def test_calibration_finds_the_temperature(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(250, 4, generator=generator)
    repeated = logits.repeat(40, 1)
    labels = torch.multinomial((repeated / true_temperature).softmax(-1), 1, generator=generator)
    net, images = _fixed_net(logits)
    before = train.score(net, images.repeat(40, 1, 1, 1), labels[:, 0])
    found = train.calibrate(net, images.repeat(40, 1, 1, 1), labels[:, 0])
    after = train.score(net, images.repeat(40, 1, 1, 1), labels[:, 0])
    assert found == pytest.approx(true_temperature, rel=0.06)
    assert after[1] <= before[1]
    assert after[2] < 0.02
    assert after[0] == before[0]


def test_augmented_pictures_vary_but_stay_pictures() -> None:
    pixels = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, again, other = (
        train.augment(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == pixels.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() < 2.5
    assert abs(float(first.mean() - pixels.mean())) < 0.1


def test_toy_teacher_is_trained_once_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    made: list[tuple[TeacherOptions, str]] = []

    def fake(options: TeacherOptions, out: str, **_: object) -> TrainedTeacher:
        made.append((options, out))
        return TrainedTeacher(
            path=out, what="", accuracy=1, nll=0, ece=0, num_train=1, num_test=1, seconds=0
        )

    monkeypatch.setattr(train, "train_teacher", fake)
    paths = {
        train.toy_teacher(what, source)
        for what in ("objects", "scenes")
        for source in ("toy", "toy:x")
    }
    assert len(paths) == 4
    assert all(path.startswith(str(tmp_path / "cache")) for path in paths)
    assert {o.what for o, _ in made} == {"objects", "scenes"}

    # One that the job made at its default place is preferred, if it is of the same world.
    net = new_net("n", ["a", "b"], 32, [4])
    training = {"options": {"source": "toy", "what": "objects"}, "what": "objects", "num_train": 1,
                "num_test": 1, "accuracy": 1.0, "nll": 0.0, "ece": 0.0}  # fmt: skip
    train.save(net, "runs/train_teacher/objects", training)
    assert train.toy_teacher("objects") == "runs/train_teacher/objects"
    assert train.toy_teacher("objects", "toy:x").startswith(str(tmp_path / "cache"))
    assert train.toy_teacher("scenes").startswith(str(tmp_path / "cache"))
