r"""Turn videos nobody labelled into a dataset of clips with what the teachers see in them.

On a laptop, with the toy world or a folder of videos:

    python jobs/prepare_videos.py
    python jobs/prepare_videos.py folder:videos/ --out runs/clips

On a cluster, with a list of millions of videos in a bucket (parquet or csv with a column `uri`):

    ray job submit --working-dir . -- python jobs/prepare_videos.py \
        manifest:s3://bucket/videos.parquet --scenes places365:resnet18_places365.pth.tar \
        --out s3://bucket/clips

The same command again goes on where the last run stopped. Files that cannot be used are listed
with their reason in OUT/errors.

What two million videos like these will take, and the cluster to ask for; OUT is not touched:

    python jobs/prepare_videos.py folder:videos/ --estimate --items 2000000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmray import cli, storage
from mmray.errors import UserError
from mmray.pipeline.budget import Nodes

if TYPE_CHECKING:
    from mmray.pipeline.estimate import Estimate
    from mmray.pipeline.videos import Prepared, VideoOptions


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of prepare_videos."""

    source: Annotated[str, tyro.conf.Positional] = "toy"
    """toy, toy:DIR, folder:DIR, manifest:FILE (parquet or csv with `uri`) or stamps:DIR."""
    out: str = "runs/prepare_videos"
    """Folder (or URI) of the clip dataset."""
    objects: str | None = None
    """Teacher of objects: efficientnet_lite0 (default), torchvision:NAME, mmray:DIR or none."""
    scenes: str | None = None
    """Teacher of scenes: places365:FILE, torchvision:NAME, mmray:DIR or none (default)."""
    clip_s: float = 20.0
    """Length of a clip in seconds."""
    frame_s: float = 5.0
    """One frame for the teachers every so many seconds."""
    min_clip_s: float = 2.0
    """A shorter rest at the end of a video is left out."""
    max_clips: int | None = None
    """Most clips of one video (default: all)."""
    frames: Literal["exact", "keyframe"] = "exact"
    """Decode the exact frames, or the nearest key frames (faster on long videos)."""
    audio: Literal["pcm16", "flac"] = "pcm16"
    """How sound is stored."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the items is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    teachers: int | None = None
    """Teacher workers (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 60.0
    """Time limit for decoding one clip; over it, the clip is quarantined."""
    estimate: bool = False
    """Prepare nothing: measure a sample in this process, print what all will take and the cluster
    to ask for."""
    items: int | None = None
    """Number of videos to estimate for (default: those of the source)."""
    sample: int = 32
    """Number of videos to measure with --estimate, chosen at random by --seed."""
    json: str | None = None
    """File for the numbers of --estimate."""
    nodes: Annotated[Nodes, tyro.conf.arg(name="")] = field(default_factory=Nodes)

    def check(self) -> None:
        """Refuse flags that would be ignored."""
        given = [f for f in ("items", "sample", "json") if getattr(self, f) != getattr(Args, f)]
        given += [f for f in vars(Nodes()) if getattr(self.nodes, f) != getattr(Nodes, f)]
        if given and not self.estimate:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"{flags}: has no effect without --estimate; leave it out")
        if self.json is not None and not storage.is_remote(self.json):
            path = storage.local_path(self.json)
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise UserError(f"--json {path}: expected a file, in a folder that is there")


def main(argv: Sequence[str] | None = None) -> Prepared | Estimate:
    """Parse flags, prepare or estimate, return the counts or the numbers."""
    args = cli.parse(Args, argv, __doc__)
    args.check()
    import mmray
    from mmray.pipeline.videos import VideoOptions, Workers, prepare_videos

    toy = args.source.split(":")[0] == "toy"
    options = VideoOptions(
        source=args.source,
        objects=_teacher(args, "objects", toy),
        scenes=_teacher(args, "scenes", toy),
        clip_s=args.clip_s,
        frame_s=args.frame_s,
        min_clip_s=args.min_clip_s,
        max_clips=args.max_clips,
        frames=args.frames,
        audio=args.audio,
        limit=args.limit,
    )
    options.check()
    if args.estimate:
        return _estimate(args, options)
    mmray.init(local_mode=args.local, address=args.address)
    return prepare_videos(
        options,
        args.out,
        workers=Workers(decoders=args.decoders, teachers=args.teachers, timeout_s=args.timeout_s),
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


def _estimate(args: Args, options: VideoOptions) -> Estimate:
    """What the job will take: printed, and written where --json says."""
    from mmray.pipeline.estimate import estimate
    from mmray.pipeline.estimate_tables import show

    found = estimate(
        options,
        items=args.items,
        sample=args.sample,
        nodes=args.nodes,
        timeout_s=args.timeout_s,
        seed=args.seed,
    )
    show(found, args.max_error_ratio)
    if args.json is not None:
        storage.write_json(args.json, found.metrics)
        cli.console.print(f"numbers: {args.json}")
    return found


def _teacher(args: Args, what: Literal["objects", "scenes"], toy: bool) -> str | None:
    """The teacher asked for; the toy world has nets of its own, trained when they are missing."""
    spec: str | None = getattr(args, what)
    if spec is not None:
        return None if spec == "none" else spec
    if not toy:
        return "efficientnet_lite0" if what == "objects" else None
    from mmray.teachers.train import toy_teacher

    return f"mmray:{toy_teacher(what, args.source, seed=args.seed)}"


if __name__ == "__main__":
    cli.run(main)
