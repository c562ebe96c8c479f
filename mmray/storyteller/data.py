"""Rows of a dataset of passages as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mmray.captioner.decode import END, PAD, START
from mmray.storyteller.model import padded
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.splice import splice
from mmray.training.loader import Batch, Row

SENTENCE = 32
"""Pieces of a sentence that are read; what comes after adds little to its meaning."""
READ = 5
"""Sentences of a passage that are read, at most."""
FAINT = 0.1
"""Strength below which nothing is the book's."""
_FEW = 40
"""Words up to the end of a spliced sentence."""
MOST_BOOK = 0.75
"""Share of a spliced sentence's words that are the book's, at full strength."""


@dataclass(frozen=True)
class StoryExamples:
    """Passages, and what they are written from.

    A passage is told from sentences of its own; or, in training, one of a book from captions: then
    it is spliced with them (see `mmray.storyteller.splice`), the more of the book the greater the
    strength.

    A batch has `sentences` int64 [B, N, S], those that are read; `share` float32 [B, N], their
    parts in what is read; `read_style` and `style` int64 [B], the numbers of the style that is read
    and of the one that is told; `strength` float32 [B], how far what is read is moved from the one
    to the other; `tokens` int64 [B, L + 2], START, the passage, and END where it was not cut;
    `pair` int64 [B, 2], the numbers of two of its sentences, twice the same where it has one; and
    in training `noise` float32 [B, d].

    Args:
        pieces: the vocabulary.
        max_length: L.
        dim: d, of the noise.
        pivots: of each style, `PLAIN` first, the words at which it is spliced with captions.
        splice: share of a book's passages that are spliced.
        noise: length of the noise.
    """

    pieces: Pieces = field(repr=False)
    max_length: int
    dim: int
    pivots: Mapping[str, frozenset[str]] = field(repr=False)
    splice: float = 0.0
    noise: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """See `mmray.training.loader.Examples`."""
        return ("style", "sentences", "captions")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See `mmray.training.loader.Examples`; nothing is mixed."""
        examples = [self._example(row, rngs[i] if rngs else None) for i, row in enumerate(rows)]
        read = [[self.pieces.encode(s) for s in e.read] for e in examples]
        told = [self._tokens([self.pieces.encode(s) for s in e.told]) for e in examples]
        share = np.zeros((len(rows), READ), np.float32)
        for i, sentences in enumerate(read):
            share[i, : len(sentences)] = 1 / len(sentences)
        numbers = {name: number for number, name in enumerate(self.pivots)}
        flat = [sentence for r in read for sentence in [*r, *[[]] * (READ - len(r))]]
        batch: Batch = {
            "sentences": padded(flat, SENTENCE).view(len(rows), READ, -1),
            "share": torch.from_numpy(share),
            "read_style": torch.tensor([numbers[e.read_style] for e in examples]),
            "style": torch.tensor([numbers[row["style"]] for row in rows]),
            "strength": torch.tensor([e.strength for e in examples]),
            "tokens": padded(told, max(len(t) for t in told)),
            "pair": torch.tensor([[0, min(1, len(e.read) - 1)] for e in examples]),
        }
        if rngs:
            drawn = np.stack([rng.standard_normal(self.dim) for rng in rngs])
            batch["noise"] = torch.from_numpy(
                (self.noise * drawn / self.dim**0.5).astype(np.float32)
            )
        return batch

    def _example(self, row: Row, rng: np.random.Generator | None) -> _Example:
        """What is read of a passage, and what is told.

        Captions all say the same in other words: any of them are read to tell one to three of them.
        Of a book what is read is told, but for a sentence now and then.
        """
        passage, style = row["sentences"], row["style"]
        plain = style == PLAIN
        if rng is None:
            return _Example(passage[:READ], passage[: 3 if plain else None], style)
        if plain:
            return _Example(_some(passage, READ, rng), _some(passage, 3, rng), style)
        first = int(rng.integers(len(passage)))
        if row["captions"] and rng.random() < self.splice:
            return self._spliced(passage[first:], row["captions"], style, rng)
        told = passage[first : first + int(rng.integers(1, READ))]
        missing = int(len(told) > 2 and rng.random() < 0.5)
        order = rng.permutation(len(told))
        return _Example([told[i] for i in order[: len(told) - missing]][:READ], told, style)

    def _spliced(
        self, passage: list[str], captions: list[str], style: str, rng: np.random.Generator
    ) -> _Example:
        """A book's passage about a picture: one of its sentences is spliced with a caption.

        Where they cannot be spliced, the caption stands beside the sentence.
        """
        read, strength = _some(captions, READ, rng), float(rng.random())
        if strength < FAINT:
            return _Example(read, _some(captions, 1, rng), PLAIN, strength)
        told = passage[: 1 + int(rng.binomial(2, strength / 2))]
        at = int(rng.integers(len(told)))
        if sum(len(sentence.split()) for sentence in told[: at + 1]) > _FEW:
            at = 0  # else it would be cut off
        wanted = MOST_BOOK * (strength - FAINT) / (1 - FAINT)
        tried = _some(captions, len(captions), rng)
        found = (splice(told[at], caption, wanted, self.pivots[style], rng) for caption in tried)
        joined = next(filter(None, found), None)
        about = [joined] if joined else [told[at], tried[0]][:: int(rng.choice([1, -1]))]
        return _Example(read, [*told[:at], *about, *told[at + 1 :]], PLAIN, strength)

    def _tokens(self, told: list[list[int]]) -> list[int]:
        """START, as many whole sentences as fit, END; a first sentence that is too long is cut."""
        pieces: list[int] = []
        for sentence in told:
            if pieces and len(pieces) + len(sentence) > self.max_length:
                break
            pieces += sentence
        ended = [END] if len(pieces) <= self.max_length else [PAD]
        return [START, *pieces[: self.max_length], *ended]


@dataclass(frozen=True)
class _Example:
    read: list[str]
    told: list[str]
    read_style: str
    strength: float = 0.0


def _some(sentences: list[str], most: int, rng: np.random.Generator) -> list[str]:
    """One to `most` of them, in any order."""
    order = rng.permutation(len(sentences))
    return [sentences[i] for i in order[: rng.integers(1, most + 1)]]
