"""Shards: the row groups of a work list, read by the first stage and written by the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from mmray import storage
from mmray.pipeline import dataset
from mmray.pipeline.stages import ERROR_COLUMNS, failed

FILE_SHARDS = 128
"""Shards in one file of a work list."""
SHARD_BYTES = 96 << 20
"""A shard is decoded, sent and written as a whole, so this bounds what a worker holds."""
MAX_ROWS = 256
"""Rows of a shard at most: of small ones more would only make progress coarse."""


def rows_within(row_bytes: int) -> int:
    """Rows of a shard whose decoded rows have so many bytes each."""
    return max(1, min(MAX_ROWS, SHARD_BYTES // row_bytes))


@dataclass(frozen=True)
class WorkList:
    """Rows to work on, cut into shards: a folder of Parquet files with one row group a shard.

    Many files, since whoever opens one reads its whole footer: one footer for a million shards
    would cost each of them more than its work.

    Args:
        uri: the folder.
    """

    uri: str

    @property
    def is_written(self) -> bool:
        """Whether the list is there, with all its rows."""
        return storage.exists(self._index_file)

    def write(self, tables: Iterable[pa.Table], schema: pa.Schema, rows_per_shard: int) -> None:
        """Write the list, streaming: no more than one file's rows are in memory.

        Where there are no rows at all, there is no list.
        """
        storage.remove(self.uri)  # what a killed run left
        rows = 0
        for number, table in enumerate(_of_size(tables, schema, rows_per_shard * FILE_SHARDS)):
            dataset.write_table(self._file(number), table, rows_per_shard)
            rows += table.num_rows
        if rows:
            storage.write_json(self._index_file, {"rows": rows, "rows_per_shard": rows_per_shard})

    @cached_property
    def _index(self) -> tuple[int, int]:
        index = storage.read_json(self._index_file)
        return index["rows"], index["rows_per_shard"]

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return self._index[0]

    @property
    def rows_per_shard(self) -> int:
        """Rows of each shard but the last, which may have fewer."""
        return self._index[1]

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_rows // self.rows_per_shard)

    def size(self, shard: int) -> int:
        """Rows of a shard."""
        return min(self.rows_per_shard, self.num_rows - shard * self.rows_per_shard)

    def read(self, shard: int) -> pa.Table:
        """The rows of a shard."""
        number, group = divmod(shard, FILE_SHARDS)
        return dataset.read_group(self._file(number), group)

    def pending(self, out: str) -> list[int]:
        """Shards that have no file in the folder `out` yet."""
        done = set(dataset.part_names(out))
        return [i for i in range(self.num_shards) if dataset.PART.format(i) not in done]

    @property
    def _index_file(self) -> str:
        return storage.join(self.uri, "index.json")

    def _file(self, number: int) -> str:
        return storage.join(self.uri, f"list-{number:05d}.parquet")


def _of_size(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows, the last with what is left."""
    buffer = schema.empty_table()
    for table in tables:
        buffer = pa.concat_tables([buffer, table.cast(schema)])
        while buffer.num_rows >= rows:
            yield buffer.slice(0, rows)
            buffer = buffer.slice(rows)
    if buffer.num_rows:
        yield buffer


@dataclass
class ReadShard:
    """First stage: the rows of a shard, by its number."""

    work: WorkList

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The shard's rows of the work list, with its number in the column `shard`."""
        shard = rows["shard"][0].as_py()
        table = self.work.read(shard)
        return table.append_column("shard", pa.array([shard] * table.num_rows, pa.int64()))


@dataclass
class WriteShard:
    """Last stage: good rows to `out/part-N.parquet`, failed ones to `errors/NAME-N.parquet`.

    Args:
        out: the dataset folder.
        columns: columns of the good rows, in the order in which they are written.
        errors: folder of the quarantine.
        name: prefix of the quarantine's files.
        row_group_size: rows of a row group; trainers read whole groups at random.
    """

    out: str
    columns: Sequence[str]
    errors: str
    name: str = "part"
    row_group_size: int = 16

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Write both files; the part last, since a shard counts as done once its part is there."""
        shard = rows["shard"][0].as_py()
        bad = pa.array(failed(rows))
        quarantined = rows.filter(bad)
        path = storage.join(self.errors, f"{self.name}-{shard:05d}.parquet")
        if not quarantined.num_rows:
            storage.remove(path)  # of a killed run, where a time-out may have struck
        else:
            stage, error_class, message = (quarantined[name] for name in ERROR_COLUMNS)
            values = [quarantined["id"], quarantined["uri"], stage, error_class, message]
            table = pa.table(values, schema=dataset.ERROR_SCHEMA)
            dataset.write_table(path, table)
        good = rows.filter(pc.invert(bad)).select(list(self.columns))
        path = storage.join(self.out, dataset.PART.format(shard))
        dataset.write_table(path, good, self.row_group_size)
        return pa.table(
            {"shard": [shard], "rows": [good.num_rows], "errors": [quarantined.num_rows]}
        )


def is_written(out: str, shard: int) -> bool:
    """Whether a shard is done."""
    return storage.exists(storage.join(out, dataset.PART.format(shard)))


def count_errors(out: str, errors: str, name: str = "part") -> int:
    """Quarantined rows of the shards that are done."""
    finished = {part.removeprefix("part-") for part in dataset.part_names(out)}
    files = [
        storage.join(errors, file)
        for file in storage.list_files(errors)
        if file.startswith(f"{name}-") and file.removeprefix(f"{name}-") in finished
    ]
    return sum(dataset.map_files(dataset.num_rows, files))


def reasons(errors: str) -> Counter[str]:
    """How often each reason was given in a quarantine folder, as `stage: message`."""
    counts: Counter[str] = Counter()
    files = [storage.join(errors, file) for file in storage.list_files(errors)]
    for table in dataset.map_files(dataset.read_table, files):
        counts.update(f"{r['stage']}: {r['message']}" for r in table.to_pylist())
    return counts
