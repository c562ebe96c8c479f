"""Make a toy world of any size: `python -m mmray.toyworld DIR --num-images 8000 --num-videos 0`.

The jobs then take it as `toy:DIR`; without one they make a small world of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from mmray import cli


@dataclass(kw_only=True)
class Args:
    """Size and seed of the world."""

    out: Annotated[str, tyro.conf.Positional]
    """A local folder."""
    num_videos: int = 360
    """Videos, broken ones included."""
    num_images: int = 2000
    """Pictures."""
    broken: float = 0.05
    """Share of the videos that is broken on purpose."""
    seed: int = 0
    """The same seed gives the same world."""


def main(argv: Sequence[str] | None = None) -> str:
    """Parse flags, make the world, return its folder."""
    args = cli.parse(Args, argv, __doc__)
    from mmray.toyworld.build import make_world

    world = make_world(
        args.out,
        num_videos=args.num_videos,
        num_images=args.num_images,
        broken=args.broken,
        seed=args.seed,
    )
    cli.console.print(f"{world}: {args.num_videos} videos, {args.num_images} pictures")
    return str(world)


if __name__ == "__main__":
    cli.run(main)
