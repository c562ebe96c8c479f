"""The dataset that a storyteller learns from: passages of captions and of each style."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    }
)
MOST = 200_000
"""Passages of a style that are learned from, the first ones."""

_SHARD, _ROW_GROUP = 8192, 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Counts:
    """What a style has.

    Args:
        passages: that are kept.
        sentences: in them.
        left_out: passages that were more than `MOST`.
    """

    passages: int
    sentences: int
    left_out: int = 0


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
    counts = {PLAIN: _write(out, 0, PLAIN, _captions(captions))}
    if not counts[PLAIN].passages:
        raise UserError(
            f"{captions.uri}: no picture has a caption; a storyteller learns from captions how "
            "pictures are described"
        )
    known = itertools.islice(_captions(captions), 1000)
    script = texts.script_of(text for _, _, passage in known for text in passage)
    for name, uri in styles.items():
        found = _write(out, len(datasets.part_names(out)), name, _text(uri))
        check_style(uri, found.sentences, script)
        counts[name] = found
    rows = sum(c.passages for c in counts.values())
    manifest = {
        "schema_version": datasets.SCHEMA_VERSION,
        "kind": "passages",
        "source": captions.uri,
        "options": {"captions": captions.sha256, "styles": dict(styles)},
        "counts": {"rows": rows, "shards": len(datasets.part_names(out)), "errors": 0},
    }
    storage.write_json(storage.join(out, "manifest.json"), manifest)
    return counts


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
            known = [" ".join(c.split()) for c in row["captions"] or [] if texts.mostly_letters(c)]
            if known:
                yield row["id"], row["split"], list(map(_ended, dict.fromkeys(known)))


def _ended(caption: str) -> str:
    """With a full stop, as sentences have: people often leave it out of captions."""
    return caption if caption[-1] in ".!?" else f"{caption}."


def _text(uri: str) -> Iterator[_Row]:
    for passage in texts.passages(uri):
        digest = hashlib.md5("\n".join(passage).encode(), usedforsecurity=False).hexdigest()
        # By what is said, so that a passage that occurs twice is in one split.
        part = int(digest, 16) % 10
        yield digest[:20], "test" if part < 1 else "val" if part < 2 else "train", passage


def _write(out: str, part: int, style: str, rows: Iterator[_Row]) -> Counts:
    passages = sentences = 0
    seen: set[str] = set()
    while batch := list(itertools.islice(rows, min(_SHARD, MOST - passages))):
        fresh = list({row[0]: row for row in batch if row[0] not in seen}.values())
        seen.update(row[0] for row in fresh)
        passages += len(batch)
        sentences += sum(len(row[2]) for row in fresh)
        columns = {
            "id": [f"{style}-{row[0]}" for row in fresh],
            "split": [row[1] for row in fresh],
            "style": [style] * len(fresh),
            "sentences": [row[2] for row in fresh],
        }
        path = storage.join(out, datasets.PART.format(part))
        datasets.write_table(path, pa.table(columns, schema=SCHEMA), _ROW_GROUP)
        part += 1
        if passages >= MOST:
            break
    left_out = sum(1 for _ in rows) if passages >= MOST else 0
    return Counts(len(seen), sentences, left_out)
