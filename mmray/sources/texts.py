"""Small text files that people wrote: tags of one picture, names of many."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from mmray import storage
from mmray.errors import UserError

MAX_BYTES = 16 << 20
"""A larger file is no list of words, and is left out."""

# Python sets aside as much memory as is asked for, which takes its time.
_USUAL_BYTES = 1 << 14
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Not str.splitlines, which also ends a line at characters that occur inside of tags.
_LINE_END = re.compile(r"\r\n?|\n")

_log = logging.getLogger(__name__)


def read(uri: str) -> str | None:
    """The text of a file, or None and a line in the log where it cannot be read as text.

    Text is UTF-8 with or without a byte order mark, else UTF-16 with one, else Latin-1.
    """
    try:
        with storage.open_file(uri) as source:
            data = source.read(_USUAL_BYTES)
            if len(data) == _USUAL_BYTES:
                data += source.read(MAX_BYTES)
        return _decoded(data)
    except (UserError, OSError, UnicodeError) as e:
        _log.warning("%s: left out, cannot be read as text (%s)", uri, e)
        return None


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise UserError(f"has more than {MAX_BYTES >> 20} MiB")
    if data.startswith(_UTF_16):
        return data.decode("utf-16")
    if b"\0" in data:
        raise UserError("is binary")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def lines(text: str) -> Iterator[str]:
    """The lines that are not blank, without spaces around them."""
    return (line.strip() for line in _LINE_END.split(text) if line.strip())


def tags(text: str) -> list[str]:
    """One tag a line; a single line with commas is several."""
    found = list(lines(text))
    if len(found) == 1:
        found = [tag.strip() for tag in found[0].split(",") if tag.strip()]
    return found
