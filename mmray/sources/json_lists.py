"""The lists in a JSON file that is too large to be read at once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from mmray import storage
from mmray.errors import UserError

MAX_CHARS = 64 << 20
"""Of one element; a longer one is a fault of the file."""

_CHUNK = 1 << 20
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def elements(where: str) -> Iterator[tuple[str, Any]]:
    """Each element of each list of the object that a file holds, with the name of the list.

    Values of the object that are no lists are skipped.

    Raises:
        UserError: the file is missing, or no such JSON; that comes when the fault is reached.
    """
    with storage.open_file(where) as source:
        text = _Text(io.TextIOWrapper(source, encoding="utf-8-sig"))
        try:
            yield from _lists(text)
        except (ValueError, RecursionError, OSError) as e:
            # Where json tells of lines and columns, it means those of the part in memory.
            reason = e.msg if isinstance(e, json.JSONDecodeError) else e
            raise UserError(f"{where}: is not a JSON file with lists ({reason})") from e


def _lists(text: _Text) -> Iterator[tuple[str, Any]]:
    text.expect("{")
    if text.peek() == "}":
        return
    more = ","
    while more == ",":
        name = text.value()
        text.expect(":")
        if text.peek() == "[":
            for value in _list(text):
                yield name, value
        else:
            text.value()
        more = text.expect(",}")


def _list(text: _Text) -> Iterator[Any]:
    text.expect("[")
    if text.peek() == "]":
        text.expect("]")
        return
    more = ","
    while more == ",":
        yield text.value()
        more = text.expect(",]")


class _Text:
    """Text of which only the part being looked at is in memory."""

    def __init__(self, source: IO[str]) -> None:
        self._source = source
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def expect(self, choices: str) -> str:
        """Take the next character, which must be one of these."""
        found = self.peek()
        if not found or found not in choices:
            wanted = " or ".join(choices)
            raise ValueError(f"expected {wanted}, found {found or 'the end of the file'}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if not self._read():
                    raise
                continue
            # A number that ends where the text in memory ends may go on.
            if end < len(self._text) or not self._read():
                self._at = min(end, len(self._text))
                return value

    def _read(self) -> bool:
        rest = self._text[self._at :]
        if len(rest) > MAX_CHARS:
            raise UserError(f"one value has more than {MAX_CHARS >> 20} million characters")
        block = self._source.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + block, 0
        return bool(block)
