"""The videos and pictures of a toy world, with what is known about them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import UserError
from mmray.sources.items import ImageItem, Segment, VideoItem

_TRUTH = ("object", "place", "colour", "weather")


def videos(where: str) -> Iterator[VideoItem]:
    """All videos of a toy world, broken ones too.

    Args:
        where: its folder; empty is the default world, which is made when it is not there yet.

    Raises:
        UserError: the folder is no complete toy world.
    """
    root = _root(where)
    table = pq.read_table(root / "truth" / "videos.parquet", columns=["key", "segments"])
    return (
        VideoItem(
            storage.absolute(root / row["key"]),
            row["key"],
            segments=[
                Segment(s["start_s"], s["end_s"], [f"object:{s['object']}", f"place:{s['place']}"])
                for s in row["segments"] or []
            ],
        )
        for row in sorted(table.to_pylist(), key=lambda row: row["key"])
    )


def images(where: str) -> Iterator[ImageItem]:
    """All pictures of a toy world; labels are such as `object:dog` and `other:cat`.

    Args:
        where: as in `videos`.

    Raises:
        UserError: the folder is no complete toy world.
    """
    root = _root(where)
    rows = _rows(root / "images.parquet", ["key", "tags", "captions"])
    truths = _rows(root / "truth" / "images.parquet", ["key", *_TRUTH, "others"])
    return (
        _image(root, row, truth)
        for row, truth in itertools.zip_longest(rows, truths, fillvalue={"key": None})
    )


def _image(root: Path, row: dict[str, Any], truth: dict[str, Any]) -> ImageItem:
    key = row["key"]
    if key is None or truth["key"] != key:
        raise UserError(
            f"{root}: images.parquet and truth/images.parquet tell of different pictures ({key} "
            f"and {truth['key']}); make the world again"
        )
    labels = [f"{name}:{truth[name]}" for name in _TRUTH]
    labels += [f"other:{name}" for name in truth["others"] or []]
    uri = storage.absolute(root / key)
    return ImageItem(uri, key, row["tags"] or [], row["captions"] or [], labels)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024, columns=columns):
            yield from batch.to_pylist()


def _root(where: str) -> Path:
    from mmray.toyworld.build import default_world

    root = storage.local_path(where).expanduser() if where else default_world()
    world = root / "world.json"
    if not world.is_file() or storage.read_json(world).get("kind") != "toyworld":
        raise UserError(f"toy:{where}: is not a complete toy world; expected its folder")
    return root
