"""The training loop that all tasks share; it knows nothing of what is learned.

A `Task` builds the model and says what its loss is. The loop does the rest: data-parallel steps,
learning rate, mixed precision, evaluation, checkpoints and going on from them. It runs in one
process or in each of several that `torch.distributed` has joined, whoever started them.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmray.errors import UserError
from mmray.training import parallel, sync_norm
from mmray.training.checkpoint import Checkpoints, State
from mmray.training.config import TrainConfig, learning_rate, total_steps
from mmray.training.loader import Batch, Loader, to_device
from mmray.training.optimizers import build_optimizer
from mmray.training.tracking import NullTracker, Tracker

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


class Task(Protocol[Model]):
    """What is learned: a small object that pickles, with all heavy things made in `build`."""

    @property
    def name(self) -> str:
        """Of the kind of model; the registry knows it as `mmray-NAME`."""

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The metric of `evaluate` by which the best checkpoint is chosen."""

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on, as JSON; a run is resumed only when it agrees."""

    def build(self) -> Model:
        """Make the model; random weights come from torch's global generator."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and more numbers to log.

        `model` may be wrapped: call it once with gradients, and take its parts only without.
        Loss and numbers must be means over the batch's examples, each with the same weight: the
        loop weighs them by the worker's share, which makes them means over the global batch.
        """

    def evaluate(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Metrics of each example, float [B] each; the loop averages them.

        NaN is for an example that has no such value, and does not count.
        """

    def save(self, model: Model, where: str, training: dict[str, Any]) -> None:
        """Write the model folder."""

    def pictures(self, model: Model) -> Mapping[str, bytes]:
        """PNG files by name that show what was learned; asked for at each evaluation."""


@dataclass(frozen=True)
class Progress:
    """What the loop reports now and then.

    Args:
        step: steps done.
        total: steps of the whole run.
        values: the loss and other numbers, over the steps since the last report; for an
            evaluation the metrics.
        samples_per_s: examples a second, over all workers.
        waiting: share of the time spent waiting for data, 0 to 1.
        workers: that train.
        evaluation: whether `values` are of an evaluation.
    """

    step: int
    total: int
    values: dict[str, float]
    samples_per_s: float = 0.0
    waiting: float = 0.0
    workers: int = 1
    evaluation: bool = False


class Diverged(UserError):
    """The loss is not finite."""


class Terminated(SystemExit):
    """SIGTERM came; a checkpoint was written. Ends the process with the code of a SIGTERM."""


def fit(
    task: Task[Any],
    train: Loader,
    val: Loader | None,
    config: TrainConfig,
    checkpoints: Checkpoints,
    *,
    device: torch.device | None = None,
    rank: int = 0,
    world_size: int = 1,
    tracker: Tracker | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    settings: Mapping[str, Any] | None = None,
    wanted: threading.Event | None = None,
) -> State:
    """Train to the last step, from the newest checkpoint if there is one.

    Args:
        task: what is learned.
        train: batches to train on; its share is that of `rank`.
        val: rows to evaluate on; None for no evaluation.
        config: how to train.
        checkpoints: of this run; only rank 0 writes there.
        device: default the CPU.
        rank: of this process among those that `torch.distributed` has joined.
        world_size: their number.
        tracker: where rank 0 logs metrics.
        report: called by rank 0 with progress.
        settings: what the losses depend on, kept in checkpoints.
        wanted: set, from any thread of any worker, when a checkpoint is wanted before the next one
            is due. It is written at the end of the log window; then the event is cleared.

    Returns:
        The state after the last step; its checkpoint is written.

    Raises:
        Diverged: a loss is not finite; names the step and the examples.
        UserError: the checkpoints there are of another run.
        Terminated: SIGTERM came and the run has stopped after a checkpoint.
    """
    run = _Run(
        task,
        train,
        val,
        config,
        checkpoints,
        device or torch.device("cpu"),
        rank,
        world_size,
        tracker or NullTracker(),
        report,
        wanted or threading.Event(),
    )
    run.setup(dict(settings or {}))
    with _sigterm() as stop:
        run.train(stop)
    return run.state


