"""ONNX Runtime against torch, for a teacher on a CPU.

    python benchmarks/teacher_inference.py

Prints pictures a second of EfficientNet-lite0 and, for each number of threads and batch size,
how many times as fast ONNX Runtime is as torch in eager mode, in both memory layouts. The three
take turns, round after round, so that other load on the machine hits all of them alike; each
counts with its best round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from mmray import cli
from mmray.teachers import runtimes
from mmray.teachers.recipes import recipe_of

TEACHER = "efficientnet_lite0"


@dataclass(frozen=True)
class Speed:
    """Pictures a second for one number of threads and one batch size."""

    threads: int
    batch: int
    onnx: float
    eager: float
    channels_last: float


def measure(threads: int, batch: int, rounds: int) -> Speed:
    """Time the three on the same pictures."""
    recipe = recipe_of(TEACHER)
    graph, info = runtimes.exported(recipe)
    onnx = runtimes.OnnxRuntime(graph, threads)
    eager = recipe.build()
    channels_last = runtimes.TorchRuntime(recipe.build(), "cpu", torch.float32)
    shape = (batch, info.size, info.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def run_eager() -> None:
        # Planes of one colour after another, as most code hands pictures to torch.
        planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            pixels = (planes.float() - eager.mean) / eager.std
            eager.head(eager.body(pixels)).softmax(dim=-1)

    torch.set_num_threads(threads)
    runs: list[Callable[[], object]] = [
        lambda: onnx.run(images, ["probabilities"]),
        run_eager,
        lambda: channels_last.run(images, ["probabilities"]),
    ]
    best = [float("inf")] * len(runs)
    for turn in range(rounds + 1):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if turn:  # the first is for warming up
                best[i] = min(best[i], time.perf_counter() - start)
    return Speed(threads, batch, *(batch / seconds for seconds in best))


def main(rounds: int = 4) -> list[Speed]:
    """Measure and print a table."""
    speeds = [measure(threads, batch, rounds) for threads in (1, 2) for batch in (16, 64)]
    table = Table(title=f"{TEACHER}, pictures a second on the CPU", title_justify="left")
    columns = ("threads", "batch", "ONNX", "eager", "channels last")
    for name in (*columns, "ONNX / eager", "ONNX / channels last"):
        table.add_column(name, justify="right")
    for s in speeds:
        rates = [f"{rate:.0f}" for rate in (s.onnx, s.eager, s.channels_last)]
        ratios = [f"{s.onnx / s.eager:.1f}x", f"{s.onnx / s.channels_last:.1f}x"]
        table.add_row(str(s.threads), str(s.batch), *rates, *ratios)
    cli.console.print(table)
    return speeds


if __name__ == "__main__":
    main()
