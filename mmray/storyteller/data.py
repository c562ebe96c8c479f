"""Rows of a dataset of passages as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mmray.captioner.decode import END, PAD, START
from mmray.storyteller.model import padded
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.pieces import Pieces
from mmray.training.loader import Batch, Row

SENTENCE = 32
"""Pieces of a sentence that are read; what comes after adds little to its meaning."""
READ = 5
"""Sentences of a passage that are read, at most."""


@dataclass(frozen=True)
class StoryExamples:
    """Passages, what they are written from, and what is mixed in.

    A batch has `sentences` int64 [B, 2 N, S]: up to N of the passage, then up to N of another one;
    `share` float32 [B, 2 N], their parts in what is read; `tokens` int64 [B, L + 2], START, the
    passage, and END where it was not cut; `pair` int64 [B, 2], the numbers of two of its sentences,
    twice the same where it has one; and in training `noise` float32 [B, d].

    Args:
        pieces: the vocabulary.
        max_length: L.
        dim: d, of the noise.
        mixing: largest share of the other passage.
        noise: length of the noise.
    """

    pieces: Pieces = field(repr=False)
    max_length: int
    dim: int
    mixing: float = 0.0
    noise: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """See `mmray.training.loader.Examples`."""
        return ("style", "sentences")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See `mmray.training.loader.Examples`."""
        known = [[self.pieces.encode(s) for s in row["sentences"]] for row in rows]
        read, tokens, pairs = [], [], []
        share = np.zeros((len(rows), 2 * READ), np.float32)
        for i, (row, passage) in enumerate(zip(rows, known, strict=True)):
            rng = rngs[i] if rngs else None
            source, told = self._window(passage, row["style"] == PLAIN, rng)
            other: list[list[int]] = []
            if rng is not None and rng.random() < 0.5:
                other = [self.pieces.encode(s) for s in neighbours[i]["sentences"][:READ]]
            part = rng.uniform(0, self.mixing) if rng is not None and other else 0.0
            share[i, : len(source)] = (1 - part) / len(source)
            share[i, READ : READ + len(other)] = part / max(len(other), 1)
            read += [*source, *[[]] * (READ - len(source)), *other, *[[]] * (READ - len(other))]
            tokens.append(self._tokens(told))
            pairs.append([0, min(1, len(source) - 1)])
        longest = max(len(t) for t in tokens)
        batch: Batch = {
            "sentences": padded(read, SENTENCE).view(len(rows), 2 * READ, -1),
            "share": torch.from_numpy(share),
            "tokens": padded(tokens, longest),
            "pair": torch.tensor(pairs),
        }
        if rngs:
            drawn = np.stack([rng.standard_normal(self.dim) for rng in rngs])
            batch["noise"] = torch.from_numpy(
                (self.noise * drawn / self.dim**0.5).astype(np.float32)
            )
        return batch

    def _window(
        self, passage: list[list[int]], plain: bool, rng: np.random.Generator | None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Sentences that are read, and those that are told.

        Captions all say the same in other words: any of them are read to tell one to three of them.
        Of a book what is read is told, but for a sentence now and then.
        """
        if rng is None:
            return passage[:READ], passage[: 3 if plain else None]
        if plain:
            order = rng.permutation(len(passage))
            read = [passage[i] for i in order[: rng.integers(1, READ + 1)]]
            told = [passage[i] for i in rng.permutation(len(passage))[: rng.integers(1, 4)]]
            return read, told
        first = int(rng.integers(len(passage)))
        told = passage[first : first + int(rng.integers(1, READ))]
        order = rng.permutation(len(told))
        missing = int(len(told) > 2 and rng.random() < 0.5)
        return [told[i] for i in order[: len(told) - missing]][:READ], told

    def _tokens(self, told: list[list[int]]) -> list[int]:
        """START, as many whole sentences as fit, END; a first sentence that is too long is cut."""
        pieces: list[int] = []
        for sentence in told:
            if pieces and len(pieces) + len(sentence) > self.max_length:
                break
            pieces += sentence
        ended = [END] if len(pieces) <= self.max_length else [PAD]
        return [START, *pieces[: self.max_length], *ended]
