"""Batch normalisation over the whole global batch, on CPUs too.

With plain BatchNorm each worker normalises by its own part of the batch, so the losses depend on
the number of workers. torch's `SyncBatchNorm` mends this on GPUs and refuses CPU tensors;
`GlobalBatchNorm` does the same over any process group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmray.training.parallel import all_reduce, gradient, num_workers


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
        flat = x.reshape(*x.shape[:2], -1)
        y, mean, var, count = _Normalise.apply(flat, self.weight, self.bias, self.eps)
        update_running(self, mean, var, float(count))
        return y.view(x.shape)


class _Normalise(torch.autograd.Function):
    """y = weight * (x - mean) / sqrt(var + eps) + bias for [B, C, L], mean over all workers.

    Sums over the L values of an example are in single precision, sums over examples and workers
    in double: their order then does not show in the result, so the number of workers does not.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        length = x.shape[2]
        local = x.mean(2, dtype=torch.float32)  # [B, C]
        centred = x.float() - local[:, :, None]
        squares = torch.linalg.vector_norm(centred, dim=2).double().square()
        means = local.double()
        sums = torch.stack(
            [
                torch.full_like(means[0], len(x) * length),
                length * means.sum(0),
                (squares + length * means.square()).sum(0),
            ]
        )
        count, total, total_squares = all_reduce(sums)
        mean64 = total / count
        var = (total_squares / count - mean64**2).clamp_min(0)
        rstd = (var + eps).rsqrt()
        shift = ((means - mean64) * rstd).float()[:, :, None]
        scaled = torch.addcmul(shift, centred, rstd.float()[:, None], out=centred)
        ctx.save_for_backward(scaled, weight, bias, rstd.float())
        ctx.count = float(count[0])
        outputs = mean64.float(), var.float(), count[0]
        ctx.mark_non_differentiable(*outputs)
        y = torch.addcmul(bias[:, None], scaled, weight[:, None])
        return y.to(x.dtype), *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled, weight, bias, rstd = ctx.saved_tensors
        grad = grads[0].float()
        parts = torch.stack([grad.sum(2), (grad * scaled).sum(2)])  # [2, B, C]
        mine = parts.double().sum(1)
        sums = all_reduce(mine.clone())
        mean_bias, mean_weight = (sums / ctx.count).float()[:, :, None]
        inner = torch.addcmul(grad - mean_bias, scaled, mean_weight, value=-1)
        grad_x = inner.mul_((weight * rstd)[:, None]).to(grads[0].dtype)
        return grad_x, gradient(weight, mine[1]), gradient(bias, mine[0]), None


def convert(model: nn.Module, device: torch.device) -> nn.Module:
    """Make all BatchNorms of a model take their statistics over all workers, in place.

    On GPUs torch's own SyncBatchNorm is used, and only where there is more than one.
    """
    if device.type == "cuda":
        several = num_workers() > 1
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if several else model
    for parent in model.modules():
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, GlobalBatchNorm):
                setattr(parent, name, GlobalBatchNorm.of(norm))
    return model
