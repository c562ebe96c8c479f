"""The trunk of a trained SoundNet as a faster module that computes the same.

For inference only: each BatchNorm is folded into its convolution, and the first convolution is
fused with the max pooling after it. That convolution makes most of the work and nearly all of
the memory traffic: 220,501 cells x 16 channels for 20 s, of which the pooling keeps one in 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmray.soundnet.model import ConvBlock, SoundNetModel


class PooledConv(nn.Module):
    """A convolution of one input channel, max pooling without overlap, ReLU: in one convolution.

    The convolution holds one shifted copy of each filter for each cell of a pooling window, and
    steps by whole windows; the pooling is then a maximum over the copies. Exact, since adding
    the bias and the ReLU are monotonous and can wait until after the maximum.

    Args:
        conv: the convolution, with any BatchNorm already folded in.
        pool: the cells of a pooling window (its kernel and its stride).
    """

    def __init__(self, conv: nn.Conv1d, pool: int) -> None:
        super().__init__()
        filters, channels, kernel = conv.weight.shape
        stride = conv.stride[0]
        wide = conv.weight.new_zeros(pool, filters, channels, kernel + (pool - 1) * stride)
        for copy in range(pool):
            wide[copy, :, :, copy * stride : copy * stride + kernel] = conv.weight.detach()
        self.pool, self.stride, self.padding = pool, pool * stride, int(conv.padding[0])
        self.weight = nn.Parameter(wide.flatten(0, 1))
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach()[:, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, L] -> [B, filters, cells of the pooling]."""
        x = F.conv1d(x, self.weight, stride=self.stride, padding=self.padding)
        return F.relu(x.unflatten(1, (self.pool, -1)).amax(1) + self.bias)


@torch.no_grad()
def fold_trunk(model: SoundNetModel) -> nn.ModuleDict:
    """All layers of the trunk except `conv1`, whose output exists only inside the fused `pool1`.

    Args:
        model: in evaluation mode.
    """
    folded = nn.ModuleDict()
    first, second, *rest = model.config.trunk
    block = model.trunk[first.name]
    assert isinstance(block, ConvBlock)
    folded[second.name] = PooledConv(fuse_conv_bn_eval(block.conv, block.norm), second.kernel)
    for layer in rest:
        module = model.trunk[layer.name]
        if isinstance(module, ConvBlock):
            module = nn.Sequential(fuse_conv_bn_eval(module.conv, module.norm), nn.ReLU(True))
        folded[layer.name] = module
    return folded.eval()
