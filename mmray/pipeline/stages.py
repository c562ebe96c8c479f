"""The contract of a pipeline stage: a plain class, a table of rows in, a table of rows out.

A stage is constructed in the driver with what describes it (so it must pickle cheaply), set up
once in each worker that runs it, and then called with one shard of rows after another. A row
that fails keeps its place and carries the reason in its error columns; later stages skip it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from mmray.errors import MediaError

ERROR_COLUMNS = ("error_stage", "error_class", "error_message")


class Stage(Protocol):
    """What the runner asks of a stage."""

    def setup(self) -> None:
        """Load what is needed; called once in each worker, before the first rows."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Process the rows of one shard; same rows, same order, other columns."""


@dataclass(frozen=True)
class Pool:
    """Stages that run one after another in the same worker, and how many such workers.

    Args:
        name: what people call such a worker.
        stages: the stages, first to last.
        size: number of workers.
        num_cpus: logical CPUs that a worker reserves.
        num_gpus: GPUs that a worker reserves.
        may_grow_to: number of workers when the cluster has grown; 0 for `size`.
        why: the reason for the number, for people.
    """

    name: str
    stages: Sequence[Stage]
    size: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    may_grow_to: int = 0
    why: str = ""

    @property
    def most(self) -> int:
        """The most workers that there may be."""
        return max(self.size, self.may_grow_to)


@dataclass
class Errors:
    """Collects the error columns of a shard, row by row."""

    num_rows: int
    values: dict[int, MediaError] = field(default_factory=dict)

    def add(self, row: int, error: MediaError) -> None:
        """Note that `row` failed."""
        self.values[row] = error

    def columns(self) -> dict[str, pa.Array]:
        """The three error columns; null where a row is fine."""
        rows = [self.values.get(i) for i in range(self.num_rows)]
        return {
            "error_stage": pa.array([e and e.stage for e in rows], pa.string()),
            "error_class": pa.array([e and _class(e) for e in rows], pa.string()),
            "error_message": pa.array([e and e.reason for e in rows], pa.string()),
        }


def _class(error: MediaError) -> str:
    cause = error.__cause__
    return error.cause or type(error if cause is None else cause).__name__


def failed(rows: pa.Table) -> list[bool]:
    """Which rows have failed in an earlier stage."""
    if "error_stage" not in rows.column_names:
        return [False] * rows.num_rows
    return [not null for null in rows["error_stage"].is_null().to_pylist()]


def with_columns(rows: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """The table with columns added; of errors, those of earlier stages stay."""
    for name, column in columns.items():
        if name in rows.column_names:
            both = pc.coalesce(rows[name], column)
            rows = rows.set_column(rows.column_names.index(name), name, both)
        else:
            rows = rows.append_column(name, column)
    return rows
