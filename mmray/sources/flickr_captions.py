"""Flickr8k and Flickr30k (Hodosh et al. 2013, Young et al. 2014): pictures with five captions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmray import storage
from mmray.errors import UserError
from mmray.sources import karpathy, texts
from mmray.sources.captions import NO_CAPTION, Flaws, is_name, spoken, table_rows, text_lines
from mmray.sources.items import ImageItem

# The line; the name of a picture, empty where the line has none; a caption of it.
_Lines = Iterator[tuple[str, str, str]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Layout:
    """Where one of the sets has what; of several names the first that is there counts."""

    name: str
    captions: dict[str, Callable[[str, Flaws], _Lines]]
    pictures: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]


def flickr8k(where: str) -> Iterator[ImageItem]:
    """Flickr8k as published, or as on Kaggle (captions.txt).

    Pictures come in the order of the file of captions, whether they are on disk or not. Where
    there are files of splits, a picture that is in none of them is for training. A
    dataset_flickr8k.json of Karpathy, in DIR or DIR/annotations, replaces both.

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
    published = karpathy.find(root, layout.name) if where else None
    if found is None and published is None:
        raise UserError(
            f"{layout.name}:{where}: expected a folder with {' or '.join(names)} or "
            f"dataset_{layout.name}.json"
        )
    pictures = _first(root, layout.pictures)
    if pictures is None:
        raise UserError(
            f"{layout.name}:{where}: has captions but no folder of pictures; expected one of "
            f"{', '.join(layout.pictures)}"
        )
    place = storage.join(root, pictures)
    if published is not None:
        return (
            ImageItem(storage.join(place, p.name), p.name, [], p.captions, split=p.split)
            for p in karpathy.pictures(published)
        )
    assert found is not None
    captions = _captions(storage.join(root, found), layout.captions[found])
    splits = _splits(root, layout, captions.keys())
    rest = "train" if splits else None
    return (
        ImageItem(storage.join(place, name), name, [], texts_, split=splits.get(name, rest))
        for name, texts_ in captions.items()
    )


def _first(root: str, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if storage.exists(storage.join(root, name))), None)


def _captions(file: str, read: Callable[[str, Flaws], _Lines]) -> dict[str, list[str]]:
    """The captions of each picture, in the order of the file."""
    captions: dict[str, list[str]] = {}
    flaws = Flaws(file)
    for place, name, caption in read(file, flaws):
        if not is_name(name):
            flaws.add(NO_CAPTION, place)
        elif texts_ := spoken([caption], place, flaws):
            captions.setdefault(name.strip(), []).extend(texts_)
    flaws.report()
    if not captions:
        start = next(text_lines(file, Flaws(file)), "").strip()
        raise UserError(
            f"{file}: holds no captions in the form of this data set; expected {_FORMS[read]}; "
            f"it starts with {start[:80]!r}"
        )
    return captions


def _token_lines(file: str, flaws: Flaws) -> _Lines:
    for number, line in enumerate(text_lines(file, flaws), 1):
        if line.strip():
            place, tab, caption = line.partition("\t")
            yield f"line {number}", place.rpartition("#")[0] if tab else "", caption


def _csv_rows(file: str, flaws: Flaws) -> _Lines:
    for place, row in table_rows(file, flaws):
        if row != ["image", "caption"]:
            yield place, row[0] if len(row) == 2 else "", row[-1]


def _bar_lines(file: str, flaws: Flaws) -> _Lines:
    for number, line in enumerate(text_lines(file, flaws), 1):
        if line.startswith("image_name|") or not line.strip():
            continue
        name, _, rest = line.partition("|")
        # The published file lacks the second bar in one line.
        match = re.match(r"\s*\d+\s*[|\s]\s*", rest)
        yield f"line {number}", name if match else "", rest[match.end() :] if match else ""


_FORMS: dict[Callable[[str, Flaws], _Lines], str] = {
    _token_lines: "lines such as a.jpg#0<tab>A cat .",
    _csv_rows: "a line image,caption above lines such as a.jpg,A cat .",
    _bar_lines: "a line image_name| comment_number| comment above lines such as a.jpg| 0| A cat .",
}


def _splits(root: str, layout: _Layout, known: Collection[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, names in layout.splits.items():
        found = _first(root, names)
        text = texts.read(storage.join(root, found)) if found else None
        for name in texts.lines(text or ""):
            # Flickr30k Entities leaves the ending out.
            splits[name if PurePosixPath(name).suffix else f"{name}.jpg"] = split
    strange = [name for name in splits if name not in known]
    if strange:
        _log.warning(
            "%s: the splits list %d pictures that have no captions, such as %s",
            root, len(strange), strange[0],
        )  # fmt: skip
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
    {
        "results_20130124.token": _token_lines,
        **dict.fromkeys(_also_in("flickr30k_images", "results.csv"), _bar_lines),
    },
    (
        *("flickr30k_images/flickr30k_images", "flickr30k-images", "flickr30k_images"),
        *("images", "Images"),
    ),
    {split: (f"{split}.txt",) for split in ("train", "val", "test")},
)
