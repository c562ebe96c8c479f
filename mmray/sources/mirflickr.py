"""MIRFLICKR (Huiskes and Lew 2008): pictures of Flickr with their users' tags."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator

from mmray import storage
from mmray.errors import UserError
from mmray.sources import texts
from mmray.sources.items import ImageItem

ANNOTATIONS = ("annotations", "mirflickr25k_annotations_v080")
"""Names of the folder with one file a class."""

_log = logging.getLogger(__name__)


def images(where: str) -> Iterator[ImageItem]:
    """MIRFLICKR-25000, or MIRFLICKR-1M, in the order of their numbers.

    25k: im1.jpg to im25000.jpg in DIR or DIR/mirflickr, tags in meta/tags, or else in
    meta/tags_raw. Labels are the classes of the annotations, potential (`animals`) and relevant
    (`baby_r1`); they are looked for in DIR and beside it. 1M: images/0/0.jpg to
    images/99/999999.jpg, tags in tags/0/0.txt, or else in tags_raw.

    Raises:
        UserError: the folder has neither layout.
    """
    root = storage.absolute(where).rstrip("/")
    if not storage.is_remote(root):
        root = os.path.normpath(root)
    folders = _numbered(storage.list_folders(storage.join(root, "images")), r"(\d+)")
    if where and folders:
        return _million(root, folders)
    for pictures in (root, storage.join(root, "mirflickr")):
        numbers = _numbered(storage.list_files(pictures), r"im(\d+)\.jpg") if where else {}
        if numbers:
            return _thousands(root, pictures, numbers)
    raise UserError(
        f"mirflickr:{where}: has no im1.jpg, mirflickr/im1.jpg or images/0; expected the folder of "
        "MIRFLICKR-25000 or MIRFLICKR-1M"
    )


def _numbered(names: list[str], pattern: str) -> dict[int, str]:
    """The names that have this form by the number in them, in its order."""
    matches = (re.fullmatch(pattern, name, re.ASCII) for name in names)
    return dict(sorted((int(match[1]), match[0]) for match in matches if match))


def _thousands(root: str, pictures: str, numbers: dict[int, str]) -> Iterator[ImageItem]:
    tags = _Tags(pictures, ("meta/tags", "meta/tags_raw"))
    labels = _labels(root, numbers)
    for number, name in numbers.items():
        yield ImageItem(
            storage.join(pictures, name),
            name,
            tags.of(f"tags{number}.txt"),
            labels=labels.get(number, []),
        )


def _million(root: str, folders: dict[int, str]) -> Iterator[ImageItem]:
    for folder in folders.values():
        place = storage.join(root, "images", folder)
        tags = _Tags(root, (f"tags/{folder}", f"tags_raw/{folder}"))
        for name in _numbered(storage.list_files(place), r"(\d+)\.jpg").values():
            yield ImageItem(
                storage.join(place, name),
                f"images/{folder}/{name}",
                tags.of(f"{name.removesuffix('.jpg')}.txt"),
            )


class _Tags:
    """The tag files of some folders; each is listed once, as asking for each file takes longer."""

    def __init__(self, root: str, folders: tuple[str, ...]) -> None:
        places = (storage.join(root, folder) for folder in folders)
        self._files = [(place, frozenset(storage.list_files(place))) for place in places]

    def of(self, name: str) -> list[str]:
        """The tags in the first file of this name; none where there is no such file."""
        for place, files in self._files:
            if name in files:
                text = texts.read(storage.join(place, name))
                return list(texts.lines(text)) if text is not None else []
        return []


def _labels(root: str, numbers: dict[int, str]) -> dict[int, list[str]]:
    """The classes of each picture that has one."""
    places = [
        storage.join(above, name)
        for above in (root, storage.join(root, "mirflickr"), root.rpartition("/")[0])
        for name in ANNOTATIONS
    ]
    labels: dict[int, list[str]] = {}
    for place in places:
        files = [name for name in storage.list_files(place) if name.endswith(".txt")]
        classes = [name for name in files if name.lower() != "readme.txt"]
        for name in classes:
            for number in _members(storage.join(place, name), numbers):
                labels.setdefault(number, []).append(name.removesuffix(".txt"))
        if classes:
            return labels
    _log.warning("%s: has no labels; looked in %s", root, ", ".join(places))
    return labels


def _members(uri: str, numbers: dict[int, str]) -> Iterator[int]:
    """The numbers that a file lists, each once."""
    seen: set[int] = set()
    strange: list[str] = []
    for line in texts.lines(texts.read(uri) or ""):
        number = int(line) if re.fullmatch(r"\d{1,9}", line, re.ASCII) else -1
        if number not in numbers:
            strange.append(line)
        elif number not in seen:
            seen.add(number)
            yield number
    if strange:
        _log.warning(
            "%s: left out %d lines that are no number of a picture here, such as %.40r",
            uri, len(strange), strange[0],
        )  # fmt: skip
