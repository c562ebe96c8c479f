"""Rows of an image dataset as batches of pictures and tag sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mmray.joint.vocabulary import Vocabulary, every_other
from mmray.training.loader import Batch, Row


@dataclass(frozen=True)
class JointExamples:
    """Pictures with their tags, and some of the tags given away.

    A batch has `features` float32 [B, D]; `tags` float32 [B, V], 1 for each tag that a picture
    has; `given` float32 [B, V], those of them that the model is shown; `has_tags` float32 [B]; in
    training also `noise` uint8 [B, noise], from which all dropout is made: so the losses do not
    depend on which worker has an example.

    In training a picture is mixed with another (mixup: Zhang et al., ICLR 2018) and so are the
    tags, when both pictures have tags or both have none.

    Args:
        vocabulary: the tags that are known.
        noise: random bytes of an example.
        mixup: parameter of the Beta distribution of the mix; 0 for none.
    """

    vocabulary: Vocabulary = field(repr=False)
    noise: int = 0
    mixup: float = 0.0

    columns = ("features", "tags")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See `mmray.training.loader.Examples`."""
        features = np.stack([row["features"] for row in rows]).astype(np.float32)
        tags = self._tags(rows)
        if not rngs:
            # Every other tag is shown, always the same ones.
            return self._batch(features, tags, every_other(tags).astype(np.float32))
        if self.mixup > 0:
            others = np.stack([row["features"] for row in neighbours]).astype(np.float32)
            other_tags = self._tags(neighbours)
            mix = np.array([rng.beta(self.mixup, self.mixup) for rng in rngs], np.float32)
            mix = np.maximum(mix, 1 - mix)
            mix[tags.any(axis=1) != other_tags.any(axis=1)] = 1.0
            features = mix[:, None] * features + (1 - mix[:, None]) * others
            tags = mix[:, None] * tags + (1 - mix[:, None]) * other_tags
        shown = np.stack([rng.random(tags.shape[1]) < rng.random() for rng in rngs])
        batch = self._batch(features, tags, tags * shown)
        noise = [rng.integers(0, 256, self.noise, dtype=np.uint8) for rng in rngs]
        return {**batch, "noise": torch.from_numpy(np.stack(noise))}

    def _tags(self, rows: Sequence[Row]) -> np.ndarray:
        table = np.zeros((len(rows), len(self.vocabulary)), np.float32)
        for i, row in enumerate(rows):
            table[i, self.vocabulary.known(row["tags"] or [])] = 1.0
        return table

    def _batch(self, features: np.ndarray, tags: np.ndarray, given: np.ndarray) -> Batch:
        return {
            "features": torch.from_numpy(features),
            "tags": torch.from_numpy(tags),
            "given": torch.from_numpy(given),
            "has_tags": torch.from_numpy(tags.any(axis=1).astype(np.float32)),
        }


class Sample:
    """Rows that stream by, at most so many of them, each as likely as any other.

    Vitter, *Random Sampling with a Reservoir* (ACM TOMS, 1985), algorithm R. All rows, in their
    order, where there are no more; the same rows again for the same stream.
    """

    def __init__(self, most: int, seed: int = 0) -> None:
        self._most, self._seen, self._rng = most, 0, np.random.default_rng(seed)
        self._rows: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *columns: Sequence[Any] | np.ndarray) -> None:
        """Look at the next rows; each column has a value for each of them."""
        for row in zip(*columns, strict=True):
            place = self._seen if self._seen < self._most else self._rng.integers(self._seen + 1)
            self._seen += 1
            if place < self._most:
                # A copy: a view would keep the whole batch.
                kept = tuple(x.copy() if isinstance(x, np.ndarray) else x for x in row)
                self._rows[place : place + 1] = [kept]

    def columns(self) -> tuple[list[Any], ...]:
        """The values of the rows that were kept, one list for each column."""
        return tuple(map(list, zip(*self._rows, strict=True)))
