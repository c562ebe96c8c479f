"""A backbone from pixels: what is taken over, what is learned, and the joint model behind it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import mmray
from mmray import runtime, storage
from mmray.errors import UserError
from mmray.joint import finetune
from mmray.joint.config import JointOptions
from mmray.joint.pixels import PixelExamples, PixelPretraining, varied
from mmray.joint.train import JointTraining
from mmray.joint.vocabulary import build_vocabulary
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import ImageOptions, backbone_of, prepare_images
from mmray.teachers import alexnet, load_teacher
from mmray.training.checkpoint import Checkpoints
from mmray.training.config import TrainConfig
from mmray.training.loader import Loader, Share

SIZE = 64
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}
OPTIONS = JointOptions(
    min_count=2,
    hidden=16,
    dim=8,
    pretrain_epochs=0,
    backbone_init="random",
    pixel_epochs=4,
    pixel_size=SIZE,
)
FILES = ("model/model.safetensors", "pixels/model/model.safetensors", "pictures/manifest.json")
CONFIG = TrainConfig(epochs=2, batch_size=8, log_every=2, eval_every=0, checkpoint_every=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of 90 x 72 pixels in one colour each, with a bright or a dark square."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = ["uri,tags,split"]
    for i in range(48):
        name, light = list(COLOURS)[i % 3], i % 2
        pixels = np.clip(COLOURS[name] + rng.normal(0, 12, (72, 90, 3)), 0, 255).astype(np.uint8)
        pixels[20:50, 30:60] = 230 * light + 10
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
        tags = "" if i == 9 else f"{name};{'bright' if light else 'dark'}"
        lines.append(f"{i:02d}.png,{tags},{'val' if i >= 40 else 'train'}")
    (root / "list.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def data(folder: Path, random_teacher: Path) -> str:
    """The pictures as a dataset, seen by a net of random weights."""
    runtime.set_local_mode(True)
    net = f"mmray:{random_teacher}"
    options = ImageOptions(source=f"manifest:{folder}/list.csv", backbone=(net,), objects=net)
    return prepare_images(options, str(folder / "dataset")).path


@pytest.fixture(scope="module")
def out(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a joint model was trained on pixels."""
    runtime.set_local_mode(True)
    where = str(tmp_path_factory.mktemp("joint") / "out")
    JointTraining(OPTIONS, CONFIG, data, where).run()
    return where


@pytest.fixture
def lost(data: str, tmp_path: Path) -> str:
    """The same dataset after its files were moved away."""
    import pyarrow.parquet as pq

    where = tmp_path / "lost"
    shutil.copytree(data, where)
    for part in where.glob("part-*.parquet"):
        table = pq.read_table(part)
        uris = table["uri"].to_pylist()
        column = [[uri.replace("/pictures", "/nowhere") for uri in uris]]
        pq.write_table(table.set_column(table.column_names.index("uri"), "uri", column), part)
    return str(where)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole AlexNet of random weights, as torchvision's users save theirs."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(3)
    torch.save(models.alexnet(num_classes=5).state_dict(), path)
    yield path
    path.unlink()  # a quarter of a gigabyte


def task_of(data: str, **settings: object) -> PixelPretraining:
    vocabulary = build_vocabulary(Dataset(data, "images"), min_count=2)
    return PixelPretraining(vocabulary, SIZE, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [0, 2, 5])
def test_exactly_the_first_layers_are_taken_over(data: str, checkpoint: Path, layers: int) -> None:
    init = f"torchvision:alexnet={checkpoint}"
    donor = torch.load(checkpoint, weights_only=True)
    torch.manual_seed(0)
    new = task_of(data).build().net.state_dict()
    torch.manual_seed(0)
    found = task_of(data, init=init, layers=layers).build().net.state_dict()
    taken = [f"features.{i}.{part}" for i in (0, 3, 6, 8, 10) for part in ("weight", "bias")]
    taken = taken[: 2 * layers]
    for name in taken:
        assert found[f"body.{name}"].equal(donor[name]), name
    for name in found.keys() - {f"body.{name}" for name in taken}:
        assert found[name].equal(new[name]), name


