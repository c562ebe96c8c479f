"""How fast a SoundNet trains on this machine: one optimizer step, by kind of model and threads.

    python benchmarks/soundnet_training.py

Compares the plain model (separate layers) with what `jobs/distill_soundnet.py` trains, which
fuses the first convolution with its BatchNorm, ReLU and pooling. Prints milliseconds a step
(the best of several) and ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel
from mmray.soundnet.task import SoundNetTask
from mmray.training.loader import Batch
from mmray.training.sync_norm import convert


def batch_of(batch_size: int, seconds: float, classes: dict[str, list[str]]) -> Batch:
    """Noise, and random posteriors of one frame in the middle."""
    posteriors = {
        head: torch.randn(batch_size, 1, len(names)).softmax(-1) for head, names in classes.items()
    }
    return {
        "wave": torch.randn(batch_size, round(seconds * 22050)) * 0.1,
        "frame_times": torch.full((batch_size, 1), seconds / 2),
        "window_s": torch.full((batch_size,), min(5.0, seconds)),
        "weights": torch.ones(batch_size, 1),
        **posteriors,
    }


def step_of(task: SoundNetTask, model: torch.nn.Module, batch: Batch) -> Callable[[], None]:
    """One optimizer step."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        loss, _ = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def best_ms(step: Callable[[], None], repeats: int) -> float:
    """The shortest of several runs, in milliseconds."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="soundnet8", choices=("soundnet8", "soundnet5"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    names = [str(i) for i in range(12)]
    config = SoundNetConfig(arch=args.arch, objects=names, scenes=names)
    task = SoundNetTask(config)
    batch = batch_of(args.batch_size, args.seconds, config.classes)
    title = f"{args.arch}, {args.batch_size} x {args.seconds:g} s: ms a step"
    table = Table("threads", "separate layers", "trained", "ratio", title=title)
    for threads in args.threads:
        torch.set_num_threads(threads)
        plain = best_ms(step_of(task, SoundNetModel(config), batch), args.repeats)
        trained = convert(task.build(), torch.device("cpu")).train()
        ours = best_ms(step_of(task, trained, batch), args.repeats)
        table.add_row(str(threads), f"{plain:.0f}", f"{ours:.0f}", f"{plain / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
