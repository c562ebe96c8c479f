"""Convolutions on CPUs whose training does not depend on how many workers share the batch.

In single precision the order of a sum shows in its last bits, and the order of the sums over the
batch depends on who holds which examples. The last bits matter: Adam turns them into steps of
full size where a gradient is near 0, and a maximum that falls on another position is another
gradient, so that after some 10 steps of a deep net with random weights the losses of two runs
differ in the third digit. Here

- what is computed for one example uses kernels that give the same bits in any batch, and
- sums over examples and workers are in double precision and rounded once.

Gradients of the parameters are over the worker's own examples; `mmray.training.parallel` adds
them up, in double precision too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.training.parallel import gradient

FEW_CELLS = 32


def conv1d(x: Tensor, conv: nn.Conv1d, *, channels_last: bool = False) -> Tensor:
    """`conv(x)`, to train a model with.

    Args:
        x: float32 [B, C, L].
        conv: the layer; one group, no dilation.
        channels_last: compute in that layout, which is the fastest where channels are few.
    """
    # The kernels of pointwise convolutions do not give the same bits in any batch.
    double = conv.kernel_size[0] == 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    stride, padding = conv.stride[0], int(conv.padding[0])
    return _Conv.apply(x, conv.weight, conv.bias, stride, padding, layout, double)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        layout: torch.memory_format,
        double: bool,
    ) -> Tensor:
        wide = _wide(x, layout, double)
        ctx.save_for_backward(wide, weight, bias)
        ctx.arguments, ctx.layout, ctx.double = ([1, stride], [0, padding]), layout, double
        y = F.conv2d(wide, _wide(weight, layout, double), None, *ctx.arguments).squeeze(2).float()
        return y.contiguous() if bias is None else y + bias[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        stride, padding = ctx.arguments
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = torch.ops.aten.convolution_backward(
                _wide(grads[0], ctx.layout, ctx.double),
                x,
                _wide(weight, ctx.layout, ctx.double),
                *(None, stride, padding, [1, 1], False, [0, 0], 1, [True, False, False]),
            )[0]
            grad_x = grad_x.squeeze(2).float()
        if needs_weight:
            total = _weight_gradient(x.squeeze(2), grads[0], weight.shape, stride[1], padding[1])
            grad_weight = gradient(weight, total)
        if needs_bias:
            grad_bias = gradient(bias, grads[0].sum(2).double().sum(0))
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _wide(x: Tensor, layout: torch.memory_format, double: bool) -> Tensor:
    """[B, C, L] -> [B, C, 1, L]."""
    return (x.double() if double else x).unsqueeze(2).contiguous(memory_format=layout)


def _weight_gradient(
    x: Tensor, grad: Tensor, shape: torch.Size, stride: int, padding: int
) -> Tensor:
    """Gradient of a convolution's weight [O, C, k] as float64 [O, C * k].

    Args:
        x: the convolution's input, [B, C, L].
        grad: of its output, [B, O, cells].
        shape: of the weight.
        stride: of the convolution.
        padding: of the convolution.
    """
    outputs, channels, kernel = shape
    cells = grad.shape[2]
    windows = F.pad(x, (padding, padding)).unfold(2, kernel, stride)  # [B, C, cells, k]
    windows = windows.transpose(1, 2)
    if cells < FEW_CELLS:  # most of the work would be to add the examples' gradients
        flat = windows.reshape(-1, channels * kernel).double()
        return grad.transpose(0, 1).reshape(outputs, -1).double() @ flat
    total = grad.new_zeros(outputs, channels * kernel, dtype=torch.float64)
    # BLAS may add up in another order where memory is aligned otherwise, as in another batch.
    flat, one = grad.new_empty(cells, channels, kernel), grad.new_empty(outputs, cells)
    for example in range(len(x)):
        flat.copy_(windows[example])
        total += one.copy_(grad[example]) @ flat.view(cells, -1)
    return total
