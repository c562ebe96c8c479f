"""Convolution, BatchNorm, ReLU and max pooling in one step, for training on CPUs.

The first layer of a net on raw waveforms makes the largest tensors of all (SoundNet's conv1: 16
values for every two samples), and most of the time goes into writing and reading them again. Here
they never exist as a whole:

- All outputs of one pooling cell come from one matrix product: `pool` shifted copies of each
  filter, applied every `pool * stride` samples, so the pooling is a maximum over the copies.
- BatchNorm and ReLU are monotone in each channel, so they follow the pooling. A channel with a
  negative gain would need the minimum: its filter's sign is turned, which is the same.
- BatchNorm's statistics are still those of the outputs before pooling, summed sound by sound, and
  over all workers.
- The backward pass computes the outputs again, one sound at a time in the processor's cache.

Equal to the separate layers up to rounding. Sums over sounds and workers are in double precision,
as in `mmray.training.exact`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.training.parallel import all_reduce, gradient
from mmray.training.sync_norm import update_running


def conv_norm_relu_pool(x: Tensor, conv: nn.Conv1d, norm: nn.BatchNorm1d, pool: int) -> Tensor:
    """`max_pool1d(relu(norm(conv(x))), pool)` in training mode, with statistics over all workers.

    Args:
        x: float32 [B, 1, samples]; gets no gradient.
        conv: one input channel, symmetric zero padding.
        norm: its running statistics are updated.
        pool: width and stride of the pooling.

    Returns:
        [B, C, cells // pool].
    """
    shape = _Shape.of(x, conv, pool)
    bias = torch.zeros_like(norm.bias) if conv.bias is None else conv.bias
    y, mean, var, count = _Fused.apply(
        x, conv.weight, bias, norm.weight, norm.bias, norm.eps, shape
    )
    update_running(norm, mean, var, float(count))
    return y


@dataclass(frozen=True)
class _Shape:
    """Sizes: `cells` outputs of the convolution, `pooled` after it, `rows` pooling cells begun."""

    pool: int
    kernel: int
    stride: int
    padding: int
    cells: int
    channels: int

    @classmethod
    def of(cls, x: Tensor, conv: nn.Conv1d, pool: int) -> _Shape:
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        cells = (x.shape[-1] + 2 * padding - kernel) // stride + 1
        return cls(pool, kernel, stride, padding, cells, conv.out_channels)

    @property
    def pooled(self) -> int:
        return self.cells // self.pool

    @property
    def rows(self) -> int:
        return -(-self.cells // self.pool)

    @property
    def hop(self) -> int:
        return self.pool * self.stride

    @property
    def width(self) -> int:
        """Samples that one row sees."""
        return self.kernel + self.stride * (self.pool - 1)

    @property
    def last(self) -> int:
        """Cells in the last row."""
        return self.cells - (self.rows - 1) * self.pool

    def padded(self, x: Tensor) -> Tensor:
        """[B, 1, samples] -> [B, samples that the rows see]."""
        length = (self.rows - 1) * self.hop + self.width
        wave = F.pad(x[:, 0], (self.padding, max(0, length - x.shape[-1] - self.padding)))
        return wave[:, :length].contiguous()

    def copies(self, weight: Tensor) -> Tensor:
        """[C, kernel] -> [pool * C, width]: the filters shifted by each cell of a row."""
        out = weight.new_zeros(self.pool, self.channels, self.width)
        for cell in range(self.pool):
            out[cell, :, cell * self.stride : cell * self.stride + self.kernel] = weight
        return out.view(-1, self.width)

    def uncopied(self, grad: Tensor) -> Tensor:
        """The gradient of `copies`: [pool * C, width] -> [C, kernel]."""
        grad = grad.view(self.pool, self.channels, self.width)
        parts = [
            grad[cell, :, cell * self.stride : cell * self.stride + self.kernel]
            for cell in range(self.pool)
        ]
        return torch.stack(parts).sum(0)


class _Cells:
    """Outputs of the convolution (without bias), for one sound at a time, in one buffer."""

    def __init__(self, wave: Tensor, filters: Tensor, shape: _Shape) -> None:
        self.wave, self.filters, self.shape = wave, filters, shape
        self.windows = wave.new_empty(shape.width, shape.rows)
        self.buffer = wave.new_empty(len(filters), shape.rows)

    def of(self, sound: int) -> Tensor:
        """[pool, C, rows]; zero where the last row has no cell. Overwritten by the next call."""
        shape, wave = self.shape, self.wave[sound]
        size, stride = (shape.width, shape.rows), (1, shape.hop)
        self.windows.copy_(wave.as_strided(size, stride, wave.storage_offset()))
        torch.mm(self.filters, self.windows, out=self.buffer)
        cells = self.buffer.view(shape.pool, shape.channels, shape.rows)
        cells[shape.last :, :, -1] = 0
        return cells


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        shape: _Shape,
    ) -> tuple[Tensor, ...]:
        sign = torch.where(gain < 0, -1.0, 1.0)
        wave, filters = shape.padded(x), shape.copies(weight[:, 0] * sign[:, None])
        cells = _Cells(wave, filters, shape)
        top = x.new_empty(len(x), shape.channels, shape.rows)
        sums = x.new_zeros(3, shape.channels, dtype=torch.float64)
        sums[0] = len(x) * shape.cells
        for sound in range(len(x)):
            values = cells.of(sound)
            torch.amax(values, 0, out=top[sound])
            sums[1] += values.sum(2).double().sum(0)
            sums[2] += torch.linalg.vector_norm(values, dim=2).double().square().sum(0)
        all_reduce(sums)
        mean64 = sums[1] / sums[0]
        var = (sums[2] / sums[0] - mean64**2).clamp_min(0)
        rstd, mean = (var + eps).rsqrt().float(), mean64.float()
        factor = gain.abs() * rstd
        y = top[:, :, : shape.pooled] * factor[:, None]
        y.add_((shift - mean * factor)[:, None]).relu_()
        ctx.shape, ctx.count = shape, float(sums[0, 0])
        ctx.save_for_backward(wave, filters, top, y, weight, gain, shift, sign, mean, rstd)
        outputs = mean * sign + bias, var.float(), sums[0, 0]
        ctx.mark_non_differentiable(*outputs)
        return y, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wave, filters, top, y, weight, gain, shift, sign, mean, rstd = ctx.saved_tensors
        shape: _Shape = ctx.shape
        # As floats: a comparison that writes floats is several times faster than `where`.
        grad = grads[0] * torch.gt(y, 0, out=torch.empty_like(y))
        scaled = (top[:, :, : shape.pooled] - mean[:, None]) * rstd[:, None]
        parts = torch.stack([grad.sum(2), (grad * scaled).sum(2)])  # [2, B, C]
        mine = parts.double().sum(1)
        sums = all_reduce(mine.clone())
        grad = F.pad(grad, (0, shape.rows - shape.pooled))
        # Gradient of a cell: what reaches it through the pooling, minus what BatchNorm takes off
        # as a function of the cell's value (`slope * value + offset`).
        mean_shift, mean_size = (sums / ctx.count).float()
        slope = -(rstd * mean_size)
        offset = (-mean_shift - slope * mean)[None, :, None]
        slope = slope[None, :, None].expand(shape.pool, -1, 1)
        cells = _Cells(wave, filters, shape)
        reach = torch.empty_like(cells.buffer).view(shape.pool, shape.channels, shape.rows)
        total = torch.zeros_like(filters, dtype=torch.float64)
        for sound in range(len(wave)):
            values = cells.of(sound)
            torch.eq(values, top[sound], out=reach)
            reach.mul_(grad[sound] / reach.sum(0).clamp_min_(1))  # equal maxima share
            reach.add_(offset).addcmul_(values, slope)
            reach[shape.last :, :, -1] = 0
            total += reach.view(-1, shape.rows) @ cells.windows.t()
        factor = (gain.abs() * rstd * sign).double()[:, None]
        # BatchNorm takes the bias off again, so its gradient is 0.
        return (
            None,
            gradient(weight, shape.uncopied(total) * factor),
            torch.zeros_like(gain),
            gradient(gain, mine[1] * sign),
            gradient(shift, mine[0]),
            None,
            None,
        )
