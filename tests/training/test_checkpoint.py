"""Checkpoints hold all of a run, and half-written ones are passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmray.errors import UserError
from mmray.training.checkpoint import Checkpoints, State


def trained(steps: int = 3, width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() <= 1]},
        ]
    )
    for _ in range(steps):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(where: Path, *steps: int, best: int | None = None, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(str(where), keep)
    model, optimizer = trained()
    for step in steps:
        state = State(step=step, losses=[0.5] * step, best=0.1, best_step=best)
        checkpoints.save(state, model, optimizer)
    return checkpoints


def names(where: Path) -> list[str]:
    return sorted(p.name for p in (where / "checkpoints").iterdir())


def test_round_trip_is_exact(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = State(
        7, {"lr": 0.1, "betas": [0.9, 0.99]}, [1.0, 0.5], [{"step": 5, "loss": 2.0}], 2.0, 5
    )
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(state, model, optimizer)
    assert checkpoints.newest() == state
    other, other_optimizer = trained(steps=1)
    checkpoints.load_model(7, other)
    checkpoints.load_optimizer(7, other, other_optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    saved, loaded = optimizer.state_dict(), other_optimizer.state_dict()
    assert saved["param_groups"] == loaded["param_groups"]
    for index, moments in saved["state"].items():
        for key, tensor in moments.items():
            assert torch.equal(tensor, loaded["state"][index][key]), (index, key)


def test_no_checkpoint_at_the_start(tmp_path: Path) -> None:
    assert Checkpoints(str(tmp_path)).newest() is None


@pytest.mark.parametrize("harm", ["no state", "half a state", "short weights", "no optimizer"])
def test_half_written_checkpoint_is_passed_over(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save(tmp_path, 5, 10)
    newest = tmp_path / "checkpoints" / "step_00000010"
    if harm == "no state":
        (newest / "state.json").unlink()
    elif harm == "half a state":
        text = (newest / "state.json").read_text()
        (newest / "state.json").write_text(text[: len(text) // 2])
    elif harm == "short weights":
        data = (newest / "model.safetensors").read_bytes()
        (newest / "model.safetensors").write_bytes(data[:-8])
    else:
        (newest / "optimizer.safetensors").unlink()
    state = checkpoints.newest()
    assert state is not None
    assert state.step == 5
    assert "step_00000010: is incomplete" in caplog.text


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, best=2)
    assert names(tmp_path) == ["step_00000002", "step_00000004", "step_00000005"]


def test_a_failed_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmray import storage

    checkpoints = save(tmp_path, 5)
    model, optimizer = trained()
    write = storage.write_bytes

    def full(uri: str, data: bytes) -> None:
        if "optimizer" in uri:
            raise OSError("no space left on device")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(State(step=6), model, optimizer)
    state = checkpoints.newest()
    assert state is not None
    assert state.step == 5


def test_any_fsspec_address(tmp_path: Path) -> None:
    checkpoints = Checkpoints("memory://run")
    model, optimizer = trained()
    for step in (1, 2, 3):
        checkpoints.save(State(step=step, losses=[1.0] * step), model, optimizer)
    state = checkpoints.newest()
    assert state is not None
    assert (state.step, state.losses) == (3, [1.0, 1.0, 1.0])
    checkpoints.load_model(3, model)
    checkpoints.clear()
    assert checkpoints.newest() is None


def test_weights_of_another_model_are_a_user_error(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 5)
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit"):
        checkpoints.load_model(5, trained(width=6)[0])


def test_holds_no_pickle(tmp_path: Path) -> None:
    save(tmp_path, 5)
    files = sorted(p.name for p in (tmp_path / "checkpoints" / "step_00000005").iterdir())
    assert files == ["model.safetensors", "optimizer.safetensors", "state.json"]
