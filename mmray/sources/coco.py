"""COCO (Lin et al. 2014): pictures with captions, and with the objects that are on them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmray import storage
from mmray.errors import UserError
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


@dataclass(frozen=True)
class _Part:
    """Such as train2017: where its pictures are, and its files by what they hold."""

    name: str
    pictures: str
    files: dict[str, str]


@dataclass
class _Words:
    """What the files of a part say, by the number of the picture."""

    names: dict[int, str] = field(default_factory=dict)
    captions: dict[int, list[str]] = field(default_factory=dict)
    seen: dict[int, set[int]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)


def images(where: str) -> Iterator[ImageItem]:
    """Train and val of one year in the order of their numbers, with captions, objects or both.

    COCO has no users' tags: tags and labels both are the names of the categories on the picture.
    One in ten pictures of train is `val`, and val is `test`, as its own test has no captions.

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
    if not any(name.removeprefix("annotations/") in there for name in wanted):
        raise UserError(f"coco:{where}: has none of {', '.join(wanted)}; expected those of COCO")
    for year in YEARS:
        parts = [part for name in ("train", "val") if (part := _part(root, f"{name}{year}", there))]
        if parts:
            return itertools.chain.from_iterable(map(_images, parts))
    raise UserError(
        f"coco:{where}: has annotations but no pictures; expected a folder such as train2017, "
        "val2017 or images/train2017"
    )


def _part(root: str, name: str, there: set[str]) -> _Part | None:
    files = {
        kind: storage.join(root, "annotations", f"{kind}_{name}.json")
        for kind in ("captions", "instances")
        if f"{kind}_{name}.json" in there
    }
    if not files:
        return None
    for pictures in (storage.join(root, name), storage.join(root, "images", name)):
        if storage.exists(pictures):
            return _Part(name, pictures, files)
    _log.warning("%s: left out, has annotations but no folder %s", root, name)
    return None


def _images(part: _Part) -> Iterator[ImageItem]:
    words = _Words()
    for kind, file in part.files.items():
        _read(kind, file, words)
    for number in sorted(words.names):
        name = words.names[number]
        key = f"{part.name}/{name}"
        seen = [words.categories[i] for i in sorted(words.seen.get(number, ()))]
        yield ImageItem(
            storage.join(part.pictures, name),
            key,
            tags=seen,
            captions=words.captions.get(number, []),
            labels=list(seen),
            split=_split(part, key),
        )


def _split(part: _Part, key: str) -> str:
    if part.name.startswith("val"):
        return "test"
    return "val" if split_of(key) == "val" else "train"


def _read(kind: str, file: str, words: _Words) -> None:
    objects: list[tuple[int, int]] = []
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
        elif second.strip():
            words.captions.setdefault(first, []).append(second.strip())
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
    if len(values) != 2 or any(type(v) is not t for v, t in zip(values, types, strict=True)):
        raise UserError(
            f"{file}: an element of `{name}` is {element!r:.80}; expected one with "
            f"{' and '.join(_FIELDS[kind])} as COCO has them"
        )
    return values[0], values[1]
