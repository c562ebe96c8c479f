"""The dataset that a storyteller learns from: passages of captions and of each style."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline import dataset as datasets
from mmray.pipeline.dataset import Dataset
from mmray.storyteller import texts

PLAIN = "plain"
"""The style of captions."""
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "style": pa.string(),
        "sentences": pa.list_(pa.string()),
        # Of a picture; only where the style is that of a book.
        "captions": pa.list_(pa.string()),
    }
)
FORMAT = 2
"""Of the dataset; it changes when the same texts become other passages."""
MOST = 200_000
"""Passages of a style that are learned from, the first ones."""
REPEATS = 8
"""How often a short text is read, at most, beside long ones."""

_SHARD, _ROW_GROUP = 8192, 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Counts:
    """What a style has.

    Args:
        passages: that are kept.
        sentences: in them.
        cut: whether there are more than `MOST`, which are left out.
        train: passages of the split train, each once.
        repeats: how often the dataset has those.
    """

    passages: int
    sentences: int
    cut: bool = False
    train: int = 0
    repeats: int = 1


def parse_styles(given: Sequence[str], flag: str = "--style") -> dict[str, str]:
    """`NAME=FILE` flags as files by name.

    Raises:
        UserError: names the flag, and what is expected.
    """
    styles: dict[str, str] = {}
    for text in given:
        name, equals, uri = text.partition("=")
        if not equals or not uri or not _NAME.fullmatch(name):
            raise UserError(
                f"{flag} {text}: expected NAME=FILE, with a name of small letters, digits, - and _"
            )
        if name == PLAIN or name in styles:
            taken = "is the name of captions" if name == PLAIN else "is given twice"
            raise UserError(f"{flag} {text}: {name!r} {taken}; choose another name")
        styles[name] = uri
    return styles


def write_passages(captions: Dataset, styles: Mapping[str, str], out: str) -> dict[str, Counts]:
    """Write the dataset, streaming.

    Passages of all styles take turns, so that any part of the dataset has all of them. Short texts
    are there several times, so that they have about half as many passages as the longest.

    Args:
        captions: an image dataset; each picture's captions are a passage of the style `PLAIN`.
        styles: text files by name.
        out: folder of the dataset, of kind `passages`.

    Returns:
        What each style has.

    Raises:
        UserError: a file cannot be used, or there are no captions.
    """
    storage.remove(out)
    counts = {PLAIN: _count(_captions(captions))}
    if not counts[PLAIN].train:
        raise UserError(
            f"{captions.uri}: no picture of the split 'train' has a caption; a storyteller learns "
            "from captions how pictures are described"
        )
    known = itertools.islice(_captions(captions), 1000)
    script = texts.script_of(text for _, _, passage in known for text in passage)
    for name, uri in styles.items():
        counts[name] = count_text(uri)
        check_style(uri, counts[name].sentences, script)
    wanted = max(count.train for count in counts.values()) / 2
    for name, count in counts.items():
        repeats = min(REPEATS, max(1, round(wanted / max(1, count.train))))
        counts[name] = dataclasses.replace(count, repeats=repeats)
    rows = _write(out, _in_turn(captions, styles, counts), _endless(captions))
    manifest = {
        "schema_version": datasets.SCHEMA_VERSION,
        "kind": "passages",
        "source": captions.uri,
        "options": options_of(captions, styles),
        "counts": {"rows": rows, "shards": len(datasets.part_names(out)), "errors": 0},
    }
    storage.write_json(storage.join(out, "manifest.json"), manifest)
    return counts


def options_of(captions: Dataset, styles: Mapping[str, str]) -> dict[str, Any]:
    """What a dataset of passages is made of: hashes, so that changed files are noticed."""
    return {
        "format": FORMAT,
        "captions": captions.sha256,
        "styles": {name: _sha256(uri) for name, uri in styles.items()},
    }


def check_style(uri: str, sentences: int, script: str) -> None:
    """Refuse a text that no style can be learned from.

    Args:
        uri: of the text.
        sentences: that can be used.
        script: of the captions, as `texts.script_of` names it.

    Raises:
        UserError: too few sentences, or another script.
    """
    if sentences < texts.LEAST:
        raise UserError(
            f"{uri}: has {sentences} sentences that can be used; a style needs {texts.LEAST} or "
            "more, about 50 KB of prose"
        )
    sample = itertools.islice(texts.passages(uri), 1000)
    other = texts.script_of(text for passage in sample for text in passage)
    if other != script:
        raise UserError(
            f"{uri}: is written in {other.title()} letters, the captions in {script.title()}; "
            "what pictures show would have no words there. Give captions in the text's language, "
            "or a translation"
        )


_Row = tuple[str, str, list[str]]


def _captions(captions: Dataset) -> Iterator[_Row]:
    """Id, split and captions of each picture that has any."""
    for table in captions.batches(["id", "split", "captions"], 4096):
        for row in table.to_pylist():
            usable = (c for c in row["captions"] or [] if texts.mostly_letters(c))
            known = list(dict.fromkeys(map(texts.as_sentence, usable)))
            if known:
                yield row["id"], row["split"], known


def _text(uri: str) -> Iterator[_Row]:
    for passage in texts.passages(uri):
        digest = hashlib.md5("\n".join(passage).encode(), usedforsecurity=False).hexdigest()
        # By what is said, so that a passage that occurs twice is in one split.
        part = int(digest, 16) % 10
        yield digest[:20], "test" if part < 1 else "val" if part < 2 else "train", passage


def count_text(uri: str) -> Counts:
    """What a text has; what it says twice counts once."""
    return _count(_text(uri))


def passages_of(dataset: Dataset, style: str, split: str) -> Iterator[list[str]]:
    """The passages of a style in a split of a dataset of passages."""
    for table in dataset.batches(["style", "sentences"], 4096, split=split):
        for row in table.to_pylist():
            if row["style"] == style:
                yield row["sentences"]


def _count(rows: Iterator[_Row]) -> Counts:
    """What `_once` keeps of a style, and what it leaves out."""
    passages = sentences = train = 0
    for _, split, told in _once(rows):
        passages += 1
        sentences += len(told)
        train += split == "train"
    return Counts(passages, sentences, next(rows, None) is not None, train)


def _once(rows: Iterator[_Row]) -> Iterator[_Row]:
    """The first `MOST` rows; what is there twice, once."""
    seen: set[str] = set()
    for row in itertools.islice(rows, MOST):
        if row[0] not in seen:
            seen.add(row[0])
            yield row


def _in_turn(
    captions: Dataset, styles: Mapping[str, str], counts: Mapping[str, Counts]
) -> Iterator[tuple[str, _Row]]:
    """The rows of all styles with the style's name, each style spread evenly over all."""

    def repeated(name: str) -> Iterator[tuple[float, str, _Row]]:
        count = counts[name]
        total = count.passages + (count.repeats - 1) * count.train
        place = itertools.count()
        for time in range(count.repeats):
            rows = _captions(captions) if name == PLAIN else _text(styles[name])
            for key, split, told in _once(rows):
                if not time or split == "train":
                    told_key = f"{name}-{key}~{time}" if time else f"{name}-{key}"
                    yield (next(place) + 0.5) / total, name, (told_key, split, told)

    spread = heapq.merge(*map(repeated, counts), key=lambda found: found[0])
    return ((name, row) for _, name, row in spread)


def _write(out: str, rows: Iterator[tuple[str, _Row]], pictures: Iterator[list[str]]) -> int:
    """Write shards, books' passages with a picture's captions each; returns the number of rows."""
    total = 0
    for part in itertools.count():
        batch = list(itertools.islice(rows, _SHARD))
        if not batch:
            return total
        columns = {
            "id": [row[0] for _, row in batch],
            "split": [row[1] for _, row in batch],
            "style": [style for style, _ in batch],
            "sentences": [row[2] for _, row in batch],
            "captions": [None if style == PLAIN else next(pictures) for style, _ in batch],
        }
        path = storage.join(out, datasets.PART.format(part))
        datasets.write_table(path, pa.table(columns, schema=SCHEMA), _ROW_GROUP)
        total += len(batch)
    raise AssertionError("counting never ends")


def _endless(captions: Dataset) -> Iterator[list[str]]:
    """The captions of the training pictures, again and again."""
    while True:
        yield from (told for _, split, told in _captions(captions) if split == "train")


def _sha256(uri: str) -> str:
    try:
        source = storage.open_file(uri)
    except OSError as e:
        raise UserError(f"{uri}: cannot be read ({e}); expected a text file") from e
    digest = hashlib.sha256()
    with source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
