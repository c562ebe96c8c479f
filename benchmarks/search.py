"""Search among a million vectors: the index against exact search, on one core.

    python benchmarks/search.py [--count 1000000] [--threads 1]

The vectors are unit vectors of dimension 256 on a curved sheet of 30 dimensions, in thousands of
clusters that overlap. Half of the measures use new vectors of the same kind as queries, half use
queries that lie beside the sheet, as texts do that look for pictures; the index of the second
half was told so by a sample of other such queries. Prints how long building took, the memory it
holds beyond the vectors' own, the size of the files, the time of single queries and recall@10,
beside faiss without an index and numpy. The three take turns, query after query, so that other
load on the machine hits all of them alike; CPU time leaves that load out.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import psutil
from rich.table import Table
from threadpoolctl import threadpool_limits

from mmray import cli
from mmray.joint.index import Index

DIM, SHEET_DIM, CLUSTERS, BLOCK, K = 256, 30, 4000, 50_000, 10
ASIDE = 2.0  # how far beside the sheet the other queries lie; the sheet is one away from 0
Vectors = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class Args:
    """Flags of this benchmark."""

    count: int = 1_000_000
    """Vectors to index."""
    queries: int = 300
    """Single queries to time, of each kind."""
    threads: int = 1
    """Threads that build; searches have one."""
    seed: int = 0
    """Seed of the vectors."""


@dataclass(frozen=True)
class Speed:
    """Times of single queries in milliseconds, and recall@10, of one way to search."""

    queries: str
    way: str
    p50_ms: float
    p95_ms: float
    cpu_p50_ms: float
    cpu_p95_ms: float
    recall: float


class Sheet:
    """Draws vectors of one world."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self._normal(CLUSTERS, SHEET_DIM)
        self.bend = 1.2 * self._normal(SHEET_DIM, 2 * DIM) / SHEET_DIM**0.5
        self.spread = self._normal(2 * DIM, DIM)
        # Few clusters are large and many small, as with what people photograph.
        sizes = (np.arange(CLUSTERS) + 20.0) ** -0.7
        self.sizes = sizes / sizes.sum()
        self.aside = unit(self._normal(1, DIM))

    def _normal(self, *shape: int) -> Vectors:
        return self.rng.standard_normal(shape, np.float32)

    def draw(self, count: int) -> Vectors:
        """Unit vectors [count, DIM]."""
        places = self.centres[self.rng.choice(CLUSTERS, count, p=self.sizes)]
        places += self._normal(count, SHEET_DIM)
        vectors = unit(np.tanh(places @ self.bend) @ self.spread)
        return unit(vectors + 0.1 * unit(self._normal(count, DIM)))

    def draw_aside(self, count: int) -> Vectors:
        """Unit vectors [count, DIM] beside the sheet, all on the same side."""
        return unit(self.draw(count) + ASIDE * self.aside)

    def blocks(self, count: int) -> Iterator[Vectors]:
        """As `draw`, block after block."""
        for start in range(0, count, BLOCK):
            yield self.draw(min(BLOCK, count - start))


def unit(vectors: Vectors) -> Vectors:
    """The same directions with length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numpy_search(vectors: Vectors, query: Vectors) -> npt.NDArray[np.int64]:
    """The K nearest, as one would write it without a library."""
    similarities = vectors @ query[0]
    return np.argpartition(similarities, -K)[-K:]


def own_memory() -> int:
    """Bytes of this process that are no pages of a file: those give way to whoever needs room."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def build(name: str, vectors: Vectors, sample: Vectors | None, folder: Path, threads: int) -> None:
    """Build an index, print what that took, and save it."""
    faiss.omp_set_num_threads(threads)
    start, cpu_start, before = time.perf_counter(), time.process_time(), own_memory()
    index = Index.build(vectors, [f"{i:08d}" for i in range(len(vectors))], queries=sample)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    index.save(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    cli.console.print(
        f"{name}: {len(vectors):,} vectors built in {seconds:.0f} s ({cpu_s:.0f} s CPU) with "
        f"{threads} threads; holds {(own_memory() - before) / 2**20:.0f} MiB, on disk "
        f"{size / 2**20:.0f} MiB; looks into {index.info.nprobe} lists, recall it promises "
        f"{index.info.recall:.3f}"
    )


def measure(name: str, vectors: Vectors, queries: Vectors, folder: Path) -> list[Speed]:
    """Time single queries on one core and compare what they find."""
    faiss.omp_set_num_threads(1)
    start, before = time.perf_counter(), own_memory()
    index = Index.load(folder)
    cli.console.print(
        f"{name}: loaded in {1000 * (time.perf_counter() - start):.0f} ms, holds "
        f"{(own_memory() - before) / 2**20:.0f} MiB, the rest stays on the disk"
    )
    ip = faiss.METRIC_INNER_PRODUCT
    ways: dict[str, Callable[[Vectors], npt.NDArray[np.int64]]] = {
        "index": lambda query: index.search(query, K).positions[0],
        "faiss, exact": lambda query: faiss.knn(query, vectors, K, metric=ip)[1][0],
        "numpy, exact": lambda query: numpy_search(vectors, query),
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    found: dict[str, list[set[int]]] = {way: [] for way in ways}
    with threadpool_limits(1):
        for query in queries[:, None]:
            for way, search in ways.items():
                start, cpu_start = time.perf_counter(), time.thread_time()
                positions = search(query)
                cpu_s = time.thread_time() - cpu_start
                times[way].append((time.perf_counter() - start, cpu_s))
                found[way].append({int(position) for position in positions})
    speeds = []
    for way in ways:
        (p50, cpu_p50), (p95, cpu_p95) = 1000 * np.percentile(times[way], (50, 95), axis=0)
        speeds.append(Speed(name, way, p50, p95, cpu_p50, cpu_p95, recall(found[way], found)))
    return speeds


def recall(found: list[set[int]], all_found: dict[str, list[set[int]]]) -> float:
    """Share of what exact search finds, 0 to 1."""
    truth = all_found["faiss, exact"]
    return float(np.mean([len(a & b) / len(b) for a, b in zip(found, truth, strict=True)]))


def main(argv: Sequence[str] | None = None) -> list[Speed]:
    """Build, measure and print a table."""
    args = cli.parse(Args, argv, __doc__)
    sheet = Sheet(args.seed)
    speeds: list[Speed] = []
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        path = Path(folder) / "vectors"
        with path.open("wb") as file:
            for block in sheet.blocks(args.count):
                file.write(block.data)
        vectors = np.memmap(path, np.float32, "r", shape=(args.count, DIM))
        sample = sheet.draw_aside(1000)
        kinds = {
            "same kind": (None, sheet.draw(args.queries)),
            "beside": (sample, sheet.draw_aside(args.queries)),
        }
        for name, (told, queries) in kinds.items():
            target = Path(folder) / name.replace(" ", "-")
            build(name, vectors, told, target, args.threads)
            speeds += measure(name, np.asarray(vectors), queries, target)
    table = Table(title=f"single queries, {os.cpu_count()} cores, one used", title_justify="left")
    for column in ("queries", "search", "p50 ms", "p95 ms", "CPU p50", "CPU p95", "recall@10"):
        table.add_column(column, justify="right")
    for s in speeds:
        milliseconds = (s.p50_ms, s.p95_ms, s.cpu_p50_ms, s.cpu_p95_ms)
        table.add_row(s.queries, s.way, *(f"{ms:.2f}" for ms in milliseconds), f"{s.recall:.3f}")
    cli.console.print(table)
    return speeds


if __name__ == "__main__":
    cli.run(main)
