"""Rows of all workers, for losses that compare every example with every other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmray.training.sync_norm import all_reduce, num_workers


def gather(values: Tensor) -> Tensor:
    """The rows of all workers, in the order of workers; gradients flow back to their owners."""
    if num_workers() == 1:
        return values
    gathered: Tensor = _Gather.apply(values)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.rows, values = len(values), values.contiguous()
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = all_reduce(grads[0].contiguous().clone())
        return total[dist.get_rank() * ctx.rows :][: ctx.rows]