@dataclass
class _Run:
    task: Task[Any]
    data: Loader
    val: Loader | None
    config: TrainConfig
    checkpoints: Checkpoints
    device: torch.device
    rank: int
    world_size: int
    tracker: Tracker
    report: Callable[[Progress], None]
    wanted: threading.Event
    state: State = field(default_factory=State)

    def setup(self, settings: dict[str, Any]) -> None:
        """Build the model and its optimizer, and fill both from the newest checkpoint."""
        self.total = total_steps(self.config, self.data.steps_per_epoch)
        self.weight = self.data.share.weight(self.data.batch_size)
        torch.backends.cudnn.benchmark = True  # batches have one shape
        torch.manual_seed(self.config.seed)
        self.model = sync_norm.convert(self.task.build(), self.device).to(self.device).train()
        self.optimizer = build_optimizer(self.model, self.config)
        self.state = self._restore(settings)
        self.wrapped: nn.Module = self.model
        if self.world_size > 1:
            self.wrapped = parallel.wrap(self.model, self.device)
        bf16 = self.config.precision == "bf16" or (
            self.config.precision == "auto" and self.device.type == "cuda"
        )
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _restore(self, settings: dict[str, Any]) -> State:
        newest = self.checkpoints.newest() if self.rank == 0 else None
        step = int(self._sum(torch.tensor([newest.step if newest else 0]))[0])
        state = newest if self.rank == 0 else self.checkpoints.read(step)
        if not step:
            return State(settings=settings)
        if state is None:
            raise UserError(
                f"{self.checkpoints.path(step)}: is not seen by worker {self.rank}; "
                "--out must be a folder that all nodes share, or a URI"
            )
        check_settings(state.settings, settings, self.checkpoints.folder)
        self.checkpoints.load_model(step, self.model)
        self.checkpoints.load_optimizer(step, self.model, self.optimizer)
        return state

    def train(self, stop: threading.Event) -> None:
        """Run the steps that are left."""
        if self.state.step >= self.total:
            return
        window = _Window()
        batches = self.data.batches(self.state.step, self.total)
        for step in range(self.state.step, self.total):
            before = time.perf_counter()
            batch = next(batches)
            window.waited += time.perf_counter() - before
            window.add(batch["id"], *self._step(step, to_device(batch, self.device)))
            if not self._due(step + 1, self.config.log_every):
                continue
            signs = [stop.is_set(), self.wanted.is_set()]
            stopped, wanted = self._flush(window, step + 1, signs)
            window = _Window()
            best = self._due(step + 1, self.config.eval_every) and self._evaluate()
            if stopped or wanted or best or self._due(step + 1, self.config.checkpoint_every):
                self._save()
            if stopped and step + 1 < self.total:
                raise Terminated(128 + signal.SIGTERM)
            window.start = time.perf_counter()

    def _due(self, step: int, every: int) -> bool:
        if step == self.total:
            return True
        # All happens at the ends of log windows, where the workers talk to each other.
        log = self.config.log_every
        return step % log == 0 and every > 0 and step // every > (step - log) // every

    def _step(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # Dropout and the like: the same for a run that was killed as for one that was not.
        seed = np.random.SeedSequence([self.config.seed, step, self.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.total)
        with self.autocast:
            loss, more = self.task.loss(self.wrapped, batch)
        (loss * self.weight).backward()
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), {name: value.detach() for name, value in more.items()}

    def _flush(self, window: _Window, step: int, signs: list[bool]) -> list[bool]:
        """Share the window's numbers among the workers, check and report; whose signs any gave."""
        local = window.values()
        numbers = local.flatten() * self.weight
        shared = self._sum(torch.cat([numbers, torch.tensor(signs, dtype=numbers.dtype)]))
        values = shared[: -len(signs)].view(local.shape)
        finite = values[:, 0].isfinite()
        if not bool(finite.all()):
            self._diverged(window, local, step - len(local) + int((~finite).int().argmax()))
        self.state.step = step
        self.state.losses += values[:, 0].tolist()
        seconds = time.perf_counter() - window.start
        means = dict(zip(["loss", *window.names], values.mean(0).tolist(), strict=True))
        speed = len(local) * self.data.batch_size / seconds
        waiting = window.waited / seconds
        progress = Progress(step, self.total, means, speed, waiting, parallel.num_workers())
        self._tell(progress, "train", lr=learning_rate(self.config, step - 1, self.total))
        return [bool(sign > 0) for sign in shared[-len(signs) :]]

    def _diverged(self, window: _Window, local: Tensor, step: int) -> None:
        at = step - self.state.step
        mine = window.ids[at] if not bool(local[at, 0].isfinite()) else []
        everyone: list[list[str]] = [mine]
        if self.world_size > 1:
            everyone = [[] for _ in range(self.world_size)]
            dist.all_gather_object(everyone, mine)
        ids = ", ".join(sorted({i for part in everyone for i in part}))
        raise Diverged(
            f"the loss of step {step + 1} is not finite, with the examples {ids}; try a smaller "
            f"--lr or --clip-norm 1, or look at those examples. Checkpoints up to step "
            f"{self.state.step} are kept"
        )

    @torch.no_grad()
    def _evaluate(self) -> bool:
        """Metrics of the split val, over all workers; whether they are the best so far."""
        if self.val is None:
            return False
        self.model.eval()
        sums: dict[str, Tensor] = {}
        for batch in self.val.in_order():
            with self.autocast:
                metrics = self.task.evaluate(self.model, to_device(batch, self.device))
            for name, values in metrics.items():
                known = values.double()[~values.isnan()]
                both = torch.stack([known.sum(), known.new_tensor(len(known))])
                sums[name] = sums.get(name, 0.0) + both
        self._show()
        self.model.train()
        means = self._means(sums)
        self.state.evaluations.append({"step": self.state.step, **means})
        self._tell(Progress(self.state.step, self.total, means, evaluation=True), "val")
        name, better = self.task.leading
        value, best = means[name], self.state.best
        if not math.isfinite(value):  # else nothing would ever be better
            return False
        if best is not None and (value >= best if better == "min" else value <= best):
            return False
        self.state.best, self.state.best_step = value, self.state.step
        return True

    def _show(self) -> None:
        """Log what the task shows of the model as it is now."""
        if not self.rank:
            step = self.state.step
            self.tracker.pictures(step, pictures_of(self.task, self.model, step))

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Means over all workers of sums and counts; a worker with no rows knows no names."""
        names: list[Any] = [sorted(sums)]
        if self.world_size > 1:
            names = [None] * self.world_size
            dist.all_gather_object(names, sorted(sums))
        every = sorted({name for part in names for name in part})
        nothing = torch.zeros(2, dtype=torch.float64)
        local = [sums[name].cpu() if name in sums else nothing for name in every]
        totals = self._sum(torch.stack(local)) if every else nothing[None]
        values = (totals[:, 0] / totals[:, 1]).tolist()
        return dict(zip(every, values, strict=True)) if every else {}

    def _tell(self, progress: Progress, prefix: str, **more: float) -> None:
        if self.rank == 0:
            self.report(progress)
            values = {**progress.values, **more}
            if not progress.evaluation:
                values["samples_per_s"] = progress.samples_per_s
            finite = {f"{prefix}.{k}": v for k, v in values.items() if math.isfinite(v)}
            self.tracker.metrics(progress.step, finite)

    def _save(self) -> None:
        if self.rank == 0:
            self.checkpoints.save(self.state, self.model, self.optimizer)
        self.wanted.clear()  # by rank 0 when it is written

    def _sum(self, values: Tensor) -> Tensor:
        if self.world_size == 1:
            return values
        return parallel.all_reduce(values.to(self.device)).cpu()


@dataclass
class _Window:
    """The steps since the last time the workers talked."""

    start: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    ids: list[list[str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def add(self, ids: list[str], loss: Tensor, more: dict[str, Tensor]) -> None:
        self.ids.append(ids)
        self.names = list(more)
        self.rows.append(torch.stack([loss.float(), *(v.float() for v in more.values())]))

    def values(self) -> Tensor:
        """[steps, 1 + names], on the CPU; waits for a GPU to catch up."""
        return torch.stack(self.rows).cpu()


def pictures_of(task: Task[Model], model: Model, step: int) -> Mapping[str, bytes]:
    """`Task.pictures`, or none with a warning: a picture less is no reason to lose a training."""
    try:
        return task.pictures(model)
    except Exception as e:
        logger.warning("step %d: no pictures of what was learned (%s)", step, e)
        return {}


def check_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: str) -> None:
    """Refuse to go on under other settings: no command would describe the model.

    Args:
        found: settings that the checkpoints in `folder` were made with.
        wanted: settings of the run that is to go on from them.
        folder: of the checkpoints.

    Raises:
        UserError: names the first setting that differs.
    """
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{folder}: is a run with other settings ({name}: {found.get(name)!r} there, "
                f"{wanted.get(name)!r} here); give --overwrite to start afresh, or another --out"
            )


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; never set outside the main thread, where Python has no say."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
