"""A whole training, from a prepared dataset to a registered model folder."""

from __future__ import annotations

import dataclasses
import io
import logging
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmray import storage
from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.training import ray_train, tracking
from mmray.training.checkpoint import Checkpoints, State
from mmray.training.config import TrainConfig, total_steps
from mmray.training.loader import Examples, Loader, Share, rows_of
from mmray.training.loop import Task, check_settings, fit, pictures_of
from mmray.training.progress import TrainingProgress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training job has made.

    Args:
        path: the model folder.
        steps: optimizer steps.
        best_step: after which the model folder's weights were the best.
        losses: of every step, mean over the global batch.
        metrics: of the evaluation that the model folder's weights come from; empty without one.
        version: of the model in the registry.
        registry: MLflow's, which has it.
    """

    path: str
    steps: int
    best_step: int
    losses: list[float] = field(repr=False)
    metrics: dict[str, float]
    version: str | None
    registry: str = ""

    def line(self, name: str) -> str:
        """What a job says at its end; `name` is the kind of model."""
        steps = f"{self.steps} steps"
        if self.best_step != self.steps:
            steps += f" (best: {self.best_step})"
        numbers = [f"{key} {value:.4g}" for key, value in self.metrics.items()]
        registered = f"registered as models:/mmray-{name}/{self.version} of {self.registry}"
        return f"{self.path}: {', '.join([steps, *numbers, registered])}"


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to know; pickles to get there.

    Args:
        task: what is learned.
        examples: makes batches to train on of the dataset's rows.
        val_examples: makes batches to evaluate on.
        data: folder (path or URI) of the prepared dataset.
        kind: of the dataset: `clips` or `images`.
        out: folder (path or URI) that the job writes, shared by all nodes.
        config: how to train.
        limit: use only the first rows of each split.
        run: the MLflow run.
    """

    task: Task[Any]
    examples: Examples
    val_examples: Examples
    data: str
    kind: str
    out: str
    config: TrainConfig
    limit: int | None = None
    run: tracking.TrackedRun | None = None

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """What the losses depend on, flat and as JSON."""
        return {
            "dataset": dataset.sha256,
            "limit": self.limit,
            **self.config.defining(),
            **self.task.settings(),
        }


def train(job: Job, *, overwrite: bool = False) -> Trained:
    """Train, write the model folder `OUT/model`, track and register it.

    The same call again goes on from the last checkpoint, and ends at once when all is done.

    Raises:
        UserError: the settings, the dataset or what is in `out` do not allow it.
        mmray.cli.JobFailed: workers died too often, without a new checkpoint.
    """
    job = dataclasses.replace(job, data=storage.absolute(job.data), out=storage.absolute(job.out))
    job.config.check()
    dataset = Dataset(job.data, job.kind)
    workers = ray_train.num_workers(job.config.num_workers, job.config.elastic)
    most = workers if isinstance(workers, int) else max(workers)
    rows, _ = _loaders(job, dataset, Share(0, most))  # so that users' errors come early
    checkpoints, settings = Checkpoints(job.out), job.settings(dataset)
    if overwrite:
        for name in (checkpoints.folder, model_folder(job.out), tracking.note(job.out)):
            storage.remove(name)
    state = checkpoints.newest() or State()
    total = total_steps(job.config, rows.steps_per_epoch)
    if state.step:
        check_settings(state.settings, settings, checkpoints.folder)
        where = "is complete, at" if state.step >= total else "going on from"
        console.print(f"{job.out}: {where} step {state.step}")
    elif job.config.warmup >= total:
        logger.warning(
            "--warmup %d: the whole training has %d steps, so the learning rate stays below --lr; "
            "give a smaller --warmup, or more --steps or --epochs",
            *(job.config.warmup, total),
        )
    params = {**dataclasses.asdict(job.config), **settings}
    tags = {"mmray.dataset": job.data, "mmray.dataset_sha256": dataset.sha256}
    run = tracking.start(job.out, job.task.name, params, tags)
    job = dataclasses.replace(job, run=run)
    try:
        if state.step < total:
            console.print(ray_train.describe(workers, job.config.num_workers))
            _launch(job, workers)
        return _finish(job, run, settings)
    except BaseException as e:
        tracking.stop(run, e)
        raise


