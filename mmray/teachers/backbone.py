"""The frozen nets through which models see pictures: pixels in, a vector of features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmray.media.image import Fit, square
from mmray.teachers.teacher import Teacher, load_teacher


class Backbone:
    """One or more frozen nets, whose descriptions of a picture are joined to one vector.

    Args:
        nets: specs, as `load_teacher` takes them.
        fit: how pictures become squares; `pad` keeps what is at their edges.
        device: as `load_teacher` takes it.
        threads: CPU threads of each net.

    Attributes:
        size: side of the squares in pixels: that of the net that wants the largest.
        dim: length of the vectors.

    Where there are several nets, the grid is that of the first.

    Raises:
        UserError: as `load_teacher`.
    """

    def __init__(
        self, nets: Sequence[str], fit: Fit = "pad", device: str = "auto", threads: int = 1
    ) -> None:
        self.fit: Fit = fit
        self._nets = {spec: load_teacher(spec, device, threads) for spec in nets}
        self.size = max(net.size for net in self._nets.values())
        self.dim = sum(net.depths_dim + net.feature_dim for net in self._nets.values())

    def __getitem__(self, spec: str) -> Teacher:
        """One of the nets."""
        return self._nets[spec]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Features of pictures: uint8 [H, W, 3] of any sizes -> float32 [N, dim]."""
        return self.describe(images)[0]

    def describe(
        self, images: Sequence[np.ndarray] | np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Features of pictures, and by spec what each net takes them for.

        Args:
            images: uint8 [H, W, 3] each, RGB, of any sizes.

        Returns:
            float32 [N, dim], and probabilities float32 [N, K] of each net.
        """
        squares = self._squares(images)
        return _joined({spec: net.describe(squares) for spec, net in self._nets.items()})

    def grids(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """What the first net sees where: its last map before it is pooled.

        Args:
            images: uint8 [H, W, 3] each, RGB, of any sizes.

        Returns:
            float32 [N, h, w, C]: rows and columns of the fitted squares, channels.

        Raises:
            UserError: the first net has no such map.
        """
        return self._first.grid(self._squares(images))

    def describe_with_grids(
        self, images: Sequence[np.ndarray] | np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """As `describe` and `grids`, with one pass of each net."""
        squares = self._squares(images)
        probabilities, vectors, grids = self._first.describe_with_grid(squares)
        answers = {self._first.spec: (probabilities, vectors)}
        for spec, net in self._nets.items():
            if net is not self._first:
                answers[spec] = net.describe(squares)
        return *_joined(answers), grids

    @property
    def _first(self) -> Teacher:
        return next(iter(self._nets.values()))

    def _squares(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        squares = np.zeros((len(images), self.size, self.size, 3), np.uint8)
        for i, image in enumerate(images):
            fits = image.shape[:2] == (self.size, self.size)
            squares[i] = image if fits else square(image, self.size, self.fit)
        return squares


def _joined(
    answers: dict[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The nets' vectors as one, and their probabilities by spec."""
    features = np.concatenate([vectors for _, vectors in answers.values()], axis=1)
    return features, {spec: probabilities for spec, (probabilities, _) in answers.items()}


def describe_backbone(
    nets: Sequence[str], fit: Fit, described: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What models say of a backbone, so that each only meets its own features.

    Args:
        nets: specs.
        fit: how pictures become squares.
        described: each net, as `describe_teacher` or a manifest describes it.

    Returns:
        `nets`, `fit`, `weights_sha256` (one a net) and `dim`.
    """
    return {
        "nets": list(nets),
        "fit": fit,
        "weights_sha256": [net["weights_sha256"] for net in described],
        "dim": sum(net["depths_dim"] + net["feature_dim"] for net in described),
    }
