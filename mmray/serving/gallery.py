"""Thumbnails and tags of the pictures that are searched, by id, from the disk.

A million thumbnails are 2.5 GB: they are copied once from the dataset's Parquet into one Arrow
file, which is mapped into memory and read where it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, read_schema

SCHEMA = pa.schema({"id": pa.string(), "thumbnail": pa.binary(), "tags": pa.list_(pa.string())})


class Gallery:
    """Thumbnails and tags of pictures.

    Args:
        table: of `SCHEMA`.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._rows = {name: row for row, name in enumerate(table["id"].to_pylist())}

    def __len__(self) -> int:
        return self._table.num_rows

    @classmethod
    def open(cls, where: str) -> Gallery:
        """The pictures of an image dataset.

        Raises:
            UserError: it is none, or it has no thumbnails.
        """
        dataset = Dataset(where, "images")
        file = storage.cache_dir() / "galleries" / f"{dataset.sha256}.arrow"
        if not file.exists():
            _check(dataset)
            with storage.atomic_path(file) as path:
                _copy(dataset, str(path))
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all())

    def show(self, ids: Sequence[str]) -> dict[str, tuple[list[str], bytes | None]]:
        """Tags and thumbnail of each of the pictures that are here, by id."""
        rows = {name: self._rows[name] for name in ids if name in self._rows}
        tags, thumbnails = self._table["tags"], self._table["thumbnail"]
        return {name: (tags[i].as_py() or [], thumbnails[i].as_py()) for name, i in rows.items()}


def _check(dataset: Dataset) -> None:
    for shard in dataset.shards[:1]:
        if missing := set(SCHEMA.names) - set(read_schema(shard).names):
            raise UserError(
                f"{dataset.uri}: has no column {', '.join(sorted(missing))} to show pictures with; "
                "make it with jobs/prepare_images.py"
            )


def _copy(dataset: Dataset, path: str) -> None:
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for table in dataset.batches(SCHEMA.names, 4096):
            writer.write_table(table.cast(SCHEMA))
