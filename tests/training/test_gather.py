"""Rows of all workers, also of unlike numbers, and the way of gradients back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmray.training.gather import Everyone
from mmray.training.loader import Share
from tests.training.processes import run


def vectors() -> Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def loss(mine: Tensor, everyone: Tensor, before: int) -> Tensor:
    """Each of my rows against all: what contrastive losses do."""
    targets = torch.arange(len(mine)) + before
    return torch.nn.functional.cross_entropy(mine @ everyone.T, targets, reduction="sum")


def three_workers(rank: int, world_size: int, folder: Path) -> None:
    mine = vectors()[list(Share(rank, world_size).slots(7))].requires_grad_()
    everyone = Everyone(mine)
    rows = everyone.rows(mine)
    loss(mine, rows, everyone.before).backward()
    assert mine.grad is not None
    save_file({"rows": rows.detach(), "grad": mine.grad}, folder / f"{rank}.safetensors")


def test_three_workers_see_the_rows_of_all(tmp_path: Path) -> None:
    run(three_workers, tmp_path, processes=3)
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(3)]
    whole = vectors().requires_grad_()
    alone = Everyone(whole)
    loss(whole, alone.rows(whole), alone.before).backward()
    assert all(torch.equal(part["rows"], vectors()) for part in parts)
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]), whole.grad)
