"""A table that lists videos or pictures: Parquet or CSV, local or remote."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mmray import parquet, storage
from mmray.errors import UserError
from mmray.sources.items import ImageItem, VideoItem

SUFFIXES = (".parquet", ".csv")

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Table:
    """A table to read; `types` are the columns that count, with their types in a CSV file."""

    where: str
    types: dict[str, pa.DataType]


# Lists are text in CSV, also where they look like numbers.
_VIDEO_TYPES = {
    **dict.fromkeys(("uri", "key", "labels"), pa.string()),
    **dict.fromkeys(("start_s", "duration_s"), pa.float64()),
}
_IMAGE_TYPES = dict.fromkeys(("uri", "key", "tags", "captions", "labels", "split"), pa.string())


def videos(where: str) -> Iterator[VideoItem]:
    """The videos that a table lists, row by row.

    Columns: `uri` (a relative one counts from the table's folder), and where known `start_s` and
    `duration_s` in seconds, `labels` (a list, or text with semicolons between labels) and `key`
    (default: the URI below the table's folder). Other columns are ignored.

    Raises:
        UserError: the file is missing, unreadable or lacks `uri`; later, a row has a value that
            cannot be, or there is no row. The message names the row.
    """
    return (_video(*row) for row in _rows(_Table(where, _VIDEO_TYPES)))


def images(where: str) -> Iterator[ImageItem]:
    """The pictures that a table lists, row by row.

    Columns: `uri` and `key` as in `videos`, and where known `tags`, `captions` and `labels` (a
    list, or text with semicolons between them) and `split` (train, val or test). Other columns
    are ignored.

    Raises:
        UserError: as `videos`.
    """
    return (_image(*row) for row in _rows(_Table(where, _IMAGE_TYPES)))


def _rows(table: _Table) -> Iterator[tuple[str, dict[str, Any], str]]:
    """For each row: what messages call it, its values, the folder of the table."""
    where = table.where
    if not where.lower().endswith(SUFFIXES):
        raise UserError(f"manifest:{where}: expected a file named *.parquet or *.csv")
    is_csv = where.lower().endswith(".csv")
    try:
        batches = _csv_batches(table) if is_csv else _parquet_batches(table)
        first = next(batches, None)
    except (pa.ArrowException, OSError, *parquet.TYPE_ERRORS) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{where}: cannot be read as a table ({_line(e)})") from e
    if first is None:
        raise UserError(f"{where}: has no rows")
    return _numbered(where, first, batches)


def _parquet_batches(table: _Table) -> Iterator[pa.RecordBatch]:
    with storage.open_file(table.where) as source:
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        _check_columns(table.where, names)
        columns = [name for name in table.types if name in names]
        parquet.check(file.schema_arrow, table.where, columns)
        yield from (b for b in file.iter_batches(1024, columns=columns) if b.num_rows)


def _csv_batches(table: _Table) -> Iterator[pa.RecordBatch]:
    convert = pa_csv.ConvertOptions(column_types=table.types)
    with storage.open_file(table.where) as source:
        try:
            reader = pa_csv.open_csv(source, convert_options=convert)
        except pa.ArrowInvalid as e:
            if "Empty CSV" in str(e):
                return
            raise
        _check_columns(table.where, reader.schema.names)
        yield from (batch for batch in reader if batch.num_rows)


def _check_columns(where: str, names: list[str]) -> None:
    if "uri" not in names:
        raise UserError(f"{where}: has no column `uri`; its columns are: {', '.join(names)}")


def _numbered(
    where: str, first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    folder = where.rpartition("/")[0] or "."
    row = 0
    batch: pa.RecordBatch | None = first
    while batch is not None:
        for values in batch.to_pylist():
            row += 1
            yield f"{where}: row {row}", values, folder
        try:
            batch = next(rest, None)
        except (pa.ArrowException, OSError) as e:
            raise UserError(f"{where}: cannot be read after row {row} ({_line(e)})") from e


def _video(row: str, values: dict[str, Any], folder: str) -> VideoItem:
    uri, key = _place(row, values, folder, "video")
    return VideoItem(
        uri,
        key,
        _texts(row, "labels", values.get("labels")),
        start_s=_seconds(row, "start_s", values.get("start_s"), least=0.0),
        duration_s=_seconds(row, "duration_s", values.get("duration_s"), least=1e-3),
    )


def _image(row: str, values: dict[str, Any], folder: str) -> ImageItem:
    uri, key = _place(row, values, folder, "picture")
    tags, captions, labels = (
        _texts(row, name, values.get(name)) for name in ("tags", "captions", "labels")
    )
    return ImageItem(uri, key, tags, captions, labels, _split(row, values.get("split")))


def _place(row: str, values: dict[str, Any], folder: str, what: str) -> tuple[str, str]:
    """The full URI of a row, and its key."""
    uri = values["uri"]
    if not isinstance(uri, str) or not uri.strip():
        raise UserError(f"{row}: `uri` is {uri!r}; expected the path or URI of a {what}")
    if "://" in uri or uri.startswith("/"):
        full = uri
        key = uri.removeprefix(f"{storage.absolute(folder)}/")
    else:
        full, key = storage.join(storage.absolute(folder), uri), uri
    return full, values.get("key") or key


def _texts(row: str, name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [text.strip() for text in value.split(";") if text.strip()]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise UserError(f"{row}: `{name}` is {value!r}; expected text or a list of texts")


def _split(row: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if value not in SPLITS:
        raise UserError(f"{row}: `split` is {value!r}; expected one of {', '.join(SPLITS)}")
    return value


def _seconds(row: str, name: str, value: Any, least: float) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < least:
        raise UserError(f"{row}: `{name}` is {value!r}; expected seconds, {least:g} or more")
    return seconds


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
