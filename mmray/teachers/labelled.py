"""Labelled pictures: the only place where mmray looks at labels to train a net."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from mmray import storage
from mmray.errors import MediaError, UserError

Task = Literal["objects", "scenes"]
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_DECODERS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPicture:
    """One picture: where it is, its name within the collection, and what it shows."""

    uri: str
    key: str
    label: str


def labelled_pictures(source: str, what: Task, limit: int | None = None) -> list[LabelledPicture]:
    """List the pictures of a source with their labels.

    Args:
        source: `toy` or `toy:DIR` (the toy world), or `folder:DIR` with one folder a class.
        what: which labels of the toy world; a folder has labels of one kind only.
        limit: use only so many pictures, spread over the classes by chance.

    Raises:
        UserError: the source has none of these forms, or holds no labelled pictures.
    """
    family, _, rest = source.partition(":")
    if family == "toy":
        pictures = _toy(rest, what)
    elif family == "folder" and rest:
        pictures = _folder(rest)
    else:
        raise UserError(
            f"{source!r}: expected toy, toy:DIR or folder:DIR (with one folder a class)"
        )
    # In an order by hash, so that the first N are a fair sample of all classes.
    pictures.sort(key=lambda p: hashlib.md5(p.key.encode(), usedforsecurity=False).digest())
    return pictures[:limit]


def _toy(root: str, what: Task) -> list[LabelledPicture]:
    from mmray.toyworld.build import default_world, labelled_images

    paths, labels = labelled_images(storage.absolute(root) if root else default_world(), what)
    return [
        LabelledPicture(str(path), f"{path.parent.name}/{path.name}", label)
        for path, label in zip(paths, labels, strict=True)
    ]


def _folder(root: str) -> list[LabelledPicture]:
    pictures, root = [], storage.absolute(root)
    for label in storage.list_folders(root):
        folder = storage.join(root, label)
        for name in storage.list_files(folder):
            if PurePosixPath(name).suffix.lower() in _SUFFIXES and not name.startswith("."):
                uri = storage.join(folder, name)
                pictures.append(LabelledPicture(uri, f"{label}/{name}", label))
    if not pictures:
        raise UserError(f"{root}: holds no pictures in folders; expected one folder a class")
    return pictures


def read_pictures(
    pictures: Sequence[LabelledPicture], size: int
) -> tuple[np.ndarray, list[LabelledPicture]]:
    """Decode pictures to squares.

    Returns:
        uint8 [N, size, size, 3], cropped to the centre, and the pictures that could be read; for
        the others there is a warning.

    Raises:
        UserError: more than a fifth of the pictures cannot be read.
    """
    from mmray.media.image import decode_image, square

    def read(picture: LabelledPicture) -> np.ndarray | MediaError:
        try:
            with storage.open_file(picture.uri) as f:
                return square(decode_image(f.read()), size, "crop")
        except MediaError as e:
            return e

    with ThreadPoolExecutor(_DECODERS) as pool:
        results = list(pool.map(read, pictures))
    bad = [(p, r) for p, r in zip(pictures, results, strict=True) if isinstance(r, MediaError)]
    if bad:
        first = f"{len(bad)} pictures cannot be read, the first: {bad[0][0].uri}: {bad[0][1]}"
        if len(bad) > len(pictures) / 5:
            raise UserError(first)
        log.warning("%s", first)
    images = [r for r in results if not isinstance(r, MediaError)]
    unreadable = {p.key for p, _ in bad}
    return np.stack(images), [p for p in pictures if p.key not in unreadable]
