"""Convolutions whose gradients do not depend on how the batch is divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmray.training.exact import conv1d

SHAPES = {
    "long": (16, 32, 32, 2, 16, 900),
    "wide": (128, 256, 4, 2, 2, 109),
    "few cells": (256, 512, 4, 2, 2, 13),
    "pointwise": (512, 18, 1, 1, 0, 4),
}


def case(name: str) -> tuple[nn.Conv1d, Tensor, Tensor]:
    channels, outputs, kernel, stride, padding, length = SHAPES[name]
    torch.manual_seed(0)
    conv = nn.Conv1d(channels, outputs, kernel, stride, padding)
    x = torch.randn(16, channels, length)
    return conv, x, torch.randn(conv(x).shape)


def gradients(y: Tensor, conv: nn.Conv1d, x: Tensor, grad: Tensor) -> list[Tensor]:
    assert conv.bias is not None
    return [y.detach(), *torch.autograd.grad(y, [x, conv.weight, conv.bias], grad)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_layer(name: str, channels_last: bool) -> None:
    conv, x, grad = case(name)
    x.requires_grad_()
    ours = gradients(conv1d(x, conv, channels_last=channels_last), conv, x, grad)
    for value, expected in zip(ours, gradients(conv(x), conv, x, grad), strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(value / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_dividing_the_batch_changes_no_bit(name: str) -> None:
    conv, x, grad = case(name)
    x.requires_grad_()
    whole = gradients(conv1d(x, conv), conv, x, grad)
    parts = [
        gradients(conv1d(x[half], conv), conv, x, grad[half])
        for half in (slice(0, 8), slice(8, 16))
    ]
    assert torch.equal(torch.cat([p[0] for p in parts]), whole[0])
    assert torch.equal(parts[0][1] + parts[1][1], whole[1])  # each is 0 for the other's half
    for i in (2, 3):  # all that is lost is the one rounding of each result
        first, second, both = (g.double() for g in (parts[0][i], parts[1][i], whole[i]))
        rounding = (first.abs() + second.abs() + both.abs()) * 2.0**-24
        assert bool(((first + second - both).abs() <= rounding).all())


def test_frozen_parameters_get_no_gradient() -> None:
    conv, x, grad = case("few cells")
    assert conv.bias is not None
    conv.bias.requires_grad_(False)
    conv1d(x, conv).backward(grad)
    assert conv.bias.grad is None
    assert conv.weight.grad is not None
