"""Flickr8k and Flickr30k (Hodosh et al. 2013, Young et al. 2014): pictures with five captions."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmray import storage
from mmray.errors import UserError
from mmray.sources import texts
from mmray.sources.items import ImageItem

_Pairs = Iterator[tuple[str, str] | None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Layout:
    """Where one of the sets has what; of several names the first that is there counts."""

    name: str
    captions: dict[str, Callable[[io.TextIOBase], _Pairs]]
    pictures: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]


def flickr8k(where: str) -> Iterator[ImageItem]:
    """Flickr8k as published, or as on Kaggle (captions.txt).

    Pictures come in the order of the file of captions, whether they are on disk or not. Where
    there are files of splits, a picture that is in none of them is for training.

    Raises:
        UserError: no file of captions, no caption in it, or no folder of pictures.
    """
    return _images(where, _FLICKR8K)


def flickr30k(where: str) -> Iterator[ImageItem]:
    """Flickr30k as published, or as on Kaggle (results.csv); as `flickr8k`.

    Splits are train.txt, val.txt and test.txt as published with Flickr30k Entities.

    Raises:
        UserError: as `flickr8k`.
    """
    return _images(where, _FLICKR30K)


def _images(where: str, layout: _Layout) -> Iterator[ImageItem]:
    names = tuple(layout.captions)
    root = storage.absolute(where)
    found = _first(root, names) if where else None
    if found is None:
        raise UserError(f"{layout.name}:{where}: expected a folder with {' or '.join(names)}")
    pictures = _first(root, layout.pictures)
    if pictures is None:
        raise UserError(
            f"{layout.name}:{where}: has captions but no folder of pictures; expected one of "
            f"{', '.join(layout.pictures)}"
        )
    captions = _captions(storage.join(root, found), layout.captions[found])
    splits = _splits(root, layout)
    rest = "train" if splits else None
    return (
        ImageItem(
            storage.join(root, pictures, name), name, [], texts_, split=splits.get(name, rest)
        )
        for name, texts_ in captions.items()
    )


def _first(root: str, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if storage.exists(storage.join(root, name))), None)


def _captions(file: str, read: Callable[[io.TextIOBase], _Pairs]) -> dict[str, list[str]]:
    """The captions of each picture, in the order of the file."""
    captions: dict[str, list[str]] = {}
    strange = 0
    with storage.open_file(file) as source:
        text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="replace", newline="")
        try:
            for pair in read(text):
                if pair is None:
                    strange += 1
                else:
                    captions.setdefault(pair[0], []).append(pair[1])
        except csv.Error as e:
            raise UserError(f"{file}: cannot be read as a table ({e})") from e
    if not captions:
        raise UserError(f"{file}: holds no captions in the form of this data set")
    if strange:
        _log.warning("%s: left out %d lines that are no caption of a picture", file, strange)
    return captions


def _token_lines(source: io.TextIOBase) -> _Pairs:
    """`NAME.jpg#0<tab>caption`."""
    for line in source:
        if line.strip():
            place, _, caption = line.partition("\t")
            yield _pair(place.rpartition("#")[0], caption)


def _csv_rows(source: io.TextIOBase) -> _Pairs:
    """`image,caption` below a line with these names."""
    for row in csv.reader(source):
        if row and row != ["image", "caption"]:
            yield _pair(row[0], row[1] if len(row) == 2 else "")


def _bar_lines(source: io.TextIOBase) -> _Pairs:
    """`image_name| comment_number| comment` below a line with these names."""
    for line in source:
        if line.startswith("image_name|") or not line.strip():
            continue
        name, _, rest = line.partition("|")
        # The published file lacks the second bar in one line.
        match = re.match(r"\s*\d+\s*[|\s]\s*", rest)
        yield _pair(name, rest[match.end() :] if match else "")


def _pair(name: str, caption: str) -> tuple[str, str] | None:
    name, caption = name.strip(), caption.strip()
    return (name, caption) if name and caption else None


def _splits(root: str, layout: _Layout) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, names in layout.splits.items():
        found = _first(root, names)
        text = texts.read(storage.join(root, found)) if found else None
        for name in texts.lines(text or ""):
            # Flickr30k Entities leaves the ending out.
            splits[name if PurePosixPath(name).suffix else f"{name}.jpg"] = split
    return splits


def _also_in(folder: str, *names: str) -> tuple[str, ...]:
    return (*names, *(f"{folder}/{name}" for name in names))


_FLICKR8K = _Layout(
    "flickr8k",
    {
        **dict.fromkeys(_also_in("Flickr8k_text", "Flickr8k.token.txt"), _token_lines),
        "captions.txt": _csv_rows,
    },
    ("Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images"),
    {
        "train": _also_in("Flickr8k_text", "Flickr_8k.trainImages.txt"),
        "val": _also_in("Flickr8k_text", "Flickr_8k.devImages.txt"),
        "test": _also_in("Flickr8k_text", "Flickr_8k.testImages.txt"),
    },
)
_FLICKR30K = _Layout(
    "flickr30k",
    {"results_20130124.token": _token_lines, "results.csv": _bar_lines},
    (
        *("flickr30k_images/flickr30k_images", "flickr30k-images", "flickr30k_images"),
        *("images", "Images"),
    ),
    {split: (f"{split}.txt",) for split in ("train", "val", "test")},
)
