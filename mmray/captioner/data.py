"""Rows of an image dataset as batches of pictures and captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmray.captioner.cider import DocumentFrequencies
from mmray.captioner.decode import PAD
from mmray.captioner.tokenise import tokenise
from mmray.captioner.vocabulary import Words, word_hash
from mmray.pipeline.dataset import Dataset
from mmray.training.loader import Batch, Row

END_HASH = word_hash("<end>")
"""Stands for the end of a caption in rewards; without it captions break off."""
LONGEST_REFERENCE = 100
"""Words of a reference that are compared; more than people write."""


@dataclass(frozen=True)
class CaptionExamples:
    """Pictures with their captions.

    A batch has `picture` float32 [B, N, D]; `tokens` int64 [B, up to C, up to T + 2], captions as
    `Words.encode` gives them, those that a picture lacks all PAD; `has_captions` float32 [B]; and
    where rewards are asked for `references` int64 [B, R, L], the `word_hash` of every word of every
    caption, 0 where there is none, and in training `uniforms` float32 [B, S, T + 1], which decide
    what is sampled: so a reward does not depend on which worker has an example.

    Args:
        words: the vocabulary.
        max_length: T, most words of a caption.
        use_grid: the column `grid` (N = h w places), else `features` (N = 1).
        captions: C; in training drawn by lot from those of the picture, else the first ones.
        rewards: whether `references` are wanted.
        samples: S, captions that are drawn of each picture in training.
        names: whether names are copied (see `mmray.captioner.naming`).
    """

    words: Words = field(repr=False)
    max_length: int
    use_grid: bool
    captions: int = 5
    rewards: bool = False
    samples: int = 0
    names: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """See `mmray.training.loader.Examples`."""
        return ("grid" if self.use_grid else "features", "captions")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See `mmray.training.loader.Examples`."""
        texts = [[text for text in row["captions"] or [] if tokenise(text)] for row in rows]
        tokens = np.full((len(rows), self.captions, self.max_length + 2), PAD, np.int64)
        for i, known in enumerate(texts):
            if rngs and len(known) > self.captions:
                chosen = rngs[i].choice(len(known), self.captions, replace=False)
                known = [known[j] for j in chosen]
            for j, text in enumerate(known[: self.captions]):
                tokens[i, j] = self.words.encode(text, self.max_length)
        # No larger than it must be: most captions are far shorter than the longest that may be.
        each, long = ((tokens != PAD).any(axis=axes) for axes in ((0, 2), (0, 1)))
        tokens = tokens[:, : max(1, each.sum()), : max(2, long.sum())]
        batch: Batch = {
            "picture": torch.from_numpy(places_of(rows, self.columns[0])),
            "tokens": torch.from_numpy(tokens),
            "has_captions": torch.tensor([float(bool(known)) for known in texts]),
        }
        if self.rewards:
            batch["references"] = hashed(texts)
        if self.samples and rngs:
            shape = (self.samples, self.max_length + 1)
            uniforms = np.stack([rng.random(shape, np.float32) for rng in rngs])
            batch["uniforms"] = torch.from_numpy(uniforms)
        if self.names and rngs:
            drawn = np.stack([rng.random((self.captions, self.max_length + 2)) for rng in rngs])
            lots = drawn[:, : tokens.shape[1], : tokens.shape[2]].astype(np.float32)
            batch["lots"] = torch.from_numpy(lots)
        return batch


def places_of(rows: Sequence[Row], column: str) -> np.ndarray:
    """Pictures as places: float32 [B, N, D], of grids [h, w, D] or of features [D]."""
    return as_places(np.stack([row[column] for row in rows]).astype(np.float32))


def as_places(values: np.ndarray) -> np.ndarray:
    """Grids [B, h, w, D] or features [B, D] as places [B, N, D]."""
    # Not -1: there may be no pictures.
    return values.reshape(len(values), math.prod(values.shape[1:-1]), values.shape[-1])


def hashed(texts: Sequence[Sequence[str]]) -> Tensor:
    """The words of captions as numbers: int64 [B, R, L], 0 where there is none."""
    words = [[tokenise(text).split()[:LONGEST_REFERENCE] for text in known] for known in texts]
    most = max((len(known) for known in words), default=0)
    longest = max((len(caption) for known in words for caption in known), default=0)
    table = np.zeros((len(texts), max(most, 1), max(longest, 1)), np.int64)
    for i, known in enumerate(words):
        for j, caption in enumerate(known):
            table[i, j, : len(caption)] = [word_hash(word) for word in caption]
    return torch.from_numpy(table)


def references_of(table: Tensor) -> list[list[list[int]]]:
    """The captions of a batch's `references`, each a list of its words' numbers."""
    return [
        [[word for word in caption if word] for caption in known if caption[0]]
        for known in table.tolist()
    ]


def caption_lists(dataset: Dataset, split: str, limit: int | None = None) -> Iterator[list[str]]:
    """The captions of each picture of a split that has any, streamed."""
    for table in dataset.batches(["captions"], 4096, split=split, limit=limit):
        for texts in table["captions"].to_pylist():
            if known := [text for text in texts or [] if tokenise(text)]:
                yield known


def frequencies_of(lists: Iterator[list[str]], end: bool) -> DocumentFrequencies:
    """In how many pictures' captions each phrase occurs, of `word_hash`es.

    Args:
        lists: captions of each picture.
        end: count the end of captions as a word.
    """
    last = [END_HASH] if end else []
    return DocumentFrequencies.of(
        [[*map(word_hash, tokenise(text).split()[:LONGEST_REFERENCE]), *last] for text in texts]
        for texts in lists
    )
