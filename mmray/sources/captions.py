"""Files that say which pictures have which captions, and what is wrong with such files."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from mmray import storage
from mmray.errors import UserError

FILES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json")
"""Names of such files in a folder of pictures; the first that is there counts."""
SPLITS = {
    **{"train": "train", "val": "val", "test": "test"},
    # Karpathy's pictures of COCO's val that neither test nor validate; everyone trains on them.
    "restval": "train",
    **{"dev": "val", "valid": "val", "validation": "val"},
}

NO_CAPTION = "left out {} lines that are no caption of a picture"
NO_ELEMENT = "left out {} elements that are no picture with captions"
WRONG_SPLIT = "left out {} pictures whose split is none of train, val, test"
NO_WORDS = "left out {} empty captions"
NO_UTF8 = "read {} lines that are not UTF-8 with \ufffd in them"
TWO_SPLITS = "kept the first split of pictures that {} lines put into another"

_NAMES = ("image", "file_path", "filepath", "file_name", "filename", "image_name", "file", "path")
_CAPTIONS = ("captions", "caption")
_EXPECTED = {
    ".json": '[{"file_path": "a.jpg", "captions": ["A cat."]}, ...] or {"a.jpg": ["A cat."], ...}',
    ".jsonl": 'lines such as {"image": "a.jpg", "captions": ["A cat."]}',
    ".csv": "a line image,caption above lines such as a.jpg,A cat.",
    ".tsv": "image and caption with a tab between them, above lines of such",
}

_log = logging.getLogger(__name__)


class Flaws:
    """What of a file is not as it should be, told in one line of the log.

    Args:
        file: its path or URI.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, place: str, count: int = 1) -> None:
        """Count a flaw; `what` is a sentence with `{}` for the count."""
        self._counts[what] += count
        self._first.setdefault(what, place)

    def report(self) -> None:
        """Write the line, where there is something to tell."""
        told = [
            f"{what.format(count)} (first: {self._first[what]})"
            for what, count in self._counts.items()
        ]
        if told:
            _log.warning("%s: %s", self._file, "; ".join(told))


@dataclass
class Words:
    """What a file says of one picture; the split is None where it does not say."""

    captions: list[str] = field(default_factory=list)
    split: str | None = None


@dataclass(frozen=True)
class _Entry:
    place: str
    name: str
    captions: list[str | None]
    split: str | None


def read(file: str) -> dict[str, Words]:
    """The captions of each picture that a file such as `captions.json` names, in its order.

    JSON is a list of objects or an object of lists, JSON Lines an object a line, CSV and TSV a
    caption a line, of which a picture may have several. Names stay as they are written.

    Raises:
        UserError: the file is missing, of another form, or has no captions.
    """
    flaws = Flaws(file)
    suffix = PurePosixPath(file).suffix.lower()
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    words: dict[str, Words] = {}
    for entry in readers[suffix](file, flaws):
        said = words.setdefault(entry.name, Words(split=entry.split))
        if entry.split not in (None, said.split):
            if said.split is None:
                said.split = entry.split
            else:
                flaws.add(TWO_SPLITS, entry.place)
        said.captions += spoken(entry.captions, entry.place, flaws)
    flaws.report()
    if not any(said.captions for said in words.values()):
        raise _wrong(file, "no picture with captions")
    return words


def spoken(captions: list[str | None], place: str, flaws: Flaws) -> list[str]:
    """The captions that have words, without spaces around them; the others are counted."""
    # JSON can hold halves of characters, which no file can.
    whole = [(caption or "").encode("utf-8", "replace").decode() for caption in captions]
    texts = [caption.strip() for caption in whole]
    for text in texts:
        if not text:
            flaws.add(NO_WORDS, place)
    return [text for text in texts if text]


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a value can be the name of a file."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_lines(file: str, flaws: Flaws) -> Iterator[str]:
    """The lines of a file, as long as they are."""
    with storage.open_file(file) as source:
        for number, line in enumerate(source, 1):
            encoding = "utf-8-sig" if number == 1 else "utf-8"
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                flaws.add(NO_UTF8, f"line {number}")
                yield line.decode(encoding, errors="replace")


