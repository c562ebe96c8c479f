"""The Open Clip Art Library: drawings with their authors' tags."""

from __future__ import annotations

import gzip
import html
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO
from xml.parsers import expat

from mmray import storage
from mmray.errors import UserError
from mmray.sources.folder import files
from mmray.sources.items import ImageItem

OPENCLIPART = "/usr/share/openclipart"
"""Where Debian's packages openclipart-png and openclipart-svg put them."""
DUPLICATES = "duplicates"
"""A folder of this name holds pictures that are elsewhere too."""
MAX_BYTES = 16 << 20
"""Tags are looked for in so much of a drawing."""

_CHUNK = 1 << 14
_GZIP = b"\x1f\x8b"

_log = logging.getLogger(__name__)


def images(where: str) -> Iterator[ImageItem]:
    """The pictures png/X.png with the tags in svg/X.svg, sorted by path.

    The label is the first folder on the way. Debian's package has 1,220 pictures twice, under two
    names, as links; they stay, as they are in the figures that others have published.

    Args:
        where: the folder with png and svg; empty is where Debian puts them.

    Raises:
        UserError: there is no such folder.
    """
    root = storage.absolute(where or OPENCLIPART)
    if not storage.exists(storage.join(root, "png")):
        raise UserError(
            f"{root}: has no folder png; install Debian's openclipart-png and openclipart-svg, or "
            "give openclipart:DIR"
        )
    return _images(root)


def _images(root: str) -> Iterator[ImageItem]:
    untagged: list[str] = []
    for uri, path in files(storage.join(root, "png"), frozenset({".png"})):
        if DUPLICATES in path.split("/")[:-1]:
            continue
        key = str(PurePosixPath(path).with_suffix(""))
        tags = _tags(root, key)
        if tags is None:
            untagged.append(key)
        first, slash, _ = key.partition("/")
        labels = [first] if slash else []
        yield ImageItem(uri, key, tags or [], labels=labels)
    if untagged:
        _log.warning(
            "%s: %d pictures have no readable SVG, so no tags, such as %s",
            root, len(untagged), untagged[0],
        )  # fmt: skip


def _tags(root: str, key: str) -> list[str] | None:
    """The tags of a drawing; None where it is missing or cannot be read."""
    for suffix in (".svg", ".svgz"):
        drawing = storage.join(root, "svg", f"{key}{suffix}")
        if not storage.exists(drawing):
            continue
        try:
            with storage.open_file(drawing) as source:
                return svg_tags(source)
        except (UserError, OSError, EOFError, zlib.error) as e:
            _log.debug("%s: %s", drawing, e)
            return None
    return None


def svg_tags(source: IO[bytes]) -> list[str] | None:
    """The tags (`dc:subject`) of an SVG file, also a compressed one.

    Entities are not expanded. Where the file is no well-formed XML, or declares entities, tags
    are what looks like them.

    Returns:
        The tags in their order; None where the file is broken and has nothing that looks like
        them.
    """
    start = source.read(len(_GZIP))
    source.seek(0)
    drawing = gzip.GzipFile(fileobj=source) if start == _GZIP else source
    data = bytearray()
    parser = _Subjects()
    while not parser.done and len(data) < MAX_BYTES:
        chunk = drawing.read(_CHUNK)
        data += chunk
        try:
            parser.feed(chunk)
        # The last two are for an encoding that expat does not know.
        except (expat.ExpatError, _EntityError, LookupError, ValueError):
            data += drawing.read(max(0, MAX_BYTES - len(data)))
            return _guessed(data)
    return parser.tags


class _EntityError(Exception):
    """A drawing declares an entity, of which a few can stand for gigabytes."""


class _Subjects:
    """A parser that is done where the metadata of a drawing end."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.done = False
        self._in_subject = False
        self._text: list[str] | None = None
        # Whatever prefixes a drawing chose, local names are behind the space.
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity

    def feed(self, chunk: bytes) -> None:
        """Parse what follows; nothing is the end of the file."""
        self._parser.Parse(chunk, not chunk)
        self.done = self.done or not chunk

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if local == "subject":
            self._in_subject = True
        elif local == "li" and self._in_subject:
            self._text = []

    def _end(self, name: str) -> None:
        local = name.rpartition(" ")[2]
        if local == "subject":
            self._in_subject = False
        elif local == "li" and self._text is not None:
            self.tags += _stripped(["".join(self._text)])
            self._text = None
        elif local == "metadata":
            self.done = True

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _entity(self, *declaration: object) -> None:
        raise _EntityError


# None of these can look at the same character twice, whatever a broken file holds.
_SUBJECT = re.compile(r"<(?:\w+:)?subject\b[^<>]*>")
_SUBJECT_END = re.compile(r"</(?:\w+:)?subject\b")
_TAG = re.compile(r"<(?:\w+:)?li\b[^<>]*>([^<>]*)<")


def _guessed(data: bytearray) -> list[str] | None:
    text = data.decode("utf-8", errors="replace")
    tags: list[str] = []
    start = _SUBJECT.search(text)
    if start is None:
        return None
    while start is not None:
        end = _SUBJECT_END.search(text, start.end())
        stop = end.start() if end else len(text)
        tags += _stripped([html.unescape(tag) for tag in _TAG.findall(text, start.end(), stop)])
        start = _SUBJECT.search(text, stop)
    return tags


def _stripped(tags: list[str]) -> list[str]:
    return [tag.strip() for tag in tags if tag.strip()]
