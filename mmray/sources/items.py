"""What every source gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Segment:
    """What is known to be seen and heard between two times.

    Attributes:
        start_s: its start in seconds from the start of the file.
        end_s: its end.
        labels: such as `object:dog`, `place:beach`.
    """

    start_s: float
    end_s: float
    labels: list[str]


@dataclass(frozen=True)
class VideoItem:
    """A video, or a part of one.

    Attributes:
        uri: where it is: an absolute local path, or a URI. A local path that is not UTF-8 is a
            `file://` URI with percent signs.
        key: its path below the source's root, with slashes; settles its id and split, so that they
            stay when the root moves.
        labels: what is known of the whole video.
        segments: what is known of parts of it.
        start_s: start of the part in seconds; None is the start of the file.
        duration_s: length of the part; None reaches to the end of the file.
    """

    uri: str
    key: str
    labels: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    start_s: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class ImageItem:
    """A picture with the words that people put to it.

    Attributes:
        uri: as in `VideoItem`.
        key: as in `VideoItem`.
        tags: as people wrote them; may be empty.
        captions: sentences about it.
        labels: what is known to be on it; for evaluation only.
        split: `train`, `val` or `test` where the data set says so; None is `split_of(key)`.
    """

    uri: str
    key: str
    tags: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: str | None = None


@dataclass(frozen=True)
class SoundItem:
    """A file with sound.

    Attributes:
        uri: as in `VideoItem`.
        key: as in `VideoItem`.
        label: its class, where known.
        fold: its fold in the data set's own cross-validation, where there is one.
    """

    uri: str
    key: str
    label: str | None = None
    fold: int | None = None


def split_of(key: str) -> str:
    """`test` (two tenths), `val` (one) or `train` (seven), by the MD5 of the key alone."""
    number = int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) % 10
    if number < 2:
        return "test"
    return "val" if number == 2 else "train"
