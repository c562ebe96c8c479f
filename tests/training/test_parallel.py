"""Gradients of several workers are those of one, to the last bit where layers are exact."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmray.training import exact
from mmray.training.loader import Share
from mmray.training.parallel import wrap
from tests.training.processes import run

BATCH = 8


class Net(nn.Module):
    """An exact layer with a bias, and one of torch's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 5, 4, 2)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        # Row by row: BLAS may round a row otherwise in a batch of another size.
        rows = exact.conv1d(x, self.conv).mean(2).split(1)
        return torch.cat([self.last(row) for row in rows])


def gradients(net: nn.Module, share: Share) -> dict[str, Tensor]:
    x = torch.randn(BATCH, 3, 300, generator=torch.Generator().manual_seed(1))
    for _ in range(3):  # torch orders its buckets anew after the first step
        net.zero_grad()
        rows = x[list(share.slots(BATCH))]
        (net(rows).square().sum(1).mean() * share.weight(BATCH)).backward()
    return {
        name.removeprefix("module."): p.grad
        for name, p in net.named_parameters()
        if p.grad is not None
    }


def workers(rank: int, world_size: int, folder: Path) -> None:
    net = wrap(Net(), torch.device("cpu"))
    save_file(gradients(net, Share(rank, world_size)), folder / f"{rank}.safetensors")


def test_two_and_three_workers(tmp_path: Path) -> None:
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        folder.mkdir()
        run(workers, folder, processes=processes)
        one = load_file(tmp_path / "1" / "0.safetensors")
        for rank in range(processes):
            found = load_file(folder / f"{rank}.safetensors")
            torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)
            if processes == 2:  # what they are scaled by is a power of 2
                assert torch.equal(found["conv.weight"], one["conv.weight"])
