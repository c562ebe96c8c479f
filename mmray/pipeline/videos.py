"""Preparing videos: any source in, a clip dataset out.

Two passes over the same machinery: one looks into every video and lists its clips, the other
decodes each clip and asks the teachers. Both work shard by shard, so both resume exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
from rich.table import Table

from mmray import runtime, storage
from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.pipeline import dataset, run, shards
from mmray.pipeline.progress import ProgressLine
from mmray.pipeline.stages import Pool

LISTING_SHARD = 64
MAX_SHARD = 64


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What determines the content of a clip dataset."""

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
        if self.frame_s <= 0 or self.clip_s < self.frame_s:
            raise UserError(
                f"--clip-s {self.clip_s:g}, --frame-s {self.frame_s:g}: expected "
                "0 < frame-s <= clip-s"
            )
        if self.min_clip_s < 0 or self.min_clip_s > self.clip_s:
            raise UserError(f"--min-clip-s {self.min_clip_s:g}: expected 0 to {self.clip_s:g}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: expected 1 or more")

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

    None means: chosen from what the cluster has.
    """

    decoders: int | None = None
    teachers: int | None = None
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Prepared:
    """What `prepare_videos` made."""

    path: str
    rows: int
    errors: int


def prepare_videos(
    options: VideoOptions,
    out: str,
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
    from mmray.teachers import describe_teacher

    options.check()
    out = storage.absolute(out)
    if overwrite:
        storage.remove(out)
    teachers = {head: describe_teacher(spec) for head, spec in options.teachers.items()}
    if finished := _claim(out, options, teachers):
        console.print(f"{out} is complete; --overwrite makes it again")
        _check_errors(finished.rows, finished.errors, max_error_ratio, out)
        return finished
    job = VideoJob(options, out, workers or Workers(), max_error_ratio, teachers)
    job.list_videos()
    job.list_clips()
    job.decode_and_teach()
    return job.finish()


def _claim(out: str, options: VideoOptions, teachers: dict[str, Any]) -> Prepared | None:
    """Check that `out` is free or ours; the counts when it is complete already."""
    wanted = {"options": asdict(options), "teachers": teachers}
    manifest = storage.join(out, "manifest.json")
    claim = storage.join(out, ".work", "options.json")
    for path in (manifest, claim):
        if storage.exists(path):
            found = storage.read_json(path)
            differs = _differences(found, wanted)
            if differs:
                raise UserError(
                    f"{out}: was made with other options ({differs}); give --overwrite to make "
                    "it again, or another --out"
                )
            counts = found.get("counts")
            return Prepared(out, counts["rows"], counts["errors"]) if counts else None
    if storage.exists(out) and (storage.list_files(out) or storage.list_folders(out)):
        raise UserError(f"{out}: is not empty and not a dataset; choose another --out")
    storage.write_json(claim, wanted)
    return None


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    flat = {
        **{f"--{k.replace('_', '-')}": v for k, v in wanted["options"].items()},
        **{f"weights of {k}": v["weights_sha256"] for k, v in wanted["teachers"].items()},
    }
    old = {
        **{f"--{k.replace('_', '-')}": v for k, v in found.get("options", {}).items()},
        **{f"weights of {k}": v["weights_sha256"] for k, v in found.get("teachers", {}).items()},
    }
    return ", ".join(
        f"{name} was {str(old.get(name))[:80]}, is {str(flat.get(name))[:80]}"
        for name in {**old, **flat}
        if old.get(name) != flat.get(name)
    )


class VideoJob:
    """One run of `prepare_videos`, pass by pass."""

    def __init__(
        self,
        options: VideoOptions,
        out: str,
        workers: Workers,
        max_error_ratio: float,
        teachers: dict[str, Any],
    ) -> None:
        self.options, self.out, self.workers = options, out, workers
        self.max_error_ratio, self.teachers = max_error_ratio, teachers
        self.errors = storage.join(out, "errors")
        self.videos = storage.join(out, ".work", "videos.parquet")
        self.probed = storage.join(out, ".work", "probed")
        self.clips = storage.join(out, ".work", "clips.parquet")

    def list_videos(self) -> None:
        """Write the list of videos, streaming: millions never sit in memory at once."""
        if storage.exists(self.videos):
            return
        from mmray.pipeline.clips import VIDEO_SCHEMA

        count = shards.write_list(self.videos, self._rows(), VIDEO_SCHEMA, LISTING_SHARD)
        if not count:
            storage.remove(self.videos)
            raise UserError(f"{self.options.source}: holds no videos")
        console.print(f"{self.options.source}: {count} videos")

    def _rows(self) -> Iterator[pa.Table]:
        from mmray.pipeline.clips import VIDEO_SCHEMA, video_id
        from mmray.sources import split_of, videos

        seen: set[str] = set()
        items = itertools.islice(videos(self.options.source), self.options.limit)
        while batch := list(itertools.islice(items, 1024)):
            rows = []
            for item in batch:
                # Two rows of a manifest may be two parts of one file, but not the same part.
                name = item.key if item.start_s is None else f"{item.key}@{item.start_s}"
                if name in seen:
                    raise UserError(
                        f"{self.options.source}: lists {item.key} twice; every video (or part "
                        "of one) must appear once"
                    )
                seen.add(name)
                rows.append(
                    {
                        "id": video_id(item.key),
                        "uri": item.uri,
                        "split": split_of(item.key),
                        "start_s": item.start_s,
                        "duration_s": item.duration_s,
                        "labels": item.labels,
                        "segments": [asdict(s) for s in item.segments],
                    }
                )
            yield pa.Table.from_pylist(rows, schema=VIDEO_SCHEMA)

    def list_clips(self) -> None:
        """Look into every video, then write the list of clips."""
        if storage.exists(self.clips):
            return
        from mmray.pipeline.clips import CLIP_COLUMNS, VIDEO_SCHEMA, ProbeVideos

        options = self.options
        probe = ProbeVideos(
            options.clip_s, options.min_clip_s, options.max_clips, self.workers.timeout_s
        )
        write = shards.WriteShard(self.probed, CLIP_COLUMNS, self.errors, "probe")
        cpus, _ = run.cluster_resources()
        pools = [Pool("probe", [shards.ReadShard(self.videos), probe, write], size=cpus)]
        self._run(self.videos, self.probed, pools, "videos", "probe")
        parts = dataset.part_names(self.probed)
        tables = (dataset.read_table(storage.join(self.probed, part)) for part in parts)
        total = sum(dataset.num_rows(storage.join(self.probed, part)) for part in parts)
        # Small enough that all workers have work to the end, large enough to batch the teacher.
        size = max(4, min(MAX_SHARD, total // (8 * cpus)))
        shards.write_list(self.clips, tables, VIDEO_SCHEMA, size)

    def decode_and_teach(self) -> None:
        """The main pass: clips in, rows of the dataset out."""
        pools = self.pools()
        decoders, teachers = (pool.size for pool in pools)
        cpus, gpus = run.cluster_resources()
        where = "this process" if runtime.is_local() else f"{cpus} CPUs and {gpus} GPUs"
        console.print(f"{decoders} decoders and {teachers} teachers for {where}")
        self._run(self.clips, self.out, pools, "clips", "part")

    def pools(self) -> list[Pool]:
        """Decoders on all CPUs; teachers on the GPUs, else beside the decoders."""
        from mmray.pipeline.clips import DecodeClips, TeachClips

        options, workers = self.options, self.workers
        size = max(teacher["size"] for teacher in self.teachers.values())
        decode = DecodeClips(
            options.num_frames, size, options.frames, options.audio, workers.timeout_s
        )
        teach = TeachClips(options.teachers, options.num_frames, size)
        columns = (
            *("id", "uri", "split", "start_s", "duration_s", "sample_rate", "audio"),
            *("frame_times", *options.teachers, "labels", "frame_labels", "thumbnail"),
        )
        write = shards.WriteShard(self.out, columns, self.errors)
        cpus, gpus = run.cluster_resources()
        decoders = workers.decoders or cpus
        teachers = workers.teachers or max(1, gpus or cpus // 2)
        return [
            Pool(
                "decode",
                [shards.ReadShard(self.clips), decode],
                decoders,
                num_cpus=min(1.0, cpus / decoders),
            ),
            # Reserves no CPU: decoders may hold all of them, and it would wait for ever.
            Pool("teach", [teach, write], teachers, num_cpus=0, num_gpus=min(1.0, gpus / teachers)),
        ]

    def _run(self, work: str, out: str, pools: list[Pool], what: str, name: str) -> None:
        """Run the shards of `work` that are not in `out` yet."""
        todo = shards.pending(work, out)
        if not todo:
            return
        total = dataset.num_rows(work)
        _, bad = shards.count_done(out, self.errors, name)
        sizes = shards.sizes(work)
        done = total - sum(sizes[i] for i in todo)
        if done:
            console.print(f"resuming: {done} of {total} {what} are done")
        with ProgressLine(console, what, total, done, bad) as progress:
            for shard in run.run(todo, pools):
                progress.add(sizes[shard["shard"]], shard["errors"])
                if progress.errors > max(self.max_error_ratio, 0.0) * total:
                    # Nothing that comes can bring the share down again.
                    break
        _check_errors(total - progress.errors, progress.errors, self.max_error_ratio, self.out)

    def finish(self) -> Prepared:
        """Write the manifest, which makes the dataset complete, and say what came out."""
        rows, bad_clips = shards.count_done(self.out, self.errors)
        _, bad_videos = shards.count_done(self.probed, self.errors, "probe")
        counts = {
            "videos": dataset.num_rows(self.videos),
            "rows": rows,
            "errors": bad_clips + bad_videos,
        }
        manifest = {
            "kind": "clips",
            "schema_version": dataset.SCHEMA_VERSION,
            "source": self.options.source,
            "options": asdict(self.options),
            "teachers": self.teachers,
            "counts": counts,
        }
        storage.write_json(storage.join(self.out, "manifest.json"), manifest)
        storage.remove(storage.join(self.out, ".work"))
        _print_summary(counts, self.errors, self.out)
        _check_errors(rows, counts["errors"], self.max_error_ratio, self.out)
        return Prepared(self.out, rows, counts["errors"])


def _check_errors(good: int, bad: int, max_ratio: float, out: str) -> None:
    if bad > max_ratio * (good + bad):
        folder = storage.join(out, "errors")
        common = "; ".join(f"{n} x {text}" for text, n in shards.reasons(folder).most_common(3))
        raise JobFailed(
            f"{bad} of {good + bad} items are bad, more than --max-error-ratio {max_ratio:g} "
            f"allows. Most common: {common}. All reasons are in {folder}; what is done is kept"
        )


def _print_summary(counts: dict[str, int], errors: str, out: str) -> None:
    table = Table("clips", "videos", "quarantined", title=out, title_justify="left")
    table.add_row(str(counts["rows"]), str(counts["videos"]), str(counts["errors"]))
    console.print(table)
    if counts["errors"]:
        why = Table("count", "why", title="quarantined", title_justify="left")
        for text, count in shards.reasons(errors).most_common(10):
            why.add_row(str(count), text)
        console.print(why)
