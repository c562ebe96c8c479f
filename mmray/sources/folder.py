"""Media files anywhere below a folder, local or remote."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes

from mmray import storage
from mmray.errors import UserError
from mmray.sources import texts
from mmray.sources.items import ImageItem, VideoItem

VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".rm", ".rmvb", ".ts", ".vob",
    ".webm", ".wmv",
})  # fmt: skip
SOUND_SUFFIXES = frozenset({
    ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp2", ".mp3",
    ".oga", ".ogg", ".opus", ".w64", ".wav", ".weba", ".wma", ".wv",
})  # fmt: skip

IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
})  # fmt: skip
SIDECAR_SUFFIXES = frozenset({".json", ".txt"})

_SIDECAR_JSON = 'expected {"tags": [...], "captions": [...]} with texts in the lists'

_log = logging.getLogger(__name__)


def videos(where: str) -> Iterator[VideoItem]:
    """All video files below a folder."""
    return (VideoItem(uri, key) for uri, key in files(where, VIDEO_SUFFIXES))


def images(where: str) -> Iterator[ImageItem]:
    """All pictures below a folder, with the words in the files beside them.

    X.txt has one tag a line, or tags with commas between them on its only line; X.json has
    `{"tags": [...], "captions": [...]}`. Where both are there, the tags of both count. A picture
    beside which nothing readable lies has no words.
    """
    found = files(where, IMAGE_SUFFIXES, SIDECAR_SUFFIXES)
    listed = _remote_sidecars(where) if storage.is_remote(where) else None
    return (_image(uri, key, listed) for uri, key in found)


def _image(uri: str, key: str, listed: frozenset[str] | None) -> ImageItem:
    """`listed` are the keys of all sidecars, which saves a remote store two questions a picture."""
    tags: list[str] = []
    captions: list[str] = []
    for suffix in sorted(SIDECAR_SUFFIXES, reverse=True):
        if listed is not None and str(PurePosixPath(key).with_suffix(suffix)) not in listed:
            continue
        beside = uri.removesuffix(PurePosixPath(key).suffix) + suffix
        if listed is None and not storage.local_path(beside).exists():
            continue
        text = texts.read(beside)
        if text is None:
            continue
        if suffix == ".txt":
            tags += texts.tags(text)
        else:
            more_tags, captions = _words_of_json(beside, text)
            tags += [tag for tag in more_tags if tag not in tags]
    return ImageItem(uri, key, tags, captions)


def _words_of_json(uri: str, text: str) -> tuple[list[str], list[str]]:
    """Tags and captions; a line in the log where the file has another form."""
    try:
        value: Any = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(_SIDECAR_JSON)
        tags, captions = (value.get(name) or [] for name in ("tags", "captions"))
        for words in (tags, captions):
            if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
                raise ValueError(_SIDECAR_JSON)
    except (ValueError, RecursionError) as e:
        _log.warning("%s: left out, cannot be read as words of a picture (%s)", uri, e)
        return [], []
    return tags, captions


def _remote_sidecars(where: str) -> frozenset[str]:
    fs, root = storage.filesystem(where)
    keys = (path.removeprefix(root).lstrip("/") for path in fs.find(root))
    return frozenset(key for key in keys if PurePosixPath(key).suffix in SIDECAR_SUFFIXES)


def files(
    where: str, suffixes: frozenset[str], beside: frozenset[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """URI and key of all files below a folder with one of these suffixes, sorted by path.

    A single file in place of the folder is a folder with that file alone. Files of other kinds
    are counted in one line of the log. Hidden files and folders are left out.

    Args:
        where: the folder.
        suffixes: of the files to find, in lower case.
        beside: suffixes of files that belong to these, which are neither found nor counted.

    Raises:
        UserError: there is no such folder.
    """
    if not where:
        raise UserError("folder: names no folder; expected folder:DIR")
    if storage.is_remote(where):
        found = _remote_files(where)
    else:
        root = storage.local_path(where).expanduser()
        if root.suffix.lower() in suffixes and root.is_file():
            return iter([(local_uri(str(root.absolute())), readable(root.name))])
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "there is no such folder"
            raise UserError(f"{where}: {what}; expected a media file or a folder of them")
        found = _local_files(root)
    return _chosen(found, where, suffixes, beside)


def _chosen(
    found: Iterator[tuple[str, str]], where: str, suffixes: frozenset[str], beside: frozenset[str]
) -> Iterator[tuple[str, str]]:
    others: Counter[str] = Counter()
    for uri, key in found:
        suffix = PurePosixPath(key).suffix.lower()
        if suffix in suffixes:
            yield uri, key
        elif PurePosixPath(key).suffix not in beside:
            others[suffix or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        _log.warning("%s: left out %d files of other kinds: %s", where, others.total(), kinds)


def _remote_files(where: str) -> Iterator[tuple[str, str]]:
    fs, root = storage.filesystem(where)
    if not fs.isdir(root):
        raise UserError(f"{where}: there is no such folder; expected a folder with media files")
    keys = (path.removeprefix(root).lstrip("/") for path in sorted(fs.find(root)))
    return (
        (storage.join(where, key), key)
        for key in keys
        if not any(part.startswith(".") for part in key.split("/"))
    )


def _local_files(root: Path) -> Iterator[tuple[str, str]]:
    root = root.absolute()
    for path in _walk(root, ()):
        yield local_uri(str(path)), readable(path.relative_to(root).as_posix())


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Files below a folder; links are followed, except back to a folder above."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as e:
        _log.warning("%s: left out (%s)", readable(str(folder)), e.strerror)
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*above, here))
        else:
            yield folder / entry.name


def local_uri(path: str) -> str:
    """An absolute path as it is, or as a `file://` URI where it is not UTF-8."""
    return path if _is_utf8(path) else f"file://{quote_from_bytes(os.fsencode(path))}"


def readable(path: str) -> str:
    """A path as it is, or with percent signs where it is not UTF-8."""
    return path if _is_utf8(path) else quote_from_bytes(os.fsencode(path), safe="/ ")


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