def test_frozen_layers_stay_and_the_others_learn(data: str, checkpoint: Path) -> None:
    options = replace(
        OPTIONS,
        backbone_init=f"torchvision:alexnet={checkpoint}",
        transfer_layers=2,
        freeze_transferred=True,
    )
    job = finetune.pixel_job(options, CONFIG, Dataset(data, "images"), "unused")
    model = job.task.build().train()
    batch = Loader(Dataset(data, "images"), job.examples, batch_size=8).batch(0)
    job.task.loss(model, batch)[0].backward()
    learns = {name for name, p in model.net.named_parameters() if p.grad is not None}
    still = {name for name, p in model.net.named_parameters() if p.grad is None}
    assert still == {f"body.features.{i}.{part}" for i in (0, 3) for part in ("weight", "bias")}
    assert {"body.features.6.weight", "body.layer.weight", "head.weight"} <= learns


def test_the_loss_falls_and_the_backbone_is_a_teacher(out: str) -> None:
    state = Checkpoints(f"{out}/pixels").newest()
    assert state is not None
    assert state.step == 20
    assert np.mean(state.losses[-4:]) < 0.7 * np.mean(state.losses[:4])
    assert state.evaluations[-1]["ap"] > 0.7

    net = load_teacher(f"mmray:{out}/pixels/model", device="cpu")
    assert sorted(net.classes) == ["blue", "bright", "dark", "green", "red"]
    assert (net.size, net.feature_dim) == (SIZE, alexnet.HIDDEN)
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    probabilities, vectors = net.describe(pictures)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors.shape == (3, net.depths_dim + net.feature_dim)
    assert vectors.std(axis=0).max() > 0


def test_two_workers_see_the_losses_of_one(data: str) -> None:
    task = task_of(data)
    torch.manual_seed(0)
    model = task.build().train()
    dataset = Dataset(data, "images")
    whole, *halves = (
        Loader(dataset, PixelExamples(task.vocabulary, SIZE), batch_size=8, share=share)
        for share in (Share(), Share(0, 2), Share(1, 2))
    )
    for step in range(2):
        torch.manual_seed(step)  # nothing may depend on it
        expected = task.loss(model, whole.batch(step))[0].item()
        parts = [task.loss(model, half.batch(step))[0].item() for half in halves]
        assert np.mean(parts) == pytest.approx(expected, rel=1e-5)
        assert task.loss(model, whole.batch(step))[0].item() == expected
    plain = next(whole.in_order())
    assert "noise" not in plain
    assert plain["pixels"].shape == (8, SIZE, SIZE, 3)


def test_pictures_without_tags_teach_nothing(data: str) -> None:
    task = task_of(data)
    examples = PixelExamples(task.vocabulary, SIZE)
    table = Dataset(data, "images").read(["uri", "thumbnail", "tags"], split="train")
    (bare,) = (row for row in table.to_pylist() if not row["tags"])
    batch = examples([bare], [bare], [np.random.default_rng(0)])
    assert float(task.loss(task.build(), batch)[0].detach()) == 0
    assert task.evaluate(task.build().eval(), batch)["ap"].isnan().all()


