"""A table that lists videos: Parquet or CSV, local or remote."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import UserError
from mmray.sources.items import VideoItem

SUFFIXES = (".parquet", ".csv")

_TYPES = {
    "uri": pa.string(),
    "key": pa.string(),
    "start_s": pa.float64(),
    "duration_s": pa.float64(),
}
_COLUMNS = (*_TYPES, "labels")


def videos(where: str) -> Iterator[VideoItem]:
    """The videos that a table lists, row by row.

    Columns: `uri` (a relative one counts from the table's folder), and where known `start_s` and
    `duration_s` in seconds, `labels` (a list, or text with semicolons between labels) and `key`
    (default: the URI below the table's folder). Other columns are ignored.

    Raises:
        UserError: the file is missing, unreadable or lacks `uri`; later, a row has a value that
            cannot be, or there is no row. The message names the row.
    """
    if not where.lower().endswith(SUFFIXES):
        raise UserError(f"manifest:{where}: expected a file named *.parquet or *.csv")
    is_csv = where.lower().endswith(".csv")
    try:
        batches = _csv_batches(where) if is_csv else _parquet_batches(where)
        first = next(batches, None)
    except (pa.ArrowException, ValueError, OSError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{where}: cannot be read as a table ({_line(e)})") from e
    if first is None:
        raise UserError(f"{where}: has no rows")
    return _items(where, first, batches)


def _parquet_batches(where: str) -> Iterator[pa.RecordBatch]:
    with storage.open_file(where) as source:
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        _check_columns(where, names)
        columns = [name for name in _COLUMNS if name in names]
        yield from (b for b in file.iter_batches(1024, columns=columns) if b.num_rows)


def _csv_batches(where: str) -> Iterator[pa.RecordBatch]:
    # Labels are text in CSV, also where they look like numbers.
    convert = pa_csv.ConvertOptions(column_types={**_TYPES, "labels": pa.string()})
    with storage.open_file(where) as source:
        try:
            reader = pa_csv.open_csv(source, convert_options=convert)
        except pa.ArrowInvalid as e:
            if "Empty CSV" in str(e):
                return
            raise
        _check_columns(where, reader.schema.names)
        yield from (batch for batch in reader if batch.num_rows)


def _check_columns(where: str, names: list[str]) -> None:
    if "uri" not in names:
        raise UserError(f"{where}: has no column `uri`; its columns are: {', '.join(names)}")


def _items(
    where: str, first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]
) -> Iterator[VideoItem]:
    folder = where.rpartition("/")[0] or "."
    row = 0
    batch: pa.RecordBatch | None = first
    while batch is not None:
        for values in batch.to_pylist():
            row += 1
            yield _item(f"{where}: row {row}", values, folder)
        try:
            batch = next(rest, None)
        except (pa.ArrowException, OSError) as e:
            raise UserError(f"{where}: cannot be read after row {row} ({_line(e)})") from e


def _item(row: str, values: dict[str, Any], folder: str) -> VideoItem:
    uri = values["uri"]
    if not isinstance(uri, str) or not uri.strip():
        raise UserError(f"{row}: `uri` is {uri!r}; expected the path or URI of a video")
    if "://" in uri or uri.startswith("/"):
        full = uri
        key = uri.removeprefix(f"{storage.absolute(folder)}/")
    else:
        full, key = storage.join(storage.absolute(folder), uri), uri
    return VideoItem(
        full,
        values.get("key") or key,
        _labels(row, values.get("labels")),
        start_s=_seconds(row, "start_s", values.get("start_s"), least=0.0),
        duration_s=_seconds(row, "duration_s", values.get("duration_s"), least=1e-3),
    )


def _labels(row: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [label.strip() for label in value.split(";") if label.strip()]
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return value
    raise UserError(f"{row}: `labels` is {value!r}; expected text or a list of texts")


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
