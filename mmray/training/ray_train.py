"""Starting workers with Ray Train. Nothing else talks to Ray Train.

Ray Train starts the workers, joins them with `torch.distributed`, and starts all of them again
when one dies, or when an elastic training gets more or fewer of them. What a worker goes on from
are the run's own checkpoints, the same as after a killed driver, so Ray Train's are not used and
nothing is reported to it. Where Ray knows beforehand that workers will go, because others join
them or because a node is to be taken away, they are asked for a checkpoint first: see `_notices`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmray import runtime, storage
from mmray.cli import JobFailed
from mmray.errors import UserError

if TYPE_CHECKING:
    import torch
    from ray.train.torch import TorchTrainer

logger = logging.getLogger(__name__)

Report = Callable[[Any], None]
Workers = int | tuple[int, int]
"""How many, or the fewest and the most of an elastic training."""
LOG_FOLDER = "ray_train"
RESIZE_EVERY_S = 30.0
"""An elastic training looks so often for nodes that have come."""
NOTICE_EVERY_S = 10.0
"""While a node is being taken away, checkpoints are so far apart."""
RESIZE_WAIT_S = 60.0
"""A resize waits so long for a checkpoint, and then goes on without."""


@dataclass(frozen=True)
class Worker:
    """Which worker this process is, and what it may use.

    Args:
        rank: number of the worker.
        world_size: how many there are.
        device: to train on.
        wanted: set while a checkpoint is wanted before the next one is due.
    """

    rank: int
    world_size: int
    device: torch.device
    wanted: threading.Event = field(default_factory=threading.Event)


def launch(
    work: Callable[[Worker, Report], None],
    report: Report,
    *,
    out: str,
    workers: Workers = 1,
    max_failures: int = 3,
) -> None:
    """Run `work` in each of several processes, or in this one in local mode.

    Args:
        work: called in each worker; pickled to get there, so a module's function or a `partial`
            of one. Workers that die are started again, all together, and call it again.
        report: called here with everything that the worker of rank 0 gives to its `Report`.
        out: folder (path or URI) that all nodes share.
        workers: number of processes; see `num_workers`. With a fewest and a most, as many as there
            is room for; all are started again when nodes have come or gone.
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


def num_workers(wanted: int = 0, elastic: tuple[int, int] | None = None) -> Workers:
    """How many workers to start.

    Args:
        wanted: by the user; 0 for one per GPU, or one on a cluster without GPUs.
        elastic: the fewest and the most, instead.

    Raises:
        UserError: the cluster is too small for `wanted`. An elastic training waits for its nodes.
    """
    if runtime.is_local():
        return 1
    gpus = _resource("GPU")
    what, have = ("GPU", gpus) if gpus else ("CPU", _resource("CPU"))
    if elastic:
        if elastic[0] > have:
            logger.warning(
                "--elastic %d %d: each worker needs a %s, and the cluster has %d; training waits "
                "for more nodes",
                *(*elastic, what, have),
            )
        return elastic
    if not wanted:
        return gpus or 1
    if wanted > have:
        raise UserError(
            f"--num-workers {wanted}: each worker needs a {what}, and the cluster has {have}"
        )
    return wanted


def describe(workers: Workers, wanted: int = 0) -> str:
    """The workers in one line, with the reason for their number.

    Args:
        workers: as `num_workers` gives them.
        wanted: by the user.
    """
    if runtime.is_local():
        return "workers: this process alone, as always with --local"
    gpus, cpus = _resource("GPU"), _resource("CPU")
    if isinstance(workers, tuple):
        number, why = f"{workers[0]} to {workers[1]}", "as nodes come and go"
    else:
        number = str(workers)
        why = "one for each GPU" if gpus else "which uses all cores of its machine"
        why = "as told" if wanted else why
    return f"workers: {number} x training ({why}), on {cpus} CPUs and {gpus} GPUs"


def _fit(
    work: Callable[[Worker, Report], None],
    inbox: Any,
    out: str,
    workers: Workers,
    max_failures: int,
) -> None:
    folder = storage.join(out, LOG_FOLDER)
    for failures in itertools.count():
        try:
            _trainer({"work": work, "inbox": inbox}, folder, workers, max_failures).fit()
            return
        except Exception as e:
            if failures == max_failures or not (loss := _loss(e)):
                raise _plain(e, max_failures) from e
            logger.warning("what led the training was lost (%s); starting it again", loss)
        finally:
            storage.remove(folder)


def _trainer(
    config: dict[str, Any], folder: str, workers: Workers, max_failures: int
) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    name = f"attempt-{uuid.uuid4().hex[:8]}"  # with a name used before, Ray Train would restore
    use_gpu = bool(_resource("GPU"))
    scaling: dict[str, Any] = {"num_workers": workers, "use_gpu": use_gpu}
    if isinstance(workers, tuple):
        scaling["elastic_resize_monitor_interval_s"] = RESIZE_EVERY_S
    return TorchTrainer(
        _in_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            # Nodes that were taken away after a notice do not count; that is Ray's default.
            failure_config=FailureConfig(max_failures=max_failures),
            callbacks=_callbacks(),
        ),
    )


