"""Preparing videos: any source in, a clip dataset out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline import shards
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.job import DatasetJob, Prepared
from mmray.pipeline.placement import decode_and_ask
from mmray.pipeline.stages import Pool

DEFAULT_OUT = "runs/prepare_videos"


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What determines the rows of a clip dataset; the flags of `jobs/prepare_videos.py`."""

    source: str
    objects: str | None
    scenes: str | None
    clip_s: float = 20.0
    frame_s: float = 5.0
    min_clip_s: float = 2.0
    max_clips: int | None = None
    frames: Literal["exact", "keyframe"] = "exact"
    audio: Literal["pcm16", "flac"] = "pcm16"
    limit: int | None = None

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if not (self.objects or self.scenes):
            raise UserError("--objects, --scenes: at least one teacher is needed")
        if not 0 < self.frame_s <= self.clip_s:
            raise UserError(
                f"--clip-s {self.clip_s:g}, --frame-s {self.frame_s:g}: expected "
                "0 < frame-s <= clip-s"
            )
        if not 0 <= self.min_clip_s <= self.clip_s:
            raise UserError(f"--min-clip-s {self.min_clip_s:g}: expected 0 to {self.clip_s:g}")
        for flag, value in (("--limit", self.limit), ("--max-clips", self.max_clips)):
            if value is not None and value < 1:
                raise UserError(f"{flag} {value}: expected 1 or more")

    def absolute(self) -> VideoOptions:
        """The same with teachers that workers find, whatever their working directory."""
        from mmray.teachers import absolute_spec

        objects = absolute_spec(self.objects) if self.objects else None
        scenes = absolute_spec(self.scenes) if self.scenes else None
        return replace(self, objects=objects, scenes=scenes)

    @property
    def num_frames(self) -> int:
        """T: frames of a clip."""
        return max(1, round(self.clip_s / self.frame_s))

    @property
    def teachers(self) -> dict[str, str]:
        """Spec of each teacher by its column."""
        both = {"objects": self.objects, "scenes": self.scenes}
        return {head: spec for head, spec in both.items() if spec}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How the work is spread; changes nothing in the rows.

    Args:
        decoders: decoding workers; None for one a CPU.
        teachers: workers that hold the teachers; None for one a GPU, else one for two CPUs.
        timeout_s: time limit for one clip, in seconds.
    """

    decoders: int | None = None
    teachers: int | None = None
    timeout_s: float = 60.0

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        for flag, value in (("--decoders", self.decoders), ("--teachers", self.teachers)):
            if value is not None and value < 1:
                raise UserError(f"{flag} {value}: expected 1 or more")
        if not 0 < self.timeout_s < float("inf"):
            raise UserError(f"--timeout-s {self.timeout_s:g}: expected seconds above 0")


def prepare_videos(
    options: VideoOptions,
    out: str = DEFAULT_OUT,
    *,
    workers: Workers | None = None,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Make the clip dataset `out`, or go on where an earlier run of the same options stopped.

    Raises:
        UserError: bad options, or `out` holds something made with other options.
        JobFailed: more than `max_error_ratio` of the items are bad; what is done is kept.
    """
    from mmray.pipeline.clips import VIDEO_SCHEMA, ProbeVideos

    workers = workers or Workers()
    workers.check()
    options = options.absolute()
    job = clip_job(options, out, max_error_ratio)
    if overwrite:  # nothing is removed for a source that is not there
        next(video_rows(options), None)
    if finished := job.claim(overwrite):
        return finished
    job.list_items(video_rows(options), VIDEO_SCHEMA, options.source)
    probe = ProbeVideos(options.clip_s, options.min_clip_s, options.max_clips, workers.timeout_s)
    job.split(probe, VIDEO_SCHEMA, workers.decoders)
    job.main(clip_pools(job, options, workers))
    return job.finish(options.source)


def clip_job(options: VideoOptions, out: str, max_error_ratio: float = 0.2) -> DatasetJob:
    """The job that makes a clip dataset."""
    from mmray.media.sound import SAMPLE_RATE
    from mmray.teachers import describe_teacher

    options.check()
    teachers = {head: describe_teacher(spec) for head, spec in options.teachers.items()}
    size = max(teacher["size"] for teacher in teachers.values())
    return DatasetJob(
        *(out, "clips", asdict(options), teachers, "videos", "clips", max_error_ratio),
        part_bytes=round(2 * SAMPLE_RATE * options.clip_s) + options.num_frames * 3 * size**2,
    )


def clip_pools(job: DatasetJob, options: VideoOptions, workers: Workers) -> list[Pool]:
    """The workers of the main pass: they decode, ask the teachers, and write."""
    from mmray.pipeline.clips import DecodeClips, TeachClips

    size = max(teacher["size"] for teacher in job.nets.values())
    decode = DecodeClips(options.num_frames, size, options.frames, options.audio, workers.timeout_s)
    teach = TeachClips(options.teachers, options.num_frames, size)
    columns = (
        *("id", "uri", "split", "start_s", "duration_s", "sample_rate", "audio"),
        *("frame_times", *options.teachers, "labels", "frame_labels", "thumbnail"),
    )
    return decode_and_ask(
        [shards.ReadShard(job.part_list), decode],
        [teach, shards.WriteShard(job.out, columns, job.errors)],
        decoders=workers.decoders,
        nets=workers.teachers,
    )


def video_rows(options: VideoOptions) -> Iterator[pa.Table]:
    """The source's videos as tables of `VIDEO_SCHEMA`, some at a time."""
    from mmray.pipeline.clips import VIDEO_SCHEMA, with_ids
    from mmray.sources import split_of, videos

    items = with_ids(itertools.islice(videos(options.source), options.limit), options.source)
    while batch := list(itertools.islice(items, 1024)):
        rows: list[dict[str, Any]] = [
            {
                "id": name,
                "uri": item.uri,
                "split": split_of(item.key),
                "start_s": item.start_s,
                "duration_s": item.duration_s,
                "labels": item.labels,
                "segments": [asdict(s) for s in item.segments],
            }
            for name, item in batch
        ]
        yield pa.Table.from_pylist(rows, schema=VIDEO_SCHEMA)


def toy_videos(out: str = DEFAULT_OUT, source: str = "toy", seed: int = 0) -> str:
    """The clips of the toy world, as its own teachers see them; prepared when they are missing.

    Returns:
        The folder of the clip dataset: as it is where it is one of the toy world already.
    """
    from mmray.teachers.train import toy_teacher

    manifest = storage.join(out, "manifest.json")
    if storage.exists(manifest) and Dataset(out).manifest.get("source") == source:
        return out
    options = VideoOptions(
        source=source,
        objects=f"mmray:{toy_teacher('objects', source, seed)}",
        scenes=f"mmray:{toy_teacher('scenes', source, seed)}",
    )
    return prepare_videos(options, out).path
