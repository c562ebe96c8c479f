"""Pictures with all that is known of them, to probe what a model has learned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_OF_CLASS = 40
"""A class of fewer training pictures is not measured."""


@dataclass(frozen=True)
class Pictures:
    """Rows of an image dataset with all that is known of them.

    Args:
        features: float32 [N, D].
        tags: bool [N, V], of the model's vocabulary.
        labels: names of what is known to be true; for evaluation only.
        ids: of the pictures.
    """

    features: np.ndarray
    tags: np.ndarray
    labels: list[list[str]]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> Pictures:
        """Some of the rows, by number or mask."""
        numbers = np.arange(len(self))[rows]
        return Pictures(
            self.features[numbers],
            self.tags[numbers],
            [self.labels[i] for i in numbers],
            [self.ids[i] for i in numbers],
        )


def class_names(train: Pictures, least: int = LEAST_OF_CLASS) -> list[str]:
    """Labels of enough training pictures."""
    counts = Counter(label for labels in train.labels for label in labels)
    return sorted(label for label, n in counts.items() if n >= least)


def names_class(tag: str, classes: Sequence[str]) -> bool:
    """Whether a tag is the name of a class, or a word of it, singular or plural."""
    words = {w for name in classes for w in (name, *re.split(r"[\W_]+", name))}
    return _singular(tag) in {_singular(word.casefold()) for word in words}


def _singular(word: str) -> str:
    return word.removesuffix("s")


def truth_of(pictures: Pictures, classes: Sequence[str]) -> np.ndarray:
    """Which classes pictures have, bool [N, C]."""
    return np.array([[c in labels for c in classes] for labels in pictures.labels], bool)


def thinned(tags: np.ndarray, percent: int, seed: int) -> np.ndarray:
    """Tag sets bool [N, V] without a share of their tags, drawn by lot."""
    if percent <= 0:
        return tags.copy()
    if percent >= 100:
        return np.zeros_like(tags)
    return tags & (np.random.default_rng([seed, percent]).random(tags.shape) >= percent / 100)
