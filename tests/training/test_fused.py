"""The fused first layer computes what the separate layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmray.training.fused import conv_norm_relu_pool


def layers(
    channels: int = 6, kernel: int = 16, stride: int = 2
) -> tuple[nn.Conv1d, nn.BatchNorm1d]:
    torch.manual_seed(0)
    conv = nn.Conv1d(1, channels, kernel, stride, padding=kernel // 2)
    norm = nn.BatchNorm1d(channels)
    with torch.no_grad():
        norm.weight.normal_()  # of both signs
        norm.bias.normal_()
    return conv, norm


def run(x: Tensor, pool: int, fused: bool, **kwargs: int) -> dict[str, Tensor]:
    conv, norm = layers(**kwargs)
    if fused:
        y = conv_norm_relu_pool(x, conv, norm, pool)
    else:
        y = nn.functional.max_pool1d(torch.relu(norm(conv(x))), pool)
    torch.manual_seed(1)
    (y * torch.randn_like(y)).sum().backward()
    gradients = {
        "conv.weight": conv.weight.grad,
        "norm.weight": norm.weight.grad,
        "norm.bias": norm.bias.grad,
    }
    return {"y": y.detach(), **gradients, **dict(norm.named_buffers())}


@pytest.mark.parametrize("samples", [1000, 1001, 1006, 1014, 999])
@pytest.mark.parametrize(("kernel", "stride", "pool"), [(16, 2, 8), (8, 3, 4)])
def test_equals_separate_layers(samples: int, kernel: int, stride: int, pool: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(3, 1, samples)
    expected = run(x, pool, False, kernel=kernel, stride=stride)
    for name, value in run(x, pool, True, kernel=kernel, stride=stride).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=2e-5, msg=name)


def test_silence_and_constant_sound_share_the_gradient() -> None:
    x = torch.zeros(2, 1, 1000)
    x[1] = 0.7
    expected = run(x, 8, False)
    for name, value in run(x, 8, True).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_bias_of_the_convolution_only_moves_the_running_mean() -> None:
    conv, norm = layers()
    y = conv_norm_relu_pool(torch.randn(2, 1, 500), conv, norm, 8)
    y.sum().backward()
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert conv.bias.grad.abs().max() == 0