def test_parts_of_a_picture_vary() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    seen = [varied(picture, 32, "pad", np.random.default_rng(i)) for i in (0, 1, 0)]
    assert seen[0].shape == (32, 32, 3)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_thumbnails_take_the_place_of_lost_files(
    data: str, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary = task_of(data).vocabulary
    batches = []
    with caplog.at_level(logging.WARNING):
        for where in (data, lost):
            loader = Loader(Dataset(where, "images"), PixelExamples(vocabulary, SIZE), batch_size=8)
            batches.append([loader.batch(step)["pixels"].float() for step in range(3)])
    (warning,) = (r.getMessage() for r in caplog.records if r.name == "mmray.joint.pixels")
    assert "thumbnail is used instead" in warning
    assert "/nowhere" in warning
    for ours, theirs in zip(*batches, strict=True):
        assert 0 < float((ours - theirs).abs().mean()) < 8  # JPEG's noise, and no more


def test_other_layouts_are_refused(data: str, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    layers = models.vgg.make_layers(models.vgg.cfgs["A"])
    torch.save(layers.state_dict(prefix="features."), path)
    with pytest.raises(UserError, match=r"vgg\.pth: is not a checkpoint of a net in AlexNet's"):
        task_of(data, init=f"torchvision:alexnet={path}").build()
    torch.save({"classifier.6.weight": torch.zeros(5, 4)}, path)
    with pytest.raises(UserError, match=r"AlexNet's layout .*: it lacks features\.0\.weight"):
        task_of(data, init=f"torchvision:alexnet={path}").build()
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"vgg\.pth: is not a PyTorch checkpoint"):
        task_of(data, init=f"torchvision:alexnet={path}").build()
    options = replace(OPTIONS, backbone_init=f"torchvision:alexnet={tmp_path}/missing.pth")
    with pytest.raises(UserError, match=r"missing\.pth: no such file"):
        finetune.pixel_job(options, CONFIG, Dataset(data, "images"), str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_init": "torchvision:resnet18"}, "--backbone-init torchvision:resnet18.*AlexN"),
        ({"backbone_init": "torchvision:alexnet_x"}, "--backbone-init"),
        ({"transfer_layers": 6}, "--transfer-layers 6: expected 0 to 5"),
        ({"freeze_transferred": True}, "--freeze-transferred: no layers"),
        ({"pixel_epochs": 0}, "--pixel-epochs 0"),
        ({"pixel_size": 32}, "--pixel-size 32: expected 64"),
    ],
)
def test_flags_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(OPTIONS, **changes).check()  # type: ignore[arg-type]


def test_a_joint_model_on_pixels(data: str, folder: Path, out: str, local_mode: None) -> None:
    old, new = Dataset(data, "images"), Dataset(f"{out}/pictures", "images")
    assert backbone_of(new)["nets"] == [f"mmray:{out}/pixels/model"]
    same = ["id", "uri", "split", "tags"]
    assert new.read(same).to_pylist() == old.read(same).to_pylist()

    tagger = mmray.load(f"{out}/model", device="cpu")
    (found,) = tagger.tags([folder / "00.png"], k=5, useless=True)
    assert {tag for tag, _ in found} == {*COLOURS, "bright", "dark"}
    features = tagger.features([folder / "00.png"])
    row = new.read(["features"]).slice(0, 1)["features"].combine_chunks().to_numpy_ndarray()
    assert np.allclose(features, row, atol=0.01 * np.abs(row).max())


def test_the_same_command_again_changes_nothing(data: str, out: str, local_mode: None) -> None:
    before = {name: storage.sha256(f"{out}/{name}") for name in FILES}
    JointTraining(OPTIONS, CONFIG, data, out).run()
    assert {name: storage.sha256(f"{out}/{name}") for name in FILES} == before
    with pytest.raises(UserError, match=r"pixels/checkpoints.*settings \(size: 64 there, 96 here"):
        JointTraining(replace(OPTIONS, pixel_size=96), CONFIG, data, out).run()


def test_a_model_brings_its_backbone_along(out: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(f"{out}/model", tmp_path / "model")
    moved = mmray.load(str(tmp_path / "model"), device="cpu")
    assert moved.scorer.backbone["nets"] == [f"mmray:{tmp_path}/model/backbone-0"]
    assert moved.features([folder / "00.png"]).shape == (1, moved.scorer.model.config.feature_dim)
