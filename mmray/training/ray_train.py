"""Starting workers with Ray Train. Nothing else talks to Ray Train.

Ray Train starts the workers, joins them with `torch.distributed`, and starts all of them again
when one dies. What a worker goes on from are the run's own checkpoints, the same as after a
killed driver, so Ray Train's are not used and nothing is reported to it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmray import runtime, storage
from mmray.cli import JobFailed
from mmray.errors import UserError

if TYPE_CHECKING:
    import torch

Report = Callable[[Any], None]
LOG_FOLDER = "ray_train"


@dataclass(frozen=True)
class Worker:
    """Which worker this process is, and what it may use."""

    rank: int
    world_size: int
    device: torch.device


def launch(
    work: Callable[[Worker, Report], None],
    report: Report,
    *,
    out: str,
    workers: int = 1,
    max_failures: int = 3,
) -> None:
    """Run `work` in each of several processes, or in this one in local mode.

    Args:
        work: called in each worker; pickled to get there, so a module's function or a `partial`
            of one. Workers that die are started again, all together, and call it again.
        report: called here with everything that the worker of rank 0 gives to its `Report`.
        out: folder (path or URI) that all nodes share.
        workers: number of processes; see `num_workers`.
        max_failures: how often workers are started again.

    Raises:
        UserError: raised by `work`.
        JobFailed: workers failed more than `max_failures` times.
    """
    if runtime.is_local():
        _use_cores(1)
        work(Worker(0, 1, _device()), report)
        return
    with _reports(report) as inbox:
        _fit(work, inbox, out, workers, max_failures)


def num_workers(wanted: int = 0) -> int:
    """How many workers to start.

    Args:
        wanted: by the user; 0 for one per GPU, or one on a cluster without GPUs.

    Raises:
        UserError: the cluster is too small.
    """
    if runtime.is_local():
        return 1
    gpus = _resource("GPU")
    if not wanted:
        return gpus or 1
    what, have = ("GPU", gpus) if gpus else ("CPU", _resource("CPU"))
    if wanted > have:
        raise UserError(
            f"--num-workers {wanted}: each worker needs a {what}, and the cluster has {have}"
        )
    return wanted


def _fit(
    work: Callable[[Worker, Report], None],
    inbox: Any,
    out: str,
    workers: int,
    max_failures: int,
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    name = f"attempt-{uuid.uuid4().hex[:8]}"  # with a name used before, Ray Train would restore
    folder = storage.join(out, LOG_FOLDER)
    use_gpu = bool(_resource("GPU"))
    trainer = TorchTrainer(
        _in_worker,
        train_loop_config={"work": work, "inbox": inbox},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as e:
        raise _plain(e, max_failures) from e
    finally:
        storage.remove(folder)


def _in_worker(config: dict[str, Any]) -> None:
    from ray.train import get_context

    context = get_context()
    _use_cores(context.get_local_world_size())
    worker = Worker(context.get_world_rank(), context.get_world_size(), _device())
    inbox = config["inbox"]
    try:
        config["work"](worker, inbox.put)
    except UserError as e:
        # Trying again would not help, and Ray Train tries again whatever was raised.
        inbox.put(e)


def _device() -> torch.device:
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    if runtime.is_local():
        return torch.device("cuda", 0)
    from ray.train.torch import get_device

    return get_device()


def _use_cores(workers: int) -> None:
    """Share this node's cores among its workers; Ray would leave each with one thread."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))


def _resource(name: str) -> int:
    import ray

    return int(ray.cluster_resources().get(name, 0))


@contextlib.contextmanager
def _reports(report: Report) -> Iterator[Any]:
    """A queue for workers; what they put there goes to `report`, in a thread of this process."""
    from ray.util.queue import Empty, Queue

    inbox = Queue(actor_options={"num_cpus": 0})
    done = threading.Event()
    errors: list[UserError] = []

    def take(item: Any) -> None:
        if isinstance(item, UserError):
            errors.append(item)
        else:
            report(item)

    def poll() -> None:
        while not done.is_set():
            with contextlib.suppress(Empty, queue.Empty):
                take(inbox.get(timeout=0.2))

    thread = threading.Thread(target=poll, name="mmray-reports", daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(Empty):
            while True:
                take(inbox.get_nowait())
        inbox.shutdown(force=True)
    if errors:
        raise errors[0]


def _plain(error: Exception, max_failures: int) -> Exception:
    """Ray Train's error as one that a person can read."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, UserError):
            return failure
    if failures:
        rank, failure = next(iter(failures.items()))
        return JobFailed(
            f"training failed, after {max_failures} new starts at most (--max-failures): worker "
            f"{rank} ended with {type(failure).__name__}: {failure}"
        )
    return error
