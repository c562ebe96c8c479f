"""Media files anywhere below a folder, local or remote."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote_from_bytes

from mmray import storage
from mmray.errors import UserError
from mmray.sources.items import VideoItem

VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".rm", ".rmvb", ".ts", ".vob",
    ".webm", ".wmv",
})  # fmt: skip
SOUND_SUFFIXES = frozenset({
    ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp2", ".mp3",
    ".oga", ".ogg", ".opus", ".w64", ".wav", ".weba", ".wma", ".wv",
})  # fmt: skip

_log = logging.getLogger(__name__)


def videos(where: str) -> Iterator[VideoItem]:
    """All video files below a folder."""
    return (VideoItem(uri, key) for uri, key in files(where, VIDEO_SUFFIXES))


def files(where: str, suffixes: frozenset[str]) -> Iterator[tuple[str, str]]:
    """URI and key of all files below a folder with one of these suffixes, sorted by path.

    A single file in place of the folder is a folder with that file alone. Files of other kinds
    are counted in one line of the log. Hidden files and folders are left out.

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
    return _chosen(found, where, suffixes)


def _chosen(
    found: Iterator[tuple[str, str]], where: str, suffixes: frozenset[str]
) -> Iterator[tuple[str, str]]:
    others: Counter[str] = Counter()
    for uri, key in found:
        suffix = PurePosixPath(key).suffix.lower()
        if suffix in suffixes:
            yield uri, key
        else:
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
