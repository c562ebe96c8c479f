"""Shards: the row groups of a work list, read by the first stage and written by the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray import storage
from mmray.pipeline import dataset
from mmray.pipeline.stages import ERROR_COLUMNS, failed


def write_list(uri: str, tables: Iterable[pa.Table], schema: pa.Schema, rows_per_shard: int) -> int:
    """Write a work list, streaming: one Parquet file with one row group a shard.

    Returns:
        The number of rows.
    """
    count = 0
    with storage.atomic_path(uri) as path, pq.ParquetWriter(path, schema) as writer:
        buffer = schema.empty_table()
        for table in tables:
            count += table.num_rows
            buffer = pa.concat_tables([buffer, table.cast(schema)])
            while buffer.num_rows >= rows_per_shard:
                writer.write_table(buffer.slice(0, rows_per_shard))
                buffer = buffer.slice(rows_per_shard)
        if buffer.num_rows:
            writer.write_table(buffer)
    return count


def sizes(uri: str) -> list[int]:
    """Rows of each shard of a work list."""
    meta = dataset.open_parquet(uri).metadata
    return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]


def pending(uri: str, out: str) -> list[int]:
    """Shards of the work list `uri` that have no file in `out` yet."""
    done = set(dataset.part_names(out))
    return [i for i in range(len(sizes(uri))) if dataset.PART.format(i) not in done]


@dataclass
class ReadShard:
    """First stage: the rows of a shard, by its number."""

    work_list: str

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The shard's rows of the work list, with its number in the column `shard`."""
        shard = rows["shard"][0].as_py()
        table = dataset.open_parquet(self.work_list).read_row_group(shard)
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


def count_done(out: str, errors: str, name: str = "part") -> tuple[int, int]:
    """Rows and quarantined rows of the shards that are done."""
    parts = dataset.part_names(out)
    rows = sum(dataset.num_rows(storage.join(out, part)) for part in parts)
    finished = {part.removeprefix("part-") for part in parts}
    bad = sum(
        dataset.num_rows(storage.join(errors, file))
        for file in storage.list_files(errors)
        if file.startswith(f"{name}-") and file.removeprefix(f"{name}-") in finished
    )
    return rows, bad


def reasons(errors: str) -> Counter[str]:
    """How often each reason was given in a quarantine folder, as `stage: message`."""
    counts: Counter[str] = Counter()
    for file in storage.list_files(errors):
        table = dataset.read_table(storage.join(errors, file))
        counts.update(f"{r['stage']}: {r['message']}" for r in table.to_pylist())
    return counts
