"""Rows of all workers, for losses that compare every example with every other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmray.training.parallel import all_reduce, num_workers


class Everyone:
    """The examples of all workers, in the order of workers.

    Args:
        mine: one row for each of this worker's examples; how many they are is told to the others.
    """

    def __init__(self, mine: Tensor) -> None:
        self.counts = [len(mine)]
        self.before = 0
        """Rows of the workers before this one."""
        if num_workers() > 1:  # shares of a batch may differ by one
            counts = mine.new_zeros(dist.get_world_size(), dtype=torch.int64)
            counts[dist.get_rank()] = len(mine)
            self.counts = all_reduce(counts).tolist()
            self.before = sum(self.counts[: dist.get_rank()])

    def rows(self, values: Tensor) -> Tensor:
        """The rows of all workers; gradients flow back to their owners."""
        if len(self.counts) == 1:
            return values
        gathered: Tensor = _Gather.apply(values, self.counts, self.before)
        return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: list[int], before: int) -> Tensor:
        ctx.rows = slice(before, before + len(values))
        # Padded, since not every backend takes parts of different sizes.
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return all_reduce(grads[0].contiguous().clone())[ctx.rows], None, None
