"""What the joint vector knows that nobody told it: classes, swaps and analogies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmray.joint.baselines import ClassRegression
from mmray.joint.memory import Memory
from mmray.joint.scorer import Scorer

LEAST_OF_CLASS = 40
"""A class of fewer training pictures is not measured."""
REMOVED = (0, 25, 50, 75, 100)
"""Percent of the tags that are taken away."""


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


class ClassProbe:
    """A class of pictures from the joint vector, by regression and by the nearest pictures.

    Args:
        scorer: the model.
        train: pictures with the tags that may be shown.
        truth: their classes, bool [N, C].
        seed: of what is drawn by lot.
    """

    def __init__(self, scorer: Scorer, train: Pictures, truth: np.ndarray, seed: int) -> None:
        self.scorer, self.train, self.truth, self.seed = scorer, train, truth, seed
        self._fitted: dict[tuple[bool, bool], tuple[ClassRegression, Memory, list[np.ndarray]]] = {}

    def scores(self, features: np.ndarray | None, tags: np.ndarray | None) -> np.ndarray:
        """Scores of the classes, [M, C]; without any tag a picture's are those of the picture."""
        scores = self._scores(features, tags)
        if features is not None and tags is not None and len(bare := np.flatnonzero(~tags.any(1))):
            scores[bare] = self._scores(features[bare], None)
        return scores

    def _scores(self, features: np.ndarray | None, tags: np.ndarray | None) -> np.ndarray:
        use = (features is not None, tags is not None)
        if use not in self._fitted:
            self._fitted[use] = self._fit(*use)
        regression, memory, known = self._fitted[use]
        views = self._views(features, tags)
        whole = [_scaled(view, like) for view, like in zip(views, known, strict=True)]
        return regression.scores(views) + memory.votes(np.concatenate(whole, axis=1))

    def _fit(
        self, use_pictures: bool, use_tags: bool
    ) -> tuple[ClassRegression, Memory, list[np.ndarray]]:
        known = self._views(
            self.train.features if use_pictures else None, self.train.tags if use_tags else None
        )
        near = np.concatenate([_scaled(view, view) for view in known], axis=1)
        regression = ClassRegression(known, self.truth, self.seed)
        return regression, Memory(near, self.truth), known

    def pathways(self, test: Pictures) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What each side makes alone of the training pictures and of others, and both `jointly`."""
        known, asked = (
            {
                **self.scorer.pathways(p.features, p.tags),
                "jointly": self.scorer.vectors(p.features, p.tags),
            }
            for p in (self.train, test)
        )
        return {side: (known[side], asked[side]) for side in known}

    def _views(self, features: np.ndarray | None, tags: np.ndarray | None) -> list[np.ndarray]:
        views = [self.scorer.vectors(features, tags)]
        if tags is not None and features is not None:
            views.append(self.scorer.vectors(None, tags))
        if features is not None and tags is None:
            views.append(features)
        return views


def _scaled(view: np.ndarray, like: np.ndarray) -> np.ndarray:
    return (view - like.mean(0)) / (like.std(0) + 1e-6) / view.shape[1] ** 0.5
