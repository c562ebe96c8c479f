"""Datasets on disk: Parquet shards, `manifest.json` and `errors/`.

Layout of a dataset folder (local or any URI):

    part-00000.parquet ...   the rows; plain Arrow types, readable without mmray or Ray
    errors/*.parquet         what was quarantined: id, uri, stage, error_class, message
    manifest.json            schema version, source, options, teachers, counts; written last
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray import parquet, storage
from mmray.errors import UserError

SCHEMA_VERSION = 1
FILES_AT_ONCE = 16
Result = TypeVar("Result")
PART = "part-{:05d}.parquet"
ERROR_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "uri", "stage", "error_class", "message")]
)


@dataclass(frozen=True)
class RowGroup:
    """A piece of a dataset that can be read on its own."""

    path: str
    group: int
    num_rows: int


class Dataset:
    """A prepared dataset, for reading.

    Args:
        uri: the folder.
        kind: `clips` or `images`: what the caller can use.

    Raises:
        UserError: the folder is missing, unfinished, or holds something else.
    """

    def __init__(self, uri: str, kind: str = "clips") -> None:
        self.uri = storage.absolute(uri)
        path = storage.join(self.uri, "manifest.json")
        if not storage.exists(path):
            raise UserError(
                f"{uri}: is not a finished dataset (no manifest.json); "
                f"make one with `python jobs/prepare_{'videos' if kind == 'clips' else 'images'}.py"
                f" SOURCE --out {uri}`"
            )
        self.manifest: dict[str, Any] = storage.read_json(path)
        found = self.manifest.get("kind") if isinstance(self.manifest, dict) else None
        if found != kind:
            raise UserError(f"{uri}: holds {found!r}, expected a dataset of {kind}")
        version = self.manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{uri}: has schema version {version}, this mmray reads version {SCHEMA_VERSION}; "
                "prepare it again"
            )
        if not isinstance(self.manifest.get("counts"), dict):
            raise UserError(f"{path}: lacks 'counts'; prepare the dataset again")

    @cached_property
    def sha256(self) -> str:
        """Hash of the manifest: changes whenever the data or how they were made changes."""
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names by teacher, for example `{"objects": [...], "scenes": [...]}`."""
        teachers = self.manifest.get("teachers", {})
        return {head: list(teacher["classes"]) for head, teacher in teachers.items()}

    @property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return int(self.manifest["counts"]["rows"])

    @cached_property
    def shards(self) -> list[str]:
        """Addresses of the shards, in order.

        Raises:
            UserError: some are lost.
        """
        names = part_names(self.uri)
        wanted = self.manifest["counts"].get("shards", len(names))
        if len(names) != wanted:
            raise UserError(
                f"{self.uri}: has {len(names)} shards, its manifest counts {wanted}; bring back "
                "what is missing, or prepare it again with --overwrite"
            )
        return [storage.join(self.uri, name) for name in names]

    @cached_property
    def _row_groups(self) -> list[RowGroup]:
        return [group for groups in map_files(row_groups_of, self.shards) for group in groups]

    def row_groups(self) -> list[RowGroup]:
        """All row groups, in order: the units of random access."""
        return self._row_groups

    def read_row_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """The rows of one row group."""
        return read_group(group.path, group.group, columns)

    def batches(
        self,
        columns: Sequence[str],
        batch_size: int = 64,
        split: str | None = None,
        limit: int | None = None,
    ) -> Iterator[pa.Table]:
        """Stream the rows in order, at most `batch_size` at a time, of one split or of all."""
        wanted = list(dict.fromkeys([*columns, *(["split"] if split else [])]))
        left = self.num_rows if limit is None else limit
        for path in self.shards:
            for batch in read_table(path, wanted).to_batches(max_chunksize=batch_size):
                table = pa.Table.from_batches([batch])
                if split:
                    table = table.filter(pc.equal(table["split"], split))
                table = table.select(list(columns)).slice(0, left)
                left -= table.num_rows
                if table.num_rows:
                    yield table
                if left <= 0:
                    return

    def read(
        self, columns: Sequence[str], split: str | None = None, limit: int | None = None
    ) -> pa.Table:
        """All rows of some (small) columns in one table."""
        if limit is None and not split:  # of many shards, at once
            read = partial(read_table, columns=list(columns))
            tables = list(map_files(read, self.shards))
        else:
            tables = list(self.batches(columns, 4096, split, limit))
        if tables:
            return pa.concat_tables(tables)
        schema = read_schema(self.shards[0]) if self.shards else pa.schema([])
        return pa.schema([schema.field(name) for name in columns]).empty_table()

    def errors(self) -> pa.Table:
        """Everything that was quarantined: id, uri, stage, error_class, message."""
        folder = storage.join(self.uri, "errors")
        names = [n for n in storage.list_files(folder) if n.endswith(".parquet")]
        tables = list(map_files(read_table, [storage.join(folder, name) for name in names]))
        return pa.concat_tables(tables) if tables else ERROR_SCHEMA.empty_table()


