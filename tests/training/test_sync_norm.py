"""BatchNorm over several processes is BatchNorm over the whole batch in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmray.training.fused import conv_norm_relu_pool
from mmray.training.loader import Share
from mmray.training.parallel import wrap
from mmray.training.sync_norm import GlobalBatchNorm, convert
from tests.training.processes import run

CPU = torch.device("cpu")


class Net(nn.Module):
    """Both kinds of layer, on inputs that are far from centred."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(1, 4, 8, 2, padding=4)
        self.first_norm = nn.BatchNorm1d(4)
        self.second = nn.Conv1d(4, 6, 4, 2, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3, bias=False)
        self.last_norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_norm_relu_pool(x, self.first, self.first_norm, 4)
        x = torch.relu(self.norm(self.second(x) * 2 + 50))
        return self.last_norm(self.last(x.mean(-1)))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(12, 1, 400, generator=generator) + 0.5,
        torch.randn(12, 3, generator=generator),
    )


def step(model: nn.Module, x: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    y = model(x)
    (nn.functional.mse_loss(y, target) * weight).backward()
    return y.detach()


def several_workers(rank: int, world_size: int, folder: Path) -> None:
    net = convert(Net(), CPU)
    assert isinstance(net.norm, GlobalBatchNorm)
    share = Share(rank, world_size)
    x, target = (values[list(share.slots(12))] for values in data())
    y = step(wrap(net, CPU), x, target, share.weight(12))
    gradients = {f"grad.{name}": p.grad for name, p in net.named_parameters()}
    save_file({"y": y, **gradients, **net.state_dict()}, folder / f"{rank}.safetensors")


@pytest.mark.parametrize("workers", [2, 5])  # five have 2 or 3 examples
def test_workers_equal_one_over_the_whole_batch(tmp_path: Path, workers: int) -> None:
    run(several_workers, tmp_path, processes=workers)
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(workers)]
    net = Net()
    y = step(net, *data())
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y, rtol=1e-5, atol=1e-5)
    for part in parts:
        for name, p in net.named_parameters():
            torch.testing.assert_close(
                part[f"grad.{name}"], p.grad, rtol=1e-5, atol=1e-5, msg=f"gradient of {name}"
            )
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(part[name], buffer, rtol=1e-5, atol=1e-5, msg=name)


def test_alone_equals_batch_norm_where_the_mean_is_large() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5)
    other = GlobalBatchNorm.of(nn.BatchNorm1d(5))
    x = (torch.randn(8, 5, 20) + 1000).requires_grad_()
    y, z = norm(x), other(x)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, other.running_var)
    assert int(other.num_batches_tracked) == 1
    torch.testing.assert_close(norm.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-4)
