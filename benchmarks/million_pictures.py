"""A million rows through `prepare_images`: the driver's memory, and whether the speed holds.

    python benchmarks/million_pictures.py [--rows 1000000] [--folder DIR]

A manifest lists `--rows` pictures of about 1 KB (a thousand files, each under a thousand keys).
The job is the real one on a Ray of its own: manifest, work list, decoders in child processes, a net
(untrained, of 16 pixels), Parquet shards. Prints, for each tenth of the rows, rows a second and the
driver's private memory; then the growth from row 10,000 to the end.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

import mmray
from mmray.cli import console

FILES, SIDE = 1000, 20
FROM_ROW = 10_000
MOST_GROWTH_MB, MOST_CHANGE = 100, 0.15


def write_source(folder: Path, rows: int) -> str:
    """The pictures and the manifest that lists them; its source."""
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(FILES):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(pictures / f"{i}.png")
    path = folder / "pictures.parquet"
    schema = pa.schema({"uri": pa.string(), "key": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, min(rows, start + 10_000))
            uris = [f"pictures/{i % FILES}.png" for i in numbers]
            writer.write_table(pa.table([uris, [f"{i:09d}" for i in numbers]], schema=schema))
    return f"manifest:{path}"


def write_net(folder: Path) -> str:
    """The spec of an untrained net of 16 pixels."""
    import torch

    from mmray.teachers import nets, train

    torch.manual_seed(0)
    net = nets.new_net("tiny", ["a", "b", "c"], 16, [4, 8, 8])
    training = {"options": {"source": "nothing"}, "what": "objects", "num_train": 0, "num_test": 0}
    train.save(net.eval(), str(folder), training | {"accuracy": 0.3, "nll": 1.1, "ece": 0.0})
    return f"mmray:{folder}"


class Memory:
    """The driver's private memory over time, in MB, from a thread."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._process = psutil.Process()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.samples.append((time.time(), self._process.memory_full_info().uss / 1e6))
            time.sleep(1)

    def at(self, moment: float) -> float:
        """What it was at a time."""
        return min(self.samples, key=lambda sample: abs(sample[0] - moment))[1]

    def most(self, start: float, stop: float) -> float:
        """The most between two times."""
        return max(mb for moment, mb in self.samples if start <= moment <= stop)


def main() -> None:
    """Make the source, run the job, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the files go; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as where:
        run(Path(where), args.rows)


def run(folder: Path, rows: int) -> None:
    """Run the job over `rows` rows, and print what it took."""
    from mmray.pipeline.images import ImageOptions, prepare_images

    net = write_net(folder / "net")
    options = ImageOptions(source=write_source(folder, rows), backbone=(net,), objects=net)
    mmray.init()
    memory, start = Memory(), time.time()
    prepared = prepare_images(options, str(folder / "out"))
    end = time.time()
    assert (prepared.rows, prepared.errors) == (rows, 0), prepared
    parts = sorted(p.stat().st_mtime for p in (folder / "out").glob("part-*.parquet"))
    table = Table("rows", "rows/s", "driver's private memory, MB")
    speeds = []
    for tenth in range(10):
        first, last = (round(k * (len(parts) - 1) / 10) for k in (tenth, tenth + 1))
        speeds.append((last - first) * rows / len(parts) / (parts[last] - parts[first]))
        done = round((last + 1) * rows / len(parts))
        table.add_row(f"{done:,}", f"{speeds[-1]:.0f}", f"{memory.at(parts[last]):.0f}")
    console.print(table)
    early = parts[min(len(parts) - 1, round(FROM_ROW / rows * len(parts)))]
    console.print(
        f"{rows:,} rows in {end - start:.0f} s, the first after {parts[0] - start:.0f} s; "
        f"last tenth / first tenth: {speeds[-1] / speeds[0]:.2f}"
    )
    console.print(
        f"driver: {memory.at(early):.0f} MB at row {FROM_ROW:,}, at most "
        f"{memory.most(early, end):.0f} MB later, {memory.at(end):.0f} MB at the end; "
        f"while listing at most {memory.most(start, parts[0]):.0f} MB"
    )
    growth, pace = memory.most(early, end) - memory.at(early), speeds[-1] / speeds[0]
    if growth > MOST_GROWTH_MB or not 1 - MOST_CHANGE <= pace <= 1 + MOST_CHANGE:
        raise SystemExit(f"expected at most {MOST_GROWTH_MB} MB and {MOST_CHANGE:.0%} of change")


if __name__ == "__main__":
    main()
