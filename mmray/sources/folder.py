"""Media files anywhere below a folder, local or remote."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes

from mmray import storage
from mmray.errors import UserError
from mmray.sources import captions, texts
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

    One of `captions.FILES` in the folder adds captions and splits to the pictures that it names: by
    their path below the folder, or by their name where there and in the file only one has it. (A
    captions.json beside a captions.jpg is about that picture alone.)
    """
    file = _captions_file(where)
    beside = SIDECAR_SUFFIXES if file is None else SIDECAR_SUFFIXES | {_name(file)}
    found = files(where, IMAGE_SUFFIXES, beside)
    listed = _remote_sidecars(where) if storage.is_remote(where) else None
    if file is None:
        return (_image(uri, key, listed) for uri, key in found)
    return _captioned(where, file, list(found), listed)


def _captions_file(where: str) -> str | None:
    places = [storage.join(storage.absolute(where), name) for name in captions.FILES]
    there = [place for place in places if where and storage.exists(place)]
    for other in there[1:]:
        _log.warning("%s: left out, since %s counts", other, there[0])
    return there[0] if there else None


def _captioned(
    where: str, file: str, pictures: list[tuple[str, str]], listed: frozenset[str] | None
) -> Iterator[ImageItem]:
    if any(str(PurePosixPath(key).with_suffix(".json")) == _name(file) for _, key in pictures):
        words = {}
    else:
        words = _by_key(where, file, [key for _, key in pictures])
    for uri, key in pictures:
        item = _image(uri, key, listed)
        if said := words.get(key):
            more = [caption for caption in said.captions if caption not in item.captions]
            item = replace(item, captions=item.captions + more, split=said.split)
        yield item


def _by_key(where: str, file: str, keys: list[str]) -> dict[str, captions.Words]:
    """What a file of captions says, by the keys of the pictures that it means."""
    read = captions.read(file)
    root = _composed(storage.absolute(where).rstrip("/")) + "/"
    paths = {name: posixpath.normpath(_composed(name).removeprefix(root)) for name in read}
    known = {_composed(key): key for key in keys}
    # By the name alone only what cannot be mistaken: train/1.jpg is not test/1.jpg.
    given = Counter(map(_name, set(paths.values())))
    there = Counter(map(_name, known))
    alone = {_name(path): key for path, key in known.items() if there[_name(path)] == 1}
    words: dict[str, captions.Words] = {}
    lost: list[str] = []
    for name, said in read.items():
        key = known.get(paths[name])
        if key is None and given[_name(paths[name])] == 1:
            key = alone.get(_name(paths[name]))
        if key is None:
            lost.append(name)
        elif key in words:
            words[key].captions += said.captions
            words[key].split = words[key].split or said.split
        else:
            words[key] = said
    if lost:
        _log.warning(
            "%s: left out captions of %d pictures that are not in the folder (or of which it has "
            "several of that name), such as %r", file, len(lost), lost[0],
        )  # fmt: skip
    if len(words) < len(keys):
        _log.warning("%s: names %d of the %d pictures in the folder", file, len(words), len(keys))
    return words


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _composed(path: str) -> str:
    """Names as macOS writes them differ from those in texts, where letters have accents."""
    return unicodedata.normalize("NFC", path)


def _image(uri: str, key: str, listed: frozenset[str] | None) -> ImageItem:
    """`listed` are the keys of all sidecars, which saves a remote store two questions a picture."""
    tags: list[str] = []
    sentences: list[str] = []
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
            more_tags, sentences = _words_of_json(beside, text)
            tags += [tag for tag in more_tags if tag not in tags]
    return ImageItem(uri, key, tags, sentences)


def _words_of_json(uri: str, text: str) -> tuple[list[str], list[str]]:
    """Tags and captions; a line in the log where the file has another form."""
    try:
        value: Any = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(_SIDECAR_JSON)
        tags, sentences = (value.get(name) or [] for name in ("tags", "captions"))
        for words in (tags, sentences):
            if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
                raise ValueError(_SIDECAR_JSON)
    except (ValueError, RecursionError) as e:
        _log.warning("%s: left out, cannot be read as words of a picture (%s)", uri, e)
        return [], []
    return tags, sentences


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
        beside: suffixes or paths of files that belong to these, which are neither found nor
            counted.

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
        elif key not in beside and PurePosixPath(key).suffix not in beside:
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
