"""What the student is taught, and that the faster model is the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, load_model
from mmray.soundnet.task import SoundNetTask, TrainedSoundNet, kl

RATE = 22050
CONFIG = SoundNetConfig(
    arch="soundnet8", objects=["dog", "car"], scenes=["beach", "street", "hall"]
)


def batch_of(batch_size: int = 2, seconds: float = 2.0, frames: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    times = (torch.arange(frames) + 0.5) * seconds / frames
    return {
        "id": [str(i) for i in range(batch_size)],
        "wave": torch.randn(batch_size, round(seconds * RATE), generator=generator) * 0.1,
        "frame_times": times.expand(batch_size, -1),
        "window_s": torch.full((batch_size,), seconds / frames),
        "weights": torch.ones(batch_size, frames),
        **{
            head: torch.randn(batch_size, frames, len(names), generator=generator).softmax(-1)
            for head, names in CONFIG.classes.items()
        },
    }


def built(task: SoundNetTask) -> TrainedSoundNet:
    torch.manual_seed(0)
    return task.build().train()


def gradients(task: SoundNetTask, model: SoundNetModel, batch: dict[str, Any]) -> dict[str, Tensor]:
    loss, _ = task.loss(model, batch)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize("arch", ["soundnet8", "soundnet5"])
def test_trains_as_the_plain_model_does(arch: str) -> None:
    config = SoundNetConfig(arch=arch, objects=CONFIG.objects, scenes=CONFIG.scenes)
    task = SoundNetTask(config)
    model = built(task)
    plain = SoundNetModel(config)
    plain.load_state_dict(model.state_dict())
    batch = batch_of(3)
    fast, slow = gradients(task, model, batch), gradients(task, plain.train(), batch)
    assert {n for n in slow if n not in fast} == {n for n in slow if n.endswith("conv.bias")}
    for name, value in fast.items():
        scale = slow[name].abs().max()
        torch.testing.assert_close(
            value / scale, slow[name] / scale, rtol=1e-3, atol=1e-4, msg=name
        )
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[name], buffer, msg=name)
    model.eval()
    plain.eval()
    with torch.no_grad():
        for name, value in task.evaluate(model, batch).items():
            torch.testing.assert_close(value, task.evaluate(plain, batch)[name], msg=name)


def test_kl_is_that_of_torch_and_zero_for_the_teacher_itself() -> None:
    logits = torch.randn(5, 7)
    posteriors = torch.randn(5, 7).softmax(-1)
    expected = torch.nn.functional.kl_div(logits.log_softmax(-1), posteriors, reduction="batchmean")
    torch.testing.assert_close(kl(logits, posteriors).mean(), expected)
    assert kl(posteriors.log(), posteriors).abs().max() < 1e-6
    # Half precision loses a little of the sum, and hard zeros are allowed.
    hard = torch.eye(7)[:5].half().float() * 0.998
    assert bool((kl(logits, hard) >= 0).all())


def test_weights_of_the_heads() -> None:
    batch = batch_of()
    model = built(SoundNetTask(CONFIG))
    _, kls = SoundNetTask(CONFIG).loss(model, batch)
    for objects, scenes in ((1.0, 2.49), (0.0, 1.0)):
        task = SoundNetTask(CONFIG, objects_weight=objects, scenes_weight=scenes)
        loss, _ = task.loss(model, batch)
        expected = objects * kls["kl_objects"] + scenes * kls["kl_scenes"]
        torch.testing.assert_close(loss, expected)


def test_sparse_heads_pay_for_their_weights() -> None:
    batch, model = batch_of(), built(SoundNetTask(CONFIG))
    plain, _ = SoundNetTask(CONFIG).loss(model, batch)
    loss, parts = SoundNetTask(CONFIG, sparse_heads=3.0).loss(model, batch)
    weights = torch.cat([head.weight.flatten() for head in model.heads.values()])
    torch.testing.assert_close(parts["l1_heads"], weights.abs().sum() / 1024)
    torch.testing.assert_close(loss, plain + 3.0 * parts["l1_heads"])
    # Of several workers the model is wrapped.
    wrapped = torch.nn.DataParallel(model)
    again, _ = SoundNetTask(CONFIG, sparse_heads=3.0).loss(wrapped, batch)
    torch.testing.assert_close(again, loss)


def test_frames_outside_the_crop_do_not_count_and_clips_weigh_the_same() -> None:
    task = SoundNetTask(CONFIG)
    model = built(task).eval()
    batch = batch_of()
    batch["weights"] = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    values = task.evaluate(model, batch)["kl_objects"]
    loss, kls = task.loss(model, batch)
    torch.testing.assert_close(kls["kl_objects"], values.mean())
    batch["objects"] = batch["objects"].clone()
    batch["objects"][0, 1] = torch.tensor([1.0, 0.0])
    assert task.loss(model, batch)[0] == loss


def test_top1_is_agreement_with_the_teacher() -> None:
    task = SoundNetTask(CONFIG)
    model = built(task).eval()
    batch = batch_of(4)
    logits = model(batch["wave"], batch["frame_times"], batch["window_s"])
    batch["objects"] = logits["objects"].softmax(-1).detach()
    batch["scenes"] = (-logits["scenes"]).softmax(-1).detach()
    metrics = task.evaluate(model, batch)
    assert metrics["top1_objects"].tolist() == [1.0] * 4
    assert metrics["top1_scenes"].tolist() == [0.0] * 4
    assert metrics["kl_objects"].abs().max() < 1e-5


def test_a_few_steps_lower_the_loss() -> None:
    task = SoundNetTask(CONFIG)
    model = built(task)
    batch = batch_of(4, seconds=6.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss, _ = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_saves_a_folder_that_loads(tmp_path: Path) -> None:
    task = SoundNetTask(CONFIG)
    model = built(task)
    task.save(model, str(tmp_path / "model"), {"steps": 3})
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is SoundNetModel
    assert loaded.config == model.config
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(model.state_dict()[name]), name


def test_starts_from_another_model(tmp_path: Path) -> None:
    source = built(SoundNetTask(CONFIG))
    SoundNetTask(CONFIG).save(source, str(tmp_path / "model"), {})
    other = SoundNetConfig(objects=CONFIG.objects, scenes=["a", "b", "c"])
    model = SoundNetTask(other, init=str(tmp_path / "model")).build()
    assert model.heads["objects"].weight.equal(source.heads["objects"].weight)
    assert not model.heads["scenes"].weight.equal(source.heads["scenes"].weight)
    assert model.trunk["conv7"].conv.weight.equal(source.trunk["conv7"].conv.weight)


def test_pictures_are_png() -> None:
    task = SoundNetTask(CONFIG)
    pictures = task.pictures(built(task))
    assert pictures["conv1.png"].startswith(b"\x89PNG")


def test_settings_hold_everything_open() -> None:
    base = SoundNetTask(CONFIG, AugmentConfig()).settings()
    for change in (
        {"augment": AugmentConfig(mix=0.1)},
        {"objects_weight": 2.0},
        {"sparse_heads": 0.1},
        {"crop_s": 7.0},
        {"init": "models/x"},
        {"model": SoundNetConfig(arch="soundnet5", objects=["a"])},
    ):
        values: dict[str, Any] = {"model": CONFIG, "augment": AugmentConfig(), **change}
        assert SoundNetTask(**values).settings() != base