def _loss(error: Exception) -> str:
    """Which node or process went while Ray Train did not expect it, and so gave up; or nothing.

    It starts workers again that die while they train. Between, as they are started or stopped, it
    asks them and helpers of its own without heed.
    """
    from ray.exceptions import NodeDiedError, RayActorError, WorkerCrashedError

    cause = getattr(error, "controller_failure", error)
    return (
        str(cause) if isinstance(cause, (NodeDiedError, RayActorError, WorkerCrashedError)) else ""
    )


_wanted = threading.Event()
"""In a worker's process: `Worker.wanted`."""


def _in_worker(config: dict[str, Any]) -> None:
    from ray.train import get_context

    context = get_context()
    _use_cores(context.get_local_world_size())
    rank, world_size = context.get_world_rank(), context.get_world_size()
    config["work"](Worker(rank, world_size, _device(), _wanted), config["inbox"].put)


def _callbacks() -> list[Any]:
    from ray.train import UserCallback

    class Errors(UserCallback):
        """Runs in the controller, which would try again whatever a worker raised.

        It also stops the other workers, which wait for the one that has ended.
        """

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, UserError):
                    raise error

    return [Errors(), *_notices()]


def _notices() -> list[Any]:
    """What has workers write a checkpoint before Ray Train stops them.

    Ray tells a training of a notice by `ray.train.get_preemption_info`, which is a barrier with a
    round trip to an actor at each call, and of a resize not at all. Its controller knows of both,
    and reaches the workers while they train, which costs them nothing.
    """
    try:
        from ray.train.v2._internal.execution.callback import (
            ControllerCallback,
            WorkerGroupCallback,
        )
    except ImportError:  # not public; without it, the steps since the last checkpoint are lost
        logger.warning("this Ray has no callbacks: no checkpoints before nodes come or go")
        return []

    class Notices(ControllerCallback, WorkerGroupCallback):
        """Runs in the controller."""

        group: Any = None
        asked = 0.0

        def after_worker_group_start(self, worker_group: Any) -> None:
            self.group = worker_group

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            state, now = type(current_state).__name__, time.monotonic()
            if state == "ResizingState":  # the workers are stopped when this returns
                _ask(self.group, RESIZE_WAIT_S)
            elif state == "PreemptingState" and now - self.asked > NOTICE_EVERY_S:
                # They go on until the node is gone, or the time is up that it was given.
                self.asked = now
                _ask(self.group)

    return [Notices()]


def _ask(group: Any, wait_s: float = 0.0) -> None:
    """Have a group of workers write a checkpoint; wait at most so long for it."""
    import ray

    try:
        ray.get(group.execute_async(_save_soon, wait_s), timeout=wait_s + 10)
    except Exception as e:  # a worker is dead or stuck: Ray Train will see to it
        logger.warning("no checkpoint before workers stop (%s)", e)


def _save_soon(wait_s: float) -> None:
    """In the process of a worker, beside the thread that trains."""
    _wanted.set()
    end = time.monotonic() + wait_s
    while _wanted.is_set() and time.monotonic() < end:
        time.sleep(0.05)


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
    """What the cluster has, or will: of its GPUs the nodes may only be on their way."""
    from mmray.pipeline.run import resources, resources_at_most

    now, most = resources(), resources_at_most()
    if name == "GPU":
        return now.gpus or min(1, most.gpus)
    return now.cpus


@contextlib.contextmanager
def _reports(report: Report) -> Iterator[Any]:
    """A queue for workers; what they put there goes to `report`, in a thread of this process."""
    import ray
    from ray.util.queue import Empty, Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node: with another one that goes, the training would lose its voice.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    inbox = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            with contextlib.suppress(Empty, queue.Empty):
                report(inbox.get(timeout=0.2))

    thread = threading.Thread(target=poll, name="mmray-reports", daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(Empty):
            while True:
                report(inbox.get_nowait())
        inbox.shutdown(force=True)


def _plain(error: Exception, max_failures: int) -> Exception:
    """Ray Train's error as one that a person can read."""
    failures = getattr(error, "worker_failures", {})
    for failure in (*failures.values(), getattr(error, "controller_failure", None)):
        if isinstance(failure, UserError):
            return failure
    if failures:
        rank, failure = next(iter(failures.items()))
        return JobFailed(
            f"training failed, after {max_failures} new starts at most (--max-failures): worker "
            f"{rank} ended with {type(failure).__name__}: {failure}"
        )
    if loss := _loss(error):
        return JobFailed(
            f"training failed, after {max_failures} new starts (--max-failures): what led it was "
            f"lost ({loss})"
        )
    return error
