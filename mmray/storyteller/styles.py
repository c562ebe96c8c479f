"""Styles: where a text's sentences are among all, and which pieces it prefers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmray.cli import console
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.storyteller.data import SENTENCE
from mmray.storyteller.model import StoryNet, vectors_of
from mmray.storyteller.passages import MOST, PLAIN, check_style, count_text, passages_of
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.texts import passages, script_of, words_of

MOST_READ = 20_000
"""Passages of a style that its vector is the mean of."""
_BATCH = 512


@dataclass(frozen=True)
class Style:
    """What is known of a style.

    Args:
        name: of the style.
        vector: mean of its passages' vectors, float32 [d].
        preference: natural logarithm of the share of each piece, float32 [V].
        words: of its passages, in small letters.
        passages: that the vector is the mean of.
    """

    name: str
    vector: np.ndarray
    preference: np.ndarray
    words: frozenset[str]
    passages: int


def style_of(net: StoryNet, pieces: Pieces, name: str, passages: Iterable[list[str]]) -> Style:
    """Learn a style from text; the net stays as it is.

    Args:
        net: encoder.
        pieces: its vocabulary.
        name: of the style.
        passages: lists of sentences; the vector is of the first `MOST_READ`.
    """
    total = np.zeros(net.config.dim)
    counts = np.full(len(pieces), 0.1)
    words: set[str] = set()
    number = 0
    for batch in _batches(passages):
        words.update(word for p in batch for sentence in p for word in words_of(sentence))
        told = [[pieces.encode(s) for s in passage] for passage in batch]
        flat = [sentence for passage in told for sentence in passage]
        counts += np.bincount(
            np.concatenate([np.asarray(s, np.int64) for s in flat]), minlength=len(pieces)
        )
        if number < MOST_READ:
            vectors = vectors_of(net, flat, SENTENCE).numpy()
            starts = np.cumsum([0, *map(len, told)])[:-1]
            sums = np.add.reduceat(vectors, starts)
            total += (sums / np.array([[len(p)] for p in told])).sum(0)
            number += len(batch)
    vector, shares = total / max(number, 1), np.log(counts / counts.sum())
    return Style(name, vector.astype("f4"), shares.astype("f4"), frozenset(words), number)


def styles_of(net: StoryNet, pieces: Pieces, data: str) -> dict[str, Style]:
    """The styles of a dataset of passages, captions (`PLAIN`) first."""
    dataset = Dataset(data, "passages")
    names = [PLAIN, *dataset.manifest["options"]["styles"]]
    told = {name: passages_of(dataset, name, "train") for name in names}
    return {name: style_of(net, pieces, name, passages) for name, passages in told.items()}


def add_styles(where: str, files: Mapping[str, str]) -> None:
    """Add styles to a model folder; the net stays as it is.

    Args:
        where: of a storyteller.
        files: texts by the style's name.

    Raises:
        UserError: a text cannot be used, or the model has a style of that name.
    """
    from mmray.storyteller import folder  # which knows styles, as we know it

    stored = folder.load(where)
    if taken := sorted({*files} & {*stored.styles}):
        raise UserError(
            f"--add-style {taken[0]}={files[taken[0]]}: {where} has a style of that name; choose "
            "another one"
        )
    # The pieces of captions, the most frequent ones, tell in which script they are.
    plain = stored.styles[PLAIN].preference
    script = script_of(stored.pieces.decode([int(p)]) for p in np.argsort(-plain)[:500])
    added = dict(stored.styles)
    for name, uri in files.items():
        count = count_text(uri)
        check_style(uri, count.sentences, script)
        known = itertools.islice(passages(uri), MOST)
        added[name] = style_of(stored.net, stored.pieces, name, known)
        console.print(f"{name}: {count.sentences} sentences")
    folder.write_styles(where, added)
    console.print(f"{where}: styles {', '.join(n for n in added if n != PLAIN)}")


def _batches(passages: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    for passage in passages:
        if passage:
            batch.append(passage)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