def part_names(uri: str) -> list[str]:
    """Names of the shards in a dataset folder, in order."""
    names = storage.list_files(uri)
    parts = [n for n in names if n.startswith("part-") and n.endswith(".parquet")]
    return sorted(parts, key=lambda name: (len(name), name))  # 99999 comes before 100000


def map_files(function: Callable[[str], Result], paths: Sequence[str]) -> Iterator[Result]:
    """`function(path)` of each file, in order; many at once, since each waits for the storage."""
    results: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="mmray-files") as pool:
        for path in paths:
            results.append(pool.submit(function, path))
            if len(results) >= 2 * FILES_AT_ONCE:  # results may be whole tables
                yield results.popleft().result()
        while results:
            yield results.popleft().result()


@storage.patient
def row_groups_of(uri: str) -> list[RowGroup]:
    """The row groups of one Parquet file, from its footer."""
    with _reading(uri) as file:
        meta = file.metadata
    return [RowGroup(uri, i, meta.row_group(i).num_rows) for i in range(meta.num_row_groups)]


@storage.patient
def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file, or some of its columns, as a table."""
    with _reading(uri) as file:
        return file.read(columns=None if columns is None else list(columns))


@storage.patient
def read_group(uri: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a Parquet file, or some of its columns."""
    with _reading(uri, f"row group {group} ") as file:
        return file.read_row_group(group, columns=None if columns is None else list(columns))


@storage.patient
def read_schema(uri: str) -> pa.Schema:
    """The columns of one Parquet file, from its footer."""
    with _reading(uri) as file:
        return file.schema_arrow


@storage.patient
def num_rows(uri: str) -> int:
    """Rows of one Parquet file, from its footer."""
    with _reading(uri) as file:
        return int(file.metadata.num_rows)


@contextlib.contextmanager
def _reading(uri: str, what: str = "") -> Iterator[pq.ParquetFile]:
    """An open Parquet file; a damaged one is not taken for a storage that is down."""
    remote = storage.is_remote(uri)
    try:
        yield open_parquet(uri)
    except UserError as e:
        if remote and isinstance(e.__cause__, OSError) and storage.is_answered(uri):
            raise storage.Unreadable(str(e)) from e
        raise
    except OSError as e:
        damaged = f"{uri}: {what}is damaged ({e}); bring it back"
        if remote and storage.is_answered(uri):
            raise storage.Unreadable(damaged) from e
        if not remote and e.errno is None:  # Arrow's; those of a disk have a number
            raise UserError(damaged) from e
        raise


def write_table(uri: str, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write one Parquet file, atomically."""
    with storage.atomic_path(uri) as path:
        pq.write_table(table, path, row_group_size=row_group_size, compression="zstd")


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet file; a bad one, or one that may run code, is a `UserError` that names it."""
    try:
        if storage.is_remote(uri):
            fs, path = storage.filesystem(uri)
            file = pq.ParquetFile(fs.open(path, "rb"))
        else:
            file = pq.ParquetFile(storage.local_path(uri))
    except UserError:
        raise
    except (pa.ArrowException, OSError, *parquet.TYPE_ERRORS) as e:
        raise UserError(f"{uri}: is not a readable Parquet file ({e})") from e
    parquet.check(file.schema_arrow, uri)
    return file


def tensor(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-shape tensor column as one array [rows, ...]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no chunks at all
            column = column.chunk(0)
    return column.to_numpy_ndarray()


def tensor_column(arrays: Iterable[np.ndarray], shape: Sequence[int], dtype: str) -> pa.Array:
    """Arrays of one shape as a fixed-shape tensor column, readable by plain pyarrow."""
    stacked = np.ascontiguousarray(np.asarray(list(arrays), dtype=dtype))
    flat = pa.array(stacked.reshape(-1))
    kind = pa.fixed_shape_tensor(flat.type, list(shape))
    size = int(np.prod(shape))
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, size))


def waveform(value: bytes, encoding: str) -> np.ndarray:
    """The `audio` value of a row as float32 [samples] in [-1, 1].

    Args:
        value: the bytes of the column `audio`.
        encoding: `manifest["options"]["audio"]`: `pcm16` or `flac`.
    """
    from mmray.media import sound

    return sound.from_flac(value) if encoding == "flac" else sound.from_pcm16(value)
