"""Batch normalisation over the whole global batch, on CPUs too.

With plain BatchNorm each worker normalises by its own part of the batch, so the losses depend on
the number of workers. torch's `SyncBatchNorm` mends this on GPUs and refuses CPU tensors;
`GlobalBatchNorm` does the same over any process group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def all_reduce(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers (the tensor itself where there is one)."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def update_running(norm: _BatchNorm, mean: Tensor, var: Tensor, count: float) -> None:
    """Move a BatchNorm's running statistics towards those of a batch of `count` values.

    Args:
        norm: a BatchNorm that tracks running statistics with a fixed momentum.
        mean: of the batch, [C].
        var: of the batch, without Bessel's correction, [C].
        count: values per channel in the batch.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        unbiased = var * (count / max(count - 1, 1))
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)


class GlobalBatchNorm(nn.BatchNorm1d):
    """`BatchNorm1d` whose batch is that of all workers together.

    Parameters and buffers are those of BatchNorm, so weights go from one to the other.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> GlobalBatchNorm:
        """The same norm, with the very parameters and buffers of `norm`."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] or [B, C, ...], normalised over all but C and over all workers."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        update_running(self, mean, var, float(count))
        return y


class _Normalise(torch.autograd.Function):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, with statistics over all workers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        over = [d for d in range(x.dim()) if d != 1]
        count = x.numel() / x.shape[1]
        local = x.mean(over, dtype=torch.float32)
        centred = x.float() - _channels(local, x)
        # Centred sums joined in double precision: no cancellation where |mean| >> std.
        mean64, squares = local.double(), centred.square().sum(over).double()
        ones = torch.ones_like(mean64)
        sums = all_reduce(torch.stack([count * ones, count * mean64, squares + count * mean64**2]))
        total = sums[0, 0]
        mean64 = sums[1] / total
        var = (sums[2] / total - mean64**2).clamp_min(0)
        rstd = (var + eps).rsqrt().float()
        mean, var = mean64.float(), var.float()
        scaled = centred.add_(_channels(local - mean, x)).mul_(_channels(rstd, x))
        ctx.save_for_backward(scaled, weight, rstd)
        ctx.total, ctx.over = total.float(), over
        ctx.mark_non_differentiable(mean, var, total)
        y = torch.addcmul(_channels(bias, x), scaled, _channels(weight, x))
        return y.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled, weight, rstd = ctx.saved_tensors
        grad = grads[0].float()
        # The weights' own gradients stay local: DistributedDataParallel averages them.
        grad_bias, grad_weight = grad.sum(ctx.over), (grad * scaled).sum(ctx.over)
        sums = all_reduce(torch.stack([grad_bias, grad_weight])) / ctx.total
        inner = grad - _channels(sums[0], grad) - scaled * _channels(sums[1], grad)
        grad_x = inner.mul_(_channels(weight * rstd, grad)).to(grads[0].dtype)
        return grad_x, grad_weight, grad_bias, None


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """[C] so shaped that it broadcasts over axis 1 of `like`."""
    return values.view(-1, *[1] * (like.dim() - 2))


def convert(model: nn.Module, device: torch.device) -> nn.Module:
    """Make all BatchNorms of a model take their statistics over all workers, in place.

    Nothing changes where there is one worker. On GPUs torch's own SyncBatchNorm is used.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in model.modules():
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, GlobalBatchNorm):
                setattr(parent, name, GlobalBatchNorm.of(norm))
    return model
