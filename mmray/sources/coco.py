"""COCO (Lin et al. 2014): pictures with captions, and with the objects that are on them."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmray import storage
from mmray.errors import UserError
from mmray.sources import karpathy
from mmray.sources.captions import Flaws, is_name, spoken
from mmray.sources.items import ImageItem, split_of
from mmray.sources.json_lists import elements

YEARS = ("2017", "2014")
"""Of a folder with both, 2017 is taken: they are the same pictures."""

_FIELDS = {
    "images": ("id", "file_name"),
    "captions": ("image_id", "caption"),
    "instances": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
_TYPES = {"id": int, "image_id": int, "category_id": int}

_log = logging.getLogger(__name__)


# Both years' names have the picture's number: COCO_val2014_000000391895.jpg, 000000391895.jpg.
_NUMBERED = re.compile(r"(?:COCO_(?:train|val)\d{4}_)?(\d{12})\.jpg", re.ASCII)


@dataclass(frozen=True)
class _Part:
    """Such as train2017: its files of annotations by what they hold."""

    name: str
    files: dict[str, str]


class _Pictures:
    """The folders of pictures, train2014 to val2017, that are there.

    A picture that is not where its annotations say is looked for by its number, since the years
    have the same pictures under other names and in other folders.
    """

    def __init__(self, root: str) -> None:
        self.folders: dict[str, str] = {}
        for name in (f"{part}{year}" for year in YEARS for part in ("train", "val")):
            places = (storage.join(root, name), storage.join(root, "images", name))
            place = next((place for place in places if storage.exists(place)), None)
            if place is not None:
                self.folders[name] = place

    def uri(self, folder: str, name: str, number: int | None = None) -> str | None:
        """Where a picture is, or should be; None where its folder is missing too."""
        if name in self._files.get(folder, ()):
            return storage.join(self.folders[folder], name)
        match = _NUMBERED.fullmatch(name)
        if number is None and match:
            number = int(match[1])
        if number in self._numbers:
            return storage.join(*self._numbers[number])
        # That it is missing is for the job to tell, of this picture.
        return storage.join(self.folders[folder], name) if folder in self.folders else None

    @cached_property
    def _files(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(storage.list_files(at)) for name, at in self.folders.items()}

    @cached_property
    def _numbers(self) -> dict[int | None, tuple[str, str]]:
        """Folder and name by number."""
        return {
            int(match[1]): (self.folders[folder], name)
            for folder, names in self._files.items()
            for name in names
            if (match := _NUMBERED.fullmatch(name))
        }


@dataclass
class _Words:
    """What the files of a part say, by the number of the picture."""

    names: dict[int, str] = field(default_factory=dict)
    captions: dict[int, list[str]] = field(default_factory=dict)
    seen: dict[int, set[int]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)

    def objects(self, number: int) -> list[str]:
        """The names of the categories on a picture."""
        return [self.categories[i] for i in sorted(self.seen.get(number, ()))]


def images(where: str) -> Iterator[ImageItem]:
    """Train and val of one year in the order of their numbers, with captions, objects or both.

    COCO has no users' tags: tags and labels both are the names of the categories on the picture.
    One in ten pictures of train is `val`, and val is `test`, as its own test has no captions. A
    dataset_coco.json of Karpathy, in DIR or DIR/annotations, decides which pictures there are, in
    its order, with their captions and splits; categories still are those of COCO.

    Raises:
        UserError: no annotations, or no folder of pictures that goes with them; later, a file of
            annotations is no such JSON.
    """
    root = storage.absolute(where)
    wanted = [
        f"annotations/{kind}_{part}{year}.json"
        for kind in ("captions", "instances")
        for part in ("train", "val")
        for year in YEARS
    ]
    there = set(storage.list_files(storage.join(root, "annotations"))) if where else set()
    published = karpathy.find(root, "coco") if where else None
    if not published and not any(n.removeprefix("annotations/") in there for n in wanted):
        raise UserError(
            f"coco:{where}: has none of {', '.join(wanted)}, dataset_coco.json; expected those of "
            "COCO"
        )
    pictures = _Pictures(root)
    if published and pictures.folders:
        return _karpathy(root, published, there, pictures)
    for year in [] if published else _years(pictures):
        names = (f"train{year}", f"val{year}")
        parts = [part for name in names if (part := _part(root, name, there, pictures))]
        if parts:
            return itertools.chain.from_iterable(_images(part, pictures) for part in parts)
    raise UserError(
        f"coco:{where}: has annotations but no pictures; expected a folder such as train2017, "
        "val2017 or images/train2017"
    )


def _years(pictures: _Pictures) -> list[str]:
    """Years with pictures of their own come first."""
    own = [year for year in YEARS if any(name.endswith(year) for name in pictures.folders)]
    return own + [year for year in YEARS if year not in own]


def _part(root: str, name: str, there: set[str], pictures: _Pictures) -> _Part | None:
    files = {
        kind: storage.join(root, "annotations", f"{kind}_{name}.json")
        for kind in ("captions", "instances")
        if f"{kind}_{name}.json" in there
    }
    if not files:
        return None
    if name in pictures.folders or any(other[-4:] != name[-4:] for other in pictures.folders):
        return _Part(name, files)
    _log.warning("%s: left out, has annotations but no folder %s", root, name)
    return None


def _images(part: _Part, pictures: _Pictures) -> Iterator[ImageItem]:
    words = _Words()
    for kind, file in part.files.items():
        _read(kind, file, words)
    absent: Counter[str] = Counter()
    for number in sorted(words.names):
        name = words.names[number]
        uri = pictures.uri(part.name, name)
        if uri is None:
            absent[part.name] += 1
            continue
        key = f"{part.name}/{name}"
        seen = words.objects(number)
        captions = words.captions.get(number, [])
        yield ImageItem(uri, key, seen, captions, list(seen), _split(part, key))
    _report(next(iter(part.files.values())), absent)


def _karpathy(root: str, file: str, there: set[str], pictures: _Pictures) -> Iterator[ImageItem]:
    words = _Words()
    for year in YEARS:
        names = [f"instances_{part}{year}.json" for part in ("train", "val")]
        if not words.names and any(name in there for name in names):
            for name in filter(there.__contains__, names):
                _read("instances", storage.join(root, "annotations", name), words)
    absent: Counter[str] = Counter()
    for picture in karpathy.pictures(file):
        uri = pictures.uri(picture.folder, picture.name, picture.number)
        if uri is None:
            absent[picture.folder] += 1
            continue
        seen = [] if picture.number is None else words.objects(picture.number)
        yield ImageItem(uri, picture.key, seen, picture.captions, list(seen), picture.split)
    _report(file, absent)


def _report(where: str, absent: Counter[str]) -> None:
    if absent:
        _log.warning(
            "%s: left out %d pictures that are in no folder here; their own would be %s",
            where, absent.total(), ", ".join(sorted(name or "unnamed" for name in absent)),
        )  # fmt: skip


def _split(part: _Part, key: str) -> str:
    if part.name.startswith("val"):
        return "test"
    return "val" if split_of(key) == "val" else "train"


def _read(kind: str, file: str, words: _Words) -> None:
    objects: list[tuple[int, int]] = []
    flaws = Flaws(file)
    for name, element in elements(file):
        if name not in ("images", "annotations", "categories"):
            continue
        first, second = _values(file, name, kind if name == "annotations" else name, element)
        if name == "images":
            words.names[first] = second
        elif name == "categories":
            words.categories[first] = second
        elif kind == "instances":
            objects.append((first, second))
        elif texts := spoken([second], f"that of picture {first}", flaws):
            words.captions.setdefault(first, []).extend(texts)
    flaws.report()
    # Categories follow the annotations in the file.
    for number, category in objects:
        if category not in words.categories:
            raise UserError(f"{file}: has no category {category}; its `categories` are incomplete")
        words.seen.setdefault(number, set()).add(category)
    lost = len((words.captions.keys() | words.seen.keys()) - words.names.keys())
    if lost:
        _log.warning("%s: left out words of %d pictures that it does not list", file, lost)


def _values(file: str, name: str, kind: str, element: Any) -> tuple[Any, Any]:
    """The two values of an element that matter."""
    values = [element.get(f) for f in _FIELDS[kind]] if isinstance(element, dict) else []
    types = [_TYPES.get(f, str) for f in _FIELDS[kind]]
    fits = len(values) == 2 and all(type(v) is t for v, t in zip(values, types, strict=True))
    if not fits or (name == "images" and not is_name(values[1])):
        raise UserError(
            f"{file}: an element of `{name}` is {element!r:.80}; expected one with "
            f"{' and '.join(_FIELDS[kind])} as COCO has them"
        )
    return values[0], values[1]
