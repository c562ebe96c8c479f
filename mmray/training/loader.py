"""Batches of a prepared dataset, in an order that depends on nothing but seed and step.

The rows of an epoch are the dataset's row groups in random order, with the rows of each shuffled:
`epoch_order`. A global batch has `B` slots; an epoch has `m = n // B` steps; slot `s` reads
`order[s * m]`, `order[s * m + 1]`, ... So each slot walks through few row groups, neighbours in a
batch come from all over the dataset, and worker `r` of `N` simply serves the slots from
`r * B // N` to `(r + 1) * B // N`: the batches are the same for any number of workers, and the
position in the data is the step number alone.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, RowGroup, tensor

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Batch = dict[str, Any]
"""Tensors whose first axis is the example, and `id`: a list of the rows' ids."""
CACHE_BYTES = 1 << 29
PREFETCH = 4


class Examples(Protocol):
    """How rows of a dataset become tensors; what a task brings to the loader."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """Make a batch of rows: tensors whose first axis is the example.

        Args:
            rows: one for each slot.
            neighbours: for each slot another row that is at hand, for mixing.
            rngs: for each slot the source of all its randomness; empty when evaluating.
        """


def epoch_order(group_of_row: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Order of the rows in an epoch: groups in random order, and the rows within each.

    Args:
        group_of_row: for each row the number of its row group, int [n].
        seed: of the run.
        epoch: from 0.

    Returns:
        A permutation of `range(n)`, int64 [n].
    """
    rng = np.random.default_rng([seed, epoch])
    groups = int(group_of_row.max()) + 1 if len(group_of_row) else 0
    rank = rng.permutation(groups)
    return np.lexsort((rng.random(len(group_of_row)), rank[group_of_row]))


