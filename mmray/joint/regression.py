"""Ridge regression of the tags on features, on given tags, and on both.

On few pictures it is hard to beat. Pictures are streamed: what is kept are sums of products, so
that a million of them need no more memory than a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg

from mmray.joint.metrics import quality
from mmray.joint.vocabulary import every_other

Kind = Literal["picture", "both", "tags"]
KINDS: tuple[Kind, ...] = ("picture", "both", "tags")
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Penalties that are tried, as shares of the inputs' variance."""
SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Regression:
    """A linear model of the tags.

    Args:
        weight: float32 [K, V].
        offset: float32 [V].
    """

    weight: np.ndarray
    offset: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Scores of the tags, about their probabilities: [N, K] -> float32 [N, V]."""
        return np.asarray(inputs @ self.weight + self.offset, np.float32)


class Moments:
    """Sums over pictures that all regressions are solved from.

    Every picture counts twice with given tags: once each other tag is given and the rest is asked
    for, and once the other way round.

    Args:
        dim: D, standardised features of a picture.
        num_tags: V.
    """

    def __init__(self, dim: int, num_tags: int) -> None:
        self.count = 0
        self.pictures, self.tags = np.zeros(dim), np.zeros(num_tags)
        self.picture_picture = np.zeros((dim, dim))
        self.picture_tag = np.zeros((dim, num_tags))
        self.given_given = np.zeros((num_tags, num_tags))
        self.given_asked = np.zeros((num_tags, num_tags))

    def add(self, pictures: np.ndarray, tags: np.ndarray) -> None:
        """Count pictures, standardised [N, D], with their tags, bool [N, V]."""
        given = every_other(tags).astype(np.float32)
        asked, x = tags - given, pictures.astype(np.float32)
        self.count += len(tags)
        self.pictures += x.sum(axis=0, dtype=np.float64)
        self.tags += tags.sum(axis=0)
        self.picture_picture += x.T @ x
        self.picture_tag += x.T @ tags.astype(np.float32)
        self.given_given += given.T @ given + asked.T @ asked
        crossed = given.T @ asked
        self.given_asked += crossed + crossed.T

    def covariances(self, kind: Kind) -> tuple[np.ndarray, ...]:
        """Means of inputs [K] and targets [V], and covariances [K, K] of inputs, [K, V] of both."""
        n, x, y = max(self.count, 1), self.pictures, self.tags
        if kind == "picture":
            inputs, targets = x / n, y / n
            square, product = self.picture_picture / n, self.picture_tag / n
        else:
            given, targets = y / (2 * n), y / (2 * n)
            inputs = given if kind == "tags" else np.concatenate([x / n, given])
            square, product = self.given_given / (2 * n), self.given_asked / (2 * n)
        if kind == "both":
            across = self.picture_tag / (2 * n)
            square = np.block([[self.picture_picture / n, across], [across.T, square]])
            product = np.concatenate([across, product])
        centred = square - np.outer(inputs, inputs), product - np.outer(inputs, targets)
        return inputs, targets, *centred

    def solve(self, kind: Kind, penalty: float) -> Regression:
        """The regression of one kind of inputs: features, features and given tags, given tags."""
        mean, target, square, product = self.covariances(kind)
        # All inputs at the same variance: the penalty is fair to rare tags, too.
        scale = 1 / np.sqrt(np.maximum(np.diag(square), SMALLEST_VARIANCE))
        gram = square * scale * scale[:, None] + penalty * np.eye(len(square))
        found = scipy.linalg.solve(gram, product * scale[:, None], assume_a="pos")
        weight = found * scale[:, None]
        return Regression(weight.astype(np.float32), (target - mean @ weight).astype(np.float32))


def regressions(moments: Moments, pictures: np.ndarray, tags: np.ndarray) -> dict[Kind, Regression]:
    """One regression for each kind, with the penalty that ranks held-out pictures' tags best.

    Args:
        moments: of the training pictures.
        pictures: held out, standardised [N, D].
        tags: that they have, bool [N, V].

    Returns:
        With nothing held out or counted, regressions that say 0.
    """
    return {kind: _best(moments, kind, pictures, tags) for kind in KINDS}


def _best(moments: Moments, kind: Kind, pictures: np.ndarray, tags: np.ndarray) -> Regression:
    given = every_other(tags)
    wanted = tags if kind == "picture" else tags & ~given
    rows = wanted.any(axis=1)
    if not moments.count or not rows.any():
        num_inputs = len(moments.covariances(kind)[0])
        nothing = np.zeros((num_inputs + 1, tags.shape[1]), np.float32)
        return Regression(nothing[1:], nothing[0])
    inputs, shown = inputs_of(kind, pictures, given)[rows], given[rows] & (kind != "picture")

    def rank(found: Regression) -> float:
        return quality(np.where(shown, -np.inf, found(inputs)), wanted[rows])

    return max((moments.solve(kind, penalty) for penalty in PENALTIES), key=rank)


def inputs_of(kind: Kind, pictures: np.ndarray | None, given: np.ndarray | None) -> np.ndarray:
    """What a regression sees: float32 [N, K]."""
    parts = {"picture": [pictures], "both": [pictures, given], "tags": [given]}[kind]
    return np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1)