def _launch(job: Job, workers: ray_train.Workers) -> None:
    """Start workers until they end well; `--max-failures` times without a new checkpoint."""
    checkpoints = Checkpoints(job.out)
    with TrainingProgress(console) as report:
        while True:
            before = (checkpoints.newest() or State()).step
            try:
                return ray_train.launch(
                    partial(work, job),
                    report,
                    out=job.out,
                    workers=workers,
                    max_failures=job.config.max_failures,
                )
            except JobFailed as e:
                step = (checkpoints.newest() or State()).step
                if step == before or not job.config.max_failures:
                    raise
                logger.warning("going on from step %d: %s", step, e)


def model_folder(out: str) -> str:
    """Where a training job writes its model."""
    return storage.join(out, "model")


def work(job: Job, worker: ray_train.Worker, report: ray_train.Report) -> None:
    """Train in one worker."""
    dataset = Dataset(job.data, job.kind)
    share = Share(worker.rank, worker.world_size)
    train_rows, val_rows = _loaders(job, dataset, share, worker.device.type == "cuda")
    tracker: tracking.Tracker = tracking.NullTracker()
    if worker.rank == 0 and job.run is not None:
        tracker = tracking.MlflowTracker(job.run)
    try:
        fit(
            job.task,
            train_rows,
            val_rows,
            job.config,
            Checkpoints(job.out, job.config.keep_checkpoints),
            device=worker.device,
            rank=worker.rank,
            world_size=worker.world_size,
            tracker=tracker,
            report=report,
            settings=job.settings(dataset),
            wanted=worker.wanted,
        )
    finally:
        tracker.close()


def _loaders(
    job: Job, dataset: Dataset, share: Share, gpu: bool = False
) -> tuple[Loader, Loader | None]:
    """Batches of the split train, and of val where it has rows."""
    load = partial(
        Loader,
        dataset,
        batch_size=job.config.batch_size,
        seed=job.config.seed,
        share=share,
        threads=job.config.loader_threads or (4 if gpu else 1),
        pin=gpu,
    )
    train_rows = load(examples=job.examples, split="train", limit=job.limit)
    if not len(rows_of(dataset, "val")):
        logger.warning("%s: has no rows of the split 'val'; nothing is evaluated", dataset.uri)
        return train_rows, None
    limits = [n for n in (job.limit, job.config.eval_limit) if n is not None]
    return train_rows, load(examples=job.val_examples, split="val", limit=min(limits))


def _finish(job: Job, run: tracking.TrackedRun, settings: dict[str, Any]) -> Trained:
    """Write the model folder from the best checkpoint, track and register it."""
    checkpoints = Checkpoints(job.out)
    state = checkpoints.newest()
    if state is None:
        raise UserError(
            f"{checkpoints.folder}: the workers' checkpoints are not seen here; --out must be a "
            "folder that all nodes share, or a URI"
        )
    step = state.step if state.best_step is None else state.best_step
    model = job.task.build()
    checkpoints.load_model(step, model)
    model.eval()
    found = [e for e in state.evaluations if e["step"] == step]
    metrics = {k: v for k, v in found[-1].items() if k != "step"} if found else {}
    training = {
        **settings,
        "data": job.data,
        "steps": state.step,
        "best_step": step,
        "val": metrics,
    }
    where = model_folder(job.out)
    job.task.save(model, where, training)
    pictures = {"losses.png": loss_curve(state), **pictures_of(job.task, model, step)}
    version = tracking.finish(run, where, f"mmray-{job.task.name}", pictures, state.step)
    registry = re.sub("//[^/@]*@", "//", run.uri)  # its password is nobody's business
    return Trained(where, state.step, step, state.losses, metrics, version, registry)


def loss_curve(state: State) -> bytes:
    """The losses of all steps, and their running mean, as a PNG file."""
    import numpy as np
    from matplotlib.figure import Figure

    losses = np.asarray(state.losses)
    steps = np.arange(1, len(losses) + 1)
    width = max(1, len(losses) // 50)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.5, alpha=0.5, label="loss of each step")
    mean = np.convolve(losses, np.ones(width) / width, "valid")
    axes.plot(steps[width - 1 :], mean, label=f"mean of {width} steps")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