@dataclass(frozen=True)
class Share:
    """Which part of each global batch a worker serves."""

    rank: int = 0
    world_size: int = 1

    def slots(self, batch_size: int) -> range:
        """The worker's slots; workers have equally many, or differ by one."""
        first, last = (r * batch_size // self.world_size for r in (self.rank, self.rank + 1))
        return range(first, last)

    def weight(self, batch_size: int) -> float:
        """How much the mean over the worker's examples weighs in that over the batch, 0 to 1."""
        return len(self.slots(batch_size)) / batch_size


class Loader:
    """Batches of one split of a dataset.

    Args:
        dataset: where the rows are.
        examples: makes batches of rows.
        split: `train` or `val`.
        batch_size: examples per global batch. When the split has fewer rows, smaller batches are
            made, with a warning.
        seed: of the order and the augmentation.
        share: the worker that this loader serves.
        limit: use only the first rows of the split.
        threads: that prepare batches ahead.
        pin: put tensors in page-locked memory, for copying them to a GPU.
        cache_bytes: of row groups kept in memory, in addition to those in use.

    Raises:
        UserError: the dataset lacks a column, the split is empty, or there are more workers than
            examples in a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        examples: Examples,
        *,
        split: str = "train",
        batch_size: int,
        seed: int = 0,
        share: Share | None = None,
        limit: int | None = None,
        threads: int = 1,
        pin: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.examples = examples
        self.seed = seed
        self.share = share or Share()
        self.threads = threads
        self.pin = pin
        self.rows = _RowIndex(dataset, split, limit)
        if not len(self.rows):
            raise UserError(f"{dataset.uri}: has no rows of the split {split!r}")
        self.batch_size = _fitting(batch_size, len(self.rows), self.share.world_size, split)
        self.steps_per_epoch = len(self.rows) // self.batch_size
        slots = len(self.share.slots(self.batch_size))
        self._cache = _GroupCache(dataset, ["id", *examples.columns], slots + 1, cache_bytes)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        """This worker's part of the batch of step `step` (from 0) of the run."""
        epoch, k = divmod(step, self.steps_per_epoch)
        order = self._epoch(epoch)
        slots = self.share.slots(self.batch_size)
        places = [slot * self.steps_per_epoch + k for slot in slots]
        return self._make(
            [self._row(order[p]) for p in places],
            [self._row(order[(p + 1) % len(order)]) for p in places],
            [np.random.default_rng([self.seed, step, slot]) for slot in slots],
        )

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop`, prepared ahead in the background."""
        return _ahead(self.batch, range(start, stop), self.threads)

    def in_order(self) -> Iterator[Batch]:
        """This worker's rows of the split, each once, in order and without augmentation."""
        mine = range(self.share.rank, len(self.rows), self.share.world_size)
        size = max(1, self.batch_size // self.share.world_size)
        starts = range(0, len(mine), size)
        return _ahead(lambda i: self._plain(mine[i : i + size]), starts, self.threads)

    def _plain(self, rows: Sequence[int]) -> Batch:
        values = [self._row(row) for row in rows]
        return self._make(values, values, [])

    def _make(
        self, rows: list[Row], neighbours: list[Row], rngs: list[np.random.Generator]
    ) -> Batch:
        batch = self.examples(rows, neighbours, rngs)
        if self.pin:
            batch = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()}
        return {"id": [row["id"] for row in rows], **batch}

    def _row(self, row: int) -> Row:
        group, at = self.rows.place(int(row))
        return self._cache.row(group, at)

    def _epoch(self, epoch: int) -> np.ndarray:
        with self._lock:
            if self._order[0] != epoch:
                self._order = (epoch, epoch_order(self.rows.group_of_row, self.seed, epoch))
            return self._order[1]


def rows_of(dataset: Dataset, split: str) -> np.ndarray:
    """The numbers of a split's rows in the dataset, int64 [n]."""
    splits = dataset.read(["split"])["split"].to_numpy(zero_copy_only=False)
    return np.flatnonzero(splits == split)


class _RowIndex:
    """Where the rows of one split are: their row groups, and their places in those."""

    def __init__(self, dataset: Dataset, split: str, limit: int | None) -> None:
        self.groups = dataset.row_groups()
        sizes = np.array([group.num_rows for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        rows = rows_of(dataset, split)[:limit]
        self.group_of_row = np.searchsorted(starts, rows, side="right") - 1
        self.row_in_group = rows - starts[self.group_of_row] if len(rows) else rows

    def __len__(self) -> int:
        return len(self.group_of_row)

    def place(self, row: int) -> tuple[RowGroup, int]:
        """The row group of a row, and the row's number in it."""
        return self.groups[self.group_of_row[row]], int(self.row_in_group[row])


def _fitting(batch_size: int, rows: int, world_size: int, split: str) -> int:
    if split != "train":
        return batch_size  # evaluation takes what there is
    if batch_size < world_size:
        raise UserError(
            f"--batch-size {batch_size} is less than one example for each of {world_size} workers; "
            "give a larger one or fewer workers"
        )
    if rows < world_size:
        raise UserError(
            f"the split {split!r} has {rows} rows for {world_size} workers; "
            "give fewer workers or more data"
        )
    if rows < batch_size:
        logger.warning("only %d rows to train on: the batch size is %d", rows, rows)
    return min(rows, batch_size)


class _Group:
    """One row group in memory: tensor columns as arrays, other columns as Arrow."""

    def __init__(self, table: pa.Table) -> None:
        self.num_bytes = table.nbytes
        self.columns = {
            name: tensor(table[name])
            if isinstance(table[name].type, pa.FixedShapeTensorType)
            else table[name]
            for name in table.column_names
        }

    def row(self, at: int) -> Row:
        return {
            name: column[at] if isinstance(column, np.ndarray) else column[at].as_py()
            for name, column in self.columns.items()
        }


class _GroupCache:
    """Row groups last used; safe to use from several threads."""

    def __init__(
        self, dataset: Dataset, columns: Sequence[str], least: int, most_bytes: int
    ) -> None:
        self.dataset = dataset
        self.columns = list(dict.fromkeys(columns))
        self.least, self.most_bytes = least, most_bytes
        self._groups: OrderedDict[RowGroup, Future[_Group]] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, group: RowGroup, at: int) -> Row:
        """A row of a row group, which is read when it is not in memory."""
        with self._lock:
            future = self._groups.get(group)
            mine = future is None
            if future is None:
                future = self._groups[group] = Future()
            self._groups.move_to_end(group)
        if mine:
            self._read(group, future)
        return future.result().row(at)

    def _table(self, group: RowGroup) -> _Group:
        try:
            return _Group(self.dataset.read_row_group(group, self.columns))
        except (pa.ArrowException, OSError) as e:
            raise UserError(
                f"{group.path}: row group {group.group} is damaged ({e}); bring the file back, or "
                "prepare the dataset again with --overwrite"
            ) from e

    def _read(self, group: RowGroup, future: Future[_Group]) -> None:
        try:
            future.set_result(self._table(group))
        except BaseException as e:
            with self._lock:
                self._groups.pop(group, None)
            future.set_exception(e)
            return
        with self._lock:
            done = [f.result().num_bytes for f in self._groups.values() if f.done()]
            total = sum(done)
            while len(self._groups) > self.least and total > self.most_bytes:
                _, oldest = self._groups.popitem(last=False)
                total -= oldest.result().num_bytes if oldest.done() else 0


def _ahead(make: Any, items: Sequence[int], threads: int) -> Iterator[Batch]:
    """Yield `make(item)` for all items in order, made by threads up to a few items ahead."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mmray-loader")
    futures: deque[Future[Batch]] = deque()
    todo = iter(items)
    try:
        for item in todo:
            futures.append(pool.submit(make, item))
            if len(futures) >= PREFETCH + threads:
                break
        while futures:
            batch = futures.popleft().result()
            for item in todo:
                futures.append(pool.submit(make, item))
                break
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors to a device."""
    if device.type == "cpu":
        return batch
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