def table_rows(file: str, flaws: Flaws, tabs: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file that are not blank, each with the line where it starts.

    Args:
        file: its path or URI.
        flaws: takes the rows that cannot be read.
        tabs: columns are separated by tabs; quotation marks then mean themselves.
    """
    lines = text_lines(file, flaws)
    # Unless strict, a quotation mark that nothing closes takes in all lines up to the next.
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(lines, strict=True)
    )
    while True:
        before = reader.line_num
        place = f"line {before + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            flaws.add(NO_CAPTION, place, reader.line_num - before)
            continue
        if any(value.strip() for value in row):
            yield place, row


def _json(file: str, flaws: Flaws) -> Iterator[_Entry]:
    with storage.open_file(file) as source:
        data = source.read()
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise _wrong(file, f"no JSON ({e})") from e
    if isinstance(value, dict):
        elements: list[Any] = [
            {"file_path": name, **(said if isinstance(said, dict) else {"captions": said})}
            for name, said in value.items()
        ]
    elif isinstance(value, list):
        elements = value
    else:
        raise _wrong(file, f"{value!r:.80}")
    entries = 0
    for number, element in enumerate(elements, 1):
        entry = _entry(f"element {number}", element)
        if isinstance(entry, _Entry):
            entries += 1
            yield entry
        else:
            flaws.add(entry or NO_ELEMENT, f"element {number}")
    if not entries and elements:
        raise _wrong(file, f"{json.dumps(value):.80}")


def _json_lines(file: str, flaws: Flaws) -> Iterator[_Entry]:
    strange, entries = "", 0
    for number, line in enumerate(text_lines(file, flaws), 1):
        if not line.strip():
            continue
        try:
            entry = _entry(f"line {number}", json.loads(line))
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, _Entry):
            entries += 1
            yield entry
        else:
            strange = strange or line.strip()
            flaws.add(entry or NO_CAPTION, f"line {number}")
    if strange and not entries:
        raise _wrong(file, f"{strange:.80}")


def _table(file: str, flaws: Flaws) -> Iterator[_Entry]:
    rows = table_rows(file, flaws, tabs=file.lower().endswith(".tsv"))
    place, row = next(rows, ("", []))
    names = [name.strip().lower() for name in row]
    if any(name in _CAPTIONS for name in names) and any(name in _NAMES for name in names):
        following = rows
    elif len(row) == 2 and PurePosixPath(row[0].strip()).suffix:
        # Without a line of names.
        names, following = ["image", "caption"], _chained((place, row), rows)
    else:
        raise _wrong(file, f"{', '.join(row):.80}" if row else "no line")
    for place, row in following:
        named = dict(zip(names, row, strict=False))
        entry = _entry(place, named) if len(row) == len(names) else None
        if isinstance(entry, _Entry):
            yield entry
        else:
            flaws.add(entry or NO_CAPTION, place)


def _chained(
    first: tuple[str, list[str]], rest: Iterator[tuple[str, list[str]]]
) -> Iterator[tuple[str, list[str]]]:
    yield first
    yield from rest


def _entry(place: str, value: Any) -> _Entry | str | None:
    """What an object or a row says; a flaw, or None where it is no picture with captions."""
    if not isinstance(value, dict):
        return None
    name = next((value[n] for n in _NAMES if is_name(value.get(n))), "").strip()
    captions = next((value[n] for n in _CAPTIONS if n in value), None)
    if isinstance(captions, str):
        captions = [captions]
    if not name or not isinstance(captions, list):
        return None
    if any(not isinstance(caption, str | None) for caption in captions):
        return None
    split = value.get("split") or None
    if split is not None:
        split = SPLITS.get(split.strip().lower()) if isinstance(split, str) else None
        if split is None:
            return WRONG_SPLIT
    return _Entry(place, name, captions, split)


def _wrong(file: str, found: str) -> UserError:
    expected = _EXPECTED[PurePosixPath(file).suffix.lower()]
    return UserError(f"{file}: expected {expected}; found {found}")
