"""The videos of a toy world, with what is known about them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import UserError
from mmray.sources.items import Segment, VideoItem


def videos(where: str) -> Iterator[VideoItem]:
    """All videos of a toy world, broken ones too.

    Args:
        where: its folder; empty is the default world, which is made when it is not there yet.

    Raises:
        UserError: the folder is no complete toy world.
    """
    from mmray.toyworld.build import default_world

    root = storage.local_path(where).expanduser() if where else default_world()
    world = root / "world.json"
    if not world.is_file() or storage.read_json(world).get("kind") != "toyworld":
        raise UserError(f"toy:{where}: is not a complete toy world; expected its folder")
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
