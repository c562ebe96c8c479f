"""The stages that turn videos into clips: probe, decode, teach."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from mmray import storage
from mmray.errors import MediaError, UserError
from mmray.pipeline.dataset import tensor_column
from mmray.pipeline.stages import Errors, failed
from mmray.sources.items import ImageItem, VideoItem

Item = TypeVar("Item", VideoItem, ImageItem)

SEGMENT = pa.struct(
    [("start_s", pa.float64()), ("end_s", pa.float64()), ("labels", pa.list_(pa.string()))]
)
VIDEO_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "start_s": pa.float64(),
        "duration_s": pa.float64(),
        "labels": pa.list_(pa.string()),
        "segments": pa.list_(SEGMENT),
    }
)
CLIP_COLUMNS = tuple(VIDEO_SCHEMA.names)
"""A clip to decode: the columns of a video with its start and duration filled in."""


@dataclass
class ProbeVideos:
    """Look into each video and make one row a clip of it.

    Args:
        clip_s: length of a clip in seconds; the last one of a video may be shorter.
        min_clip_s: a shorter rest at a video's end is left out, unless it is the whole video.
        max_clips: most clips of one video; None for all.
        timeout_s: time limit for looking into one video.
    """

    clip_s: float
    min_clip_s: float
    max_clips: int | None
    timeout_s: float

    def setup(self) -> None:
        """Start the child process that opens files."""
        from mmray.media.sandbox import Sandbox

        self._sandbox = Sandbox(self.timeout_s, attempts=3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `VIDEO_SCHEMA` in, rows of clips out."""
        clips: list[dict[str, Any]] = []
        errors: dict[int, MediaError] = {}
        for row in rows.to_pylist():
            try:
                clips += self._clips(row)
            except MediaError as e:
                errors[len(clips)] = e
                clips.append(row)
        schema = VIDEO_SCHEMA.append(pa.field("shard", pa.int64()))
        table = pa.Table.from_pylist(clips, schema=schema)
        for name, column in Errors(len(clips), errors).columns().items():
            table = table.append_column(name, column)
        return table

    def _clips(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        from mmray.media.probe import MAX_DURATION_S

        start = row["start_s"] or 0.0
        duration = row["duration_s"]
        if duration is None:
            duration = self._duration(row["uri"]) - start
        elif duration > MAX_DURATION_S:
            raise MediaError("probe", f"is listed with an impossible duration_s: {duration:g}")
        if duration <= 0:
            raise MediaError("probe", f"nothing is left after start_s {start:g}")
        starts = np.arange(0.0, duration, self.clip_s)[: self.max_clips]
        clips = []
        for offset in starts.tolist():
            length = min(self.clip_s, duration - offset)
            if length < self.min_clip_s and offset > 0:
                continue
            begin = start + offset
            clips.append(
                row
                | {
                    "id": f"{row['id']}-{round(begin * 1000):08d}",
                    "start_s": begin,
                    "duration_s": length,
                    "segments": _overlapping(row["segments"], begin, begin + length),
                }
            )
        return clips

    def _duration(self, uri: str) -> float:
        from mmray.media.sound import probe

        with local_file(uri) as path:
            info = self._sandbox.call(probe, path)
        if not info.has_sound:
            raise MediaError("probe", "has no sound")
        if not info.has_video:
            raise MediaError("probe", "has no picture")
        return float(info.duration_s)


@dataclass
class DecodeClips:
    """Sound, frames and a thumbnail of each clip, by a child process that may be killed.

    Args:
        num_frames: T, frames of a clip, evenly spread over it.
        size: width and height of the square frames in pixels.
        mode: `exact` frames, or the nearest `keyframe` (several times faster on long files).
        audio: how sound is stored, `pcm16` or `flac`.
        timeout_s: time limit for one clip.
    """

    num_frames: int
    size: int
    mode: str
    audio: str
    timeout_s: float

    def setup(self) -> None:
        """Start the child process that decodes."""
        from mmray.media.sandbox import Sandbox

        self._sandbox = Sandbox(self.timeout_s, attempts=3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add `sample_rate, audio, frames, frame_times, frame_labels, thumbnail` and errors."""
        errors = Errors(rows.num_rows)
        decoded: list[dict[str, Any]] = []
        # Clips of one video follow one another: a remote file is fetched once for all of them.
        for uri, clips in itertools.groupby(rows.to_pylist(), key=lambda row: row["uri"]):
            decoded += self._decode_video(uri, list(clips), errors, len(decoded))
        times = [d.get("frame_times", np.zeros(self.num_frames)) for d in decoded]
        columns = {
            "duration_s": pa.array([d["duration_s"] for d in decoded], pa.float64()),
            "sample_rate": pa.array([d.get("sample_rate") for d in decoded], pa.int32()),
            "audio": pa.array([d.get("audio") for d in decoded], pa.large_binary()),
            "frames": pa.array([d.get("frames") for d in decoded], pa.large_binary()),
            "frame_times": tensor_column(times, [self.num_frames], "float32"),
            "frame_labels": pa.array(
                [d.get("frame_labels") for d in decoded], pa.list_(pa.list_(pa.string()))
            ),
            "labels": pa.array([d.get("labels") for d in decoded], pa.list_(pa.string())),
            "thumbnail": pa.array([d.get("thumbnail") for d in decoded], pa.binary()),
        }
        table = rows.drop_columns(["duration_s", "labels", "segments"])
        for name, column in (columns | errors.columns()).items():
            table = table.append_column(name, column)
        return table

    def _decode_video(
        self, uri: str, clips: list[dict[str, Any]], errors: Errors, first: int
    ) -> list[dict[str, Any]]:
        decoded: list[dict[str, Any]] = [{"duration_s": clip["duration_s"]} for clip in clips]
        try:
            with local_file(uri) as path:
                for i, clip in enumerate(clips):
                    try:
                        decoded[i] = self._decode(path, clip)
                    except MediaError as e:
                        errors.add(first + i, e)
        except MediaError as e:  # the file itself cannot be had
            for i in range(len(clips)):
                errors.add(first + i, e)
        return decoded

    def _decode(self, path: str, row: dict[str, Any]) -> dict[str, Any]:
        from mmray.media import sound
        from mmray.media.clip import decode_clip

        clip = self._sandbox.call(
            decode_clip,
            path,
            row["start_s"],
            row["duration_s"],
            self.num_frames,
            self.size,
            self.mode,
        )
        pcm = clip.audio.astype("<i2").tobytes()
        if self.audio == "flac":
            audio = sound.to_flac(sound.from_pcm16(pcm), sound.SAMPLE_RATE)
        else:
            audio = pcm
        labels = [
            _labels_at(row["segments"], row["start_s"] + t) for t in clip.frame_times.tolist()
        ]
        known = dict.fromkeys(row["labels"] or [])
        for frame in labels:
            known |= dict.fromkeys(frame)
        return {
            "duration_s": len(clip.audio) / sound.SAMPLE_RATE,
            "sample_rate": sound.SAMPLE_RATE,
            "audio": audio,
            "frames": clip.frames.tobytes(),
            "frame_times": clip.frame_times,
            "frame_labels": labels,
            "labels": list(known),
            "thumbnail": clip.thumbnail,
        }


@dataclass
class TeachClips:
    """What the teachers see in the frames of each clip; the frames themselves are dropped.

    Args:
        teachers: spec of a teacher by the name of its column, `objects` and `scenes`.
        num_frames: T, frames of a clip.
        size: width and height of the frames in pixels.
        threads: CPU threads of each teacher.
        batch_size: frames that a teacher sees at once.
    """

    teachers: dict[str, str]
    num_frames: int
    size: int
    threads: int = 1
    batch_size: int = 64

    def setup(self) -> None:
        """Load the teachers."""
        from mmray.teachers import load_teacher

        self._teachers = {
            head: load_teacher(spec, threads=self.threads) for head, spec in self.teachers.items()
        }

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `frames` by one posterior column a teacher, float16 [T, classes]."""
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        frames = [rows["frames"][i].as_buffer() for i in good.tolist()]
        shape = (-1, self.size, self.size, 3)
        images = np.concatenate(
            [np.frombuffer(f, np.uint8).reshape(shape) for f in frames]
            or [np.zeros((0, *shape[1:]), np.uint8)]
        )
        table = rows.drop_columns(["frames"])
        for head, teacher in self._teachers.items():
            num_classes = len(teacher.classes)
            posteriors = np.zeros((rows.num_rows, self.num_frames, num_classes), np.float16)
            seen = [
                teacher(images[i : i + self.batch_size])
                for i in range(0, len(images), self.batch_size)
            ]
            if seen:
                posteriors[good] = np.concatenate(seen).reshape(-1, self.num_frames, num_classes)
            column = tensor_column(posteriors, [self.num_frames, num_classes], "float16")
            table = table.append_column(head, column)
        return table


def item_id(key: str, start_s: float | None = None) -> str:
    """Identifier of a file, or of the part from `start_s` on: by its path below the source."""
    name = f"{key}@{start_s}" if start_s else key
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:20]


def with_ids(items: Iterable[Item], source: str) -> Iterator[tuple[str, Item]]:
    """Each item with its identifier.

    Raises:
        UserError: one comes twice. Two rows of a manifest may be two parts of one file, but not
            the same part.
    """
    # On disk, beyond a small cache: the names of a hundred million files would not fit in memory.
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as seen:
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        for item in items:
            name = item_id(item.key, item.start_s if isinstance(item, VideoItem) else None)
            if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount:
                raise UserError(
                    f"{source}: lists {item.key} twice; every file (or part of one) must appear "
                    "once"
                )
            yield name, item


@contextlib.contextmanager
def local_file(uri: str) -> Iterator[str]:
    """`storage.localized`, whose errors are about one file rather than about the job."""
    try:
        with storage.localized(uri) as path:
            yield str(path)
    except MediaError:
        raise
    except storage.StorageFailed:
        if uri.startswith("http"):  # one server of many
            raise MediaError("open", "its server does not answer") from None
        storage.exists(uri.rsplit("/", 1)[0])  # raises the same where it is not this file alone
        raise MediaError("open", "the storage does not give it, but answers otherwise") from None
    except UserError as e:
        raise MediaError("open", str(e)) from e


def _overlapping(segments: Sequence[dict[str, Any]] | None, start: float, end: float) -> list[Any]:
    return [s for s in segments or [] if s["start_s"] < end and s["end_s"] > start]


def _labels_at(segments: Sequence[dict[str, Any]] | None, time: float) -> list[str]:
    return [
        label
        for segment in segments or []
        if segment["start_s"] <= time < segment["end_s"]
        for label in segment["labels"]
    ]
