"""Settings of a training run. Light: the jobs' command lines are made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Suppress

from mmray.errors import UserError


@dataclass(kw_only=True)
class TrainConfig:
    """How a task is trained, whatever the task."""

    steps: int | None = None
    """Optimizer steps; default: as many as --epochs asks for."""
    epochs: float = 60.0
    """Passes over the training rows, unless --steps is given."""
    min_steps: int = 0
    """Steps at least, where --epochs asks for fewer."""
    batch_size: int = 32
    """Examples per step, over all workers together."""
    num_workers: int = 0
    """Training processes; 0: one per GPU of the cluster, or one on a machine without GPUs."""
    elastic: tuple[int, int] | None = None
    """Instead: at least and at most so many, as nodes of the cluster come and go."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for the matrices of linear and attention layers; AdamW for the rest."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up; cosine ends at 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay (0 for AdamW is Adam); not on biases and norms, and with muon on its
    matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this norm; 0: never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast, weights stay float32. auto: bf16 on GPUs, fp32 on CPUs."""
    eval_every: int = 200
    """Steps between evaluations on the split val; 0: only at the end."""
    eval_limit: int = 1024
    """Evaluate on at most so many rows."""
    checkpoint_every: int = 100
    """Steps between checkpoints; a killed run loses at most so many."""
    keep_checkpoints: int = 2
    """Keep the last N checkpoints, and the best."""
    log_every: int = 10
    """Steps between progress lines and tracked metrics."""
    loader_threads: int = 0
    """Threads that prepare batches in each worker; 0: 4 with a GPU, else 1."""
    max_failures: int = 3
    """How often killed workers are replaced, without a new checkpoint, before the job fails."""
    seed: Suppress[int] = 0
    """Seed of the weights, the order of the rows and the augmentation."""

    def check(self) -> None:
        """Check values that the types do not.

        Raises:
            UserError: names the flag.
        """
        for name in (
            "steps",
            "epochs",
            "batch_size",
            "lr",
            "log_every",
            "keep_checkpoints",
            "eval_limit",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}, expected more than 0")
        names = ("num_workers", "min_steps", "warmup", "weight_decay", "clip_norm", "eval_every")
        for name in (*names, "checkpoint_every", "loader_threads", "max_failures"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, expected 0 or more"
                )
        if self.elastic:
            fewest, most = self.elastic
            if not 1 <= fewest <= most:
                raise UserError(f"--elastic is {fewest} {most}, expected 1 <= MIN <= MAX")
            if self.num_workers:
                raise UserError(
                    f"--num-workers {self.num_workers} and --elastic {fewest} {most} contradict "
                    "each other; give one of them"
                )
        if not all(0 <= b < 1 for b in self.betas):
            raise UserError(f"--betas is {self.betas}, expected two numbers in [0, 1)")

    def defining(self) -> dict[str, Any]:
        """The settings that the losses depend on; a run is resumed only when they agree."""
        names = ["batch_size", "lr", "warmup", "schedule", "weight_decay", "betas", "clip_norm"]
        if self.schedule != "constant":  # the rate at a step depends on how many there are
            names.append("epochs" if self.steps is None else "steps")
        if self.schedule != "constant" and self.steps is None and self.min_steps:
            names.append("min_steps")
        if self.optimizer != "adamw":
            names.append("optimizer")
        values = dataclasses.asdict(self)
        return {name: _plain(values[name]) for name in (*names, "precision", "seed")}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(1, config.min_steps, round(config.epochs * steps_per_epoch))


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate of step `step` (from 0) of a run of `total` steps."""
    import math

    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, total - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
