r"""Turn pictures, tagged or not, into a dataset of what frozen nets make of them.

On a laptop, with the toy world, a folder of pictures or a public data set:

    python jobs/prepare_images.py
    python jobs/prepare_images.py folder:pictures/ --out runs/pictures
    python jobs/prepare_images.py mirflickr:/data/mirflickr --out runs/mirflickr

On a cluster, with a list of millions of pictures in a bucket (parquet or csv with a column `uri`):

    ray job submit --working-dir . -- python jobs/prepare_images.py \
        manifest:s3://bucket/pictures.parquet --out s3://bucket/pictures

Sources: toy, folder:DIR, manifest:FILE, mirflickr:DIR, coco:DIR, flickr8k:DIR, flickr30k:DIR,
openclipart, stamps. The same command again goes on where the last run stopped. Files that cannot
be used are listed with their reason in OUT/errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmray import cli

if TYPE_CHECKING:
    from mmray.pipeline.job import Prepared


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of prepare_images."""

    source: Annotated[str, tyro.conf.Positional] = "toy"
    """toy, folder:DIR, manifest:FILE, mirflickr:DIR, coco:DIR, flickr8k:DIR, flickr30k:DIR,
    openclipart[:DIR] or stamps[:DIR]."""
    out: str = "runs/prepare_images"
    """Folder (or URI) of the image dataset."""
    backbone: tuple[str, ...] = ("efficientnet_lite0",)
    """Nets whose features are kept, joined: efficientnet_lite0, torchvision:NAME, mmray:DIR."""
    objects: str | None = None
    """Net whose classes are kept as `objects` (default: the backbone's first; the toy world has
    its own)."""
    fit: Literal["pad", "crop"] = "pad"
    """How pictures become squares: whole on white, or their middle."""
    grid: bool = False
    """Keep the last map of the backbone's first net too, for models that look at places: for
    efficientnet_lite0 7 x 7 x 1280, some 20 to 30 KB more a picture."""
    language: str | None = None
    """Language of the captions where the source has several, such as `de` (stamps; default:
    English)."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the pictures is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    nets: int | None = None
    """Workers with the nets (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 30.0
    """Time limit for decoding one picture; over it, the picture is quarantined."""


def main(argv: Sequence[str] | None = None) -> Prepared:
    """Parse flags, prepare, return the counts."""
    args = cli.parse(Args, argv, __doc__)
    import mmray
    from mmray.pipeline.images import ImageOptions, Workers, prepare_images

    options = ImageOptions(
        source=args.source,
        backbone=args.backbone,
        objects=_objects(args),
        fit=args.fit,
        limit=args.limit,
        grid=args.grid,
        language=args.language,
    )
    options.check()
    mmray.init(local_mode=args.local, address=args.address)
    return prepare_images(
        options,
        args.out,
        workers=Workers(decoders=args.decoders, nets=args.nets, timeout_s=args.timeout_s),
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


def _objects(args: Args) -> str:
    """The net of objects asked for; the toy world has one of its own, trained when missing."""
    if args.objects is not None:
        return args.objects
    if args.source.split(":")[0] == "toy":
        from mmray.teachers.train import toy_teacher

        return f"mmray:{toy_teacher('objects', args.source, seed=args.seed)}"
    return args.backbone[0] if args.backbone else ""


if __name__ == "__main__":
    cli.run(main)
