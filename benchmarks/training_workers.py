"""What a second training worker brings, where each has a core of its own.

    python benchmarks/training_workers.py                 # SoundNet, 16 to 64 sounds of 5 s a step
    python benchmarks/training_workers.py --batch-sizes 16 --seconds 20

One worker on one core, and two workers on two cores (gloo, one thread each), train the same
SoundNet on the same batches, with the loop and the loader of `jobs/distill_soundnet.py`. They take
turns, so that what else the machine does falls on both. Prints samples a second of each, their
ratio in each round and its spread, and the share of the time spent waiting for data.

How far to trust it: in each round two single workers also run at once, one on each core and each
for itself. What they reach together in place of 2.00 is what the cores leave each other (memory,
clock, neighbours on the machine); two workers that talk to each other cannot do better. CPU time
a step is that of one worker's process, and says on a busy machine too what talking costs: without
it, two workers would need half of it each.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from mmray import storage
from mmray.media.sound import to_pcm16
from mmray.pipeline import dataset
from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.distill import Student, soundnet_job
from mmray.training import ray_train
from mmray.training.config import TrainConfig
from mmray.training.loop import Progress
from mmray.training.train import Job, work

RATE, FRAMES, CLASSES = 22050, 4, 12
MODES = ("one", "two", "apart")


def write_clips(folder: Path, seconds: float, clips: int = 64) -> str:
    """A dataset of noise with random posteriors."""
    rng = np.random.default_rng(0)
    waves = 0.1 * rng.normal(size=(clips, round(seconds * RATE)))
    times = np.tile((np.arange(FRAMES, dtype=np.float32) + 0.5) * seconds / FRAMES, (clips, 1))
    posteriors = rng.dirichlet(np.ones(CLASSES), (clips, FRAMES)).astype(np.float16)
    columns = {
        "id": pa.array([f"clip{i}" for i in range(clips)]),
        "split": pa.array(["val"] + ["train"] * (clips - 1)),
        "duration_s": pa.array([seconds] * clips),
        "sample_rate": pa.array([RATE] * clips),
        "audio": pa.array([to_pcm16(wave) for wave in waves], pa.large_binary()),
        "frame_times": dataset.tensor_column(times, [FRAMES], "float32"),
    }
    names = [str(i) for i in range(CLASSES)]
    for head in ("objects", "scenes"):
        columns[head] = dataset.tensor_column(posteriors, [FRAMES, CLASSES], "float16")
    dataset.write_table(str(folder / dataset.PART.format(0)), pa.table(columns), 8)
    manifest = {
        "kind": "clips",
        "schema_version": dataset.SCHEMA_VERSION,
        "options": {"audio": "pcm16", "frame_s": seconds / FRAMES, "clip_s": seconds},
        "teachers": {head: {"classes": names} for head in ("objects", "scenes")},
        "counts": {"rows": clips, "errors": 0},
    }
    storage.write_json(folder / "manifest.json", manifest)
    return str(folder)


def job_of(data: str, out: str, batch_size: int, steps: int, crop_s: float) -> Job:
    """The training, in windows of three steps."""
    config = TrainConfig(
        steps=steps, batch_size=batch_size, log_every=3, eval_every=0, checkpoint_every=0
    )
    return soundnet_job(data, out, Student(crop_s=crop_s), config, AugmentConfig())


class Measured(NamedTuple):
    """Samples a second, the share of waiting for data, and CPU seconds of a step."""

    speed: float
    waiting: float
    cpu_s: float


def measure(make_job: Callable[[str], Job], mode: str, rank: int, store: str) -> Measured | None:
    """One worker's own training, or that of the pair, which rank 0 measures.

    The first window is for warming up.
    """
    together = mode == "two"
    if together:
        file = dist.FileStore(store, 2)
        dist.init_process_group("gloo", store=file, rank=rank, world_size=2)
    rank_here, world_size = (rank, 2) if together else (0, 1)
    windows: list[tuple[Progress, float]] = []
    try:
        with tempfile.TemporaryDirectory() as out:
            job = make_job(store + ".out" if together else out)
            worker = ray_train.Worker(rank_here, world_size, torch.device("cpu"))
            work(job, worker, lambda progress: windows.append((progress, time.process_time())))
    finally:
        if together:
            dist.destroy_process_group()
    if rank_here:
        return None
    reports, cpu = zip(*(w for w in windows if not w[0].evaluation), strict=True)
    return Measured(
        statistics.harmonic_mean([r.samples_per_s for r in reports[1:]]),
        statistics.mean(r.waiting for r in reports[1:]),
        (cpu[-1] - cpu[0]) / (reports[-1].step - reports[0].step),
    )


def serve(rank: int, core: int, make_job: Any, commands: Any, answers: Any) -> None:
    """A process on one core that measures what it is told."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    while command := commands.get():
        mode, store = command
        answers.put(measure(make_job, mode, rank, store))


def spread(values: Sequence[float]) -> str:
    """Half of the range, as a share of the median."""
    return f"±{(max(values) - min(values)) / 2 / statistics.median(values):.0%}"


def run(args: argparse.Namespace, batch_size: int, folder: Path) -> dict[str, list[Measured]]:
    """What was measured in each mode and round; speeds are of both workers together."""
    context = mp.get_context("spawn")
    data = write_clips(folder / "data", args.seconds + 1)
    sizes = {"batch_size": batch_size, "steps": args.steps, "crop_s": args.seconds}
    maker = partial(job_of, data, **sizes)
    answers = context.Queue()
    commands = [context.Queue() for _ in range(2)]
    processes = [
        context.Process(target=serve, args=(r, args.cores[r], maker, commands[r], answers))
        for r in range(2)
    ]
    for process in processes:
        process.start()
    found: dict[str, list[Measured]] = {mode: [] for mode in MODES}
    try:
        for i in range(args.rounds):
            for mode in MODES if i % 2 == 0 else MODES[::-1]:
                asked = commands[:1] if mode == "one" else commands
                for queue in asked:
                    queue.put((mode, str(folder / f"store{i}")))
                results = [answers.get(timeout=600) for _ in asked]
                speeds, waits, cpu = zip(*filter(None, results), strict=True)
                found[mode].append(Measured(sum(speeds), max(waits), statistics.mean(cpu)))
    finally:
        for queue in commands:
            queue.put(None)
        for process in processes:
            process.join(20)
            process.kill()
    return found


def table_of(found: dict[str, list[Measured]], title: str) -> Table:
    """One row for each mode."""
    columns = ("", "samples/s", "noise", "times one worker", "CPU a step", "waiting for data")
    table = Table(*columns, title=title)
    labels = {"one": "one worker", "two": "two workers", "apart": "two, each for itself"}
    ones = [m.speed for m in found["one"]]
    for mode, label in labels.items():
        speeds = [m.speed for m in found[mode]]
        ratios = [a / b for a, b in zip(speeds, ones, strict=True)]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(
            label,
            f"{statistics.median(speeds):.1f}",
            spread(speeds),
            told if mode != "one" else "",
            f"{statistics.median(m.cpu_s for m in found[mode]) * 1e3:.0f} ms",
            f"{max(m.waiting for m in found[mode]):.1%}",
        )
    return table


def main() -> None:
    """Measure and print a table for each size of batch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    args = parser.parse_args()
    for batch_size in args.batch_sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = run(args, batch_size, Path(folder))
        title = f"SoundNet, {batch_size} x {args.seconds:g} s a step, {args.rounds} rounds"
        Console().print(table_of(found, title))


if __name__ == "__main__":
    main()
