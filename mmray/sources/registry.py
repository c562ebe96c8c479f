"""From a SOURCE on the command line to its items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from mmray.errors import UserError
from mmray.sources import (
    coco,
    flickr_captions,
    folder,
    manifest,
    mirflickr,
    openclipart,
    sound_sets,
    stamps,
    toy,
)
from mmray.sources.items import ImageItem, SoundItem, VideoItem

_VIDEOS: dict[str, tuple[Callable[[str], Iterator[VideoItem]], str]] = {
    "toy": (toy.videos, "toy, or toy:DIR for a toy world made before"),
    "folder": (folder.videos, "folder:DIR, such as folder:/data/videos or folder:s3://bucket/dir"),
    "manifest": (manifest.videos, "manifest:FILE, a Parquet or CSV file with a column `uri`"),
    "stamps": (stamps.videos, "stamps, or stamps:DIR for the pictures with sounds of Tux Paint"),
}
_IMAGES: dict[str, tuple[Callable[[str], Iterator[ImageItem]], str]] = {
    "toy": (toy.images, "toy, or toy:DIR for a toy world made before"),
    "folder": (
        folder.images,
        "folder:DIR with pictures, and captions.json or X.txt or X.json beside X.jpg",
    ),
    "manifest": (manifest.images, "manifest:FILE, a Parquet or CSV file with a column `uri`"),
    "mirflickr": (mirflickr.images, "mirflickr:DIR, with im1.jpg or images/0/0.jpg"),
    "coco": (coco.images, "coco:DIR, with annotations/captions_train2017.json and train2017"),
    "flickr8k": (flickr_captions.flickr8k, "flickr8k:DIR, with Flickr8k.token.txt"),
    "flickr30k": (flickr_captions.flickr30k, "flickr30k:DIR, with results_20130124.token"),
    "openclipart": (openclipart.images, "openclipart, or openclipart:DIR with png and svg"),
    "stamps": (stamps.images, "stamps, or stamps:DIR for the pictures of Tux Paint"),
}
_SOUNDS: dict[str, tuple[Callable[[str], Iterator[SoundItem]], str]] = {
    "folder": (sound_sets.folder_sounds, "folder:DIR, where a folder in DIR is a class"),
    "esc50": (sound_sets.esc50, "esc50:DIR, the folder with meta/esc50.csv"),
    "sonicpi": (sound_sets.sonicpi, "sonicpi, or sonicpi:DIR for the samples of Sonic Pi"),
}


def videos(source: str) -> Iterator[VideoItem]:
    """The videos of a source, one after another, always in the same order.

    Args:
        source: `toy`, `toy:DIR`, `folder:DIR`, `manifest:FILE`, `stamps`, `stamps:DIR`; a local
            path alone means `folder:` or, for a .parquet or .csv file, `manifest:`.

    Raises:
        UserError: unknown kind of source, or nothing of that kind is there. Errors in a later row
            of a manifest come when that row is reached.
    """
    kind, where = _parse(source, {name: text for name, (_, text) in _VIDEOS.items()})
    return _VIDEOS[kind][0](where)


def images(source: str, language: str | None = None) -> Iterator[ImageItem]:
    """The pictures of a source with their words, one after another, always in the same order.

    Args:
        source: `toy`, `folder:DIR`, `manifest:FILE`, `mirflickr:DIR`, `coco:DIR`, `flickr8k:DIR`,
            `flickr30k:DIR`, `openclipart` or `stamps`; `toy`, `openclipart` and `stamps` take
            `:DIR` too. A local path alone as in `videos`.
        language: of the captions, such as `de`, where a source has several (`stamps`, where None
            is English).

    Raises:
        UserError: unknown kind of source, another layout than it names, no picture, or no caption
            in the language. Errors in a later row of a manifest come when that row is reached.
    """
    kind, where = _parse(source, {name: text for name, (_, text) in _IMAGES.items()})
    read, text = _IMAGES[kind]
    if language is None:
        items = read(where)
    elif kind == "stamps":
        items = stamps.images(where, language)
    else:
        raise UserError(
            f"--language {language}: {source} has captions in one language; expected it with stamps"
        )
    first = next(items, None)
    if first is None:
        raise UserError(f"{source}: holds no pictures; expected {text}")
    return itertools.chain([first], items)


def media_files(source: str) -> Iterator[VideoItem]:
    """As `videos`, with the sound files of a folder too: everything that can be heard.

    Raises:
        UserError: as `videos`.
    """
    kind, where = _parse(source, {name: text for name, (_, text) in _VIDEOS.items()})
    if kind == "folder":
        suffixes = folder.VIDEO_SUFFIXES | folder.SOUND_SUFFIXES
        return (VideoItem(uri, key) for uri, key in folder.files(where, suffixes))
    return _VIDEOS[kind][0](where)


def sounds(source: str) -> list[SoundItem]:
    """The files with sound of a source.

    Args:
        source: `folder:DIR`, `esc50:DIR`, `sonicpi`, `sonicpi:DIR`, a path alone, or any source
            of videos.

    Raises:
        UserError: unknown kind of source, or there is no sound.
    """
    known = {name: text for name, (_, text) in {**_VIDEOS, **_SOUNDS}.items()}
    kind, where = _parse(source, known)
    if kind in _SOUNDS:
        items = list(_SOUNDS[kind][0](where))
    else:
        items = [_as_sound(item, kind) for item in _VIDEOS[kind][0](where)]
    if not items:
        raise UserError(f"{source}: holds no files with sound")
    return items


def _as_sound(item: VideoItem, kind: str) -> SoundItem:
    if item.start_s is not None or item.duration_s is not None:
        raise UserError(
            f"{item.key}: has start_s or duration_s, which are for videos; a sound is a whole file"
        )
    is_class = kind == "manifest" and len(item.labels) == 1
    return SoundItem(item.uri, item.key, item.labels[0] if is_class else None)


def _parse(source: str, known: dict[str, str]) -> tuple[str, str]:
    kind, _, where = source.partition(":")
    if kind in known:
        return kind, where
    path = Path(source).expanduser()
    if source and path.exists():
        return "manifest" if path.suffix.lower() in manifest.SUFFIXES else "folder", source
    raise UserError(
        f"{source!r}: is no source and no folder; expected one of: " + "; ".join(known.values())
    )
