"""Sums over the workers that `torch.distributed` has joined, of gradients above all.

A worker's loss is the mean over its own examples, weighed by its share of the batch, so the
gradients are to be added up. `mmray.training.exact` sums a gradient over examples in double
precision. To round it before workers add theirs up would lose what that is for, and to add up
within the backward pass would have all workers wait for the slowest at each layer. So layers leave
their sums here, and DistributedDataParallel, which sends gradients off while the backward pass
goes on, sends those.
"""

# No annotations from the future: torch looks at those of the hook.
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

BUCKET_MB = 4
"""On CPUs, where there is most to gain from sending gradients off early."""
_totals: dict[Tensor, Tensor] = {}


def num_workers() -> int:
    """Processes that `torch.distributed` has joined; 1 without it."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers, in place (the tensor itself where there is one)."""
    if num_workers() > 1:
        dist.all_reduce(values)
    return values


def gradient(parameter: Tensor, total: Tensor) -> Tensor:
    """The gradient of a parameter, for a backward pass to return.

    Args:
        parameter: of the model, a leaf.
        total: its gradient over this worker's examples, float64; kept, so not to be changed.
    """
    if num_workers() > 1:
        _totals[parameter] = total
    return total.float().view_as(parameter)


def wrap(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The model with gradients that are sums over all workers.

    Buffers are left alone: those that training changes, of norms and the like, come out of sums
    over all workers and are the same everywhere.
    """
    gpu = device.type == "cuda"
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device] if gpu else None,
        bucket_cap_mb=None if gpu else BUCKET_MB,
        gradient_as_bucket_view=True,
    )
    wrapped.broadcast_buffers = False  # as an argument it warns on new torch
    wrapped.register_comm_hook(None, _add_up)
    return wrapped


def _add_up(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Start to add up a bucket of gradients; DistributedDataParallel waits for the result."""
    flat = bucket.buffer()
    totals = [_totals.pop(p, None) for p in bucket.parameters()]
    if all(total is None for total in totals):
        work = dist.all_reduce(flat, async_op=True)
        future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return future
    pairs = zip(totals, bucket.gradients(), strict=True)
    values = torch.cat([(g.double() if t is None else t).flatten() for t, g in pairs])
    work = dist.all_reduce(values, async_op=True)
    future = work.get_future().then(lambda _: flat.copy_(values))
    return future
