"""What each unit of a net detects, and how precisely.

A unit is taken as a detector: frames are ranked by its activation, and the average precision for
a label says how purely the label's frames come first. After Zhou et al., *Object Detectors Emerge
in Deep Scene CNNs* (ICLR 2015), with average precision in place of a threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GOOD = 0.7
"""A unit of at least this average precision is called a detector."""
FEWEST = 5
"""Labels in fewer frames are not looked for: their precision would be luck."""
_AT_ONCE = 1 << 23  # units x frames x labels whose hits are counted at once


@dataclass(frozen=True)
class Detectors:
    """What the units of a layer detect.

    Args:
        labels: the labels looked for.
        precision: average precision of each unit for each label, float32 [U, labels], 0 to 1.
        base: share of the frames that have the label, [labels]: the precision of chance.
        active: bool [U]: whether the unit answered anywhere at all.
    """

    labels: list[str]
    precision: np.ndarray
    base: np.ndarray
    active: np.ndarray

    def best(self, prefix: str = "") -> list[tuple[str, float]]:
        """For each unit the label (of those that begin with `prefix`) that it detects best."""
        mine = [i for i, label in enumerate(self.labels) if label.startswith(prefix)]
        if not mine:
            return [("", 0.0)] * len(self.precision)
        part = self.precision[:, mine]
        return [
            (self.labels[mine[i]], float(row[i]))
            for row, i in zip(part, part.argmax(1), strict=True)
        ]

    def share(self, least: float = GOOD) -> float:
        """Share of the units that detect one label with at least that average precision."""
        if not self.labels:
            return 0.0
        return float((self.precision.max(axis=1) >= least).mean())


def detectors(activations: np.ndarray, labels: Sequence[Sequence[str]]) -> Detectors:
    """Measure every unit on every label.

    Args:
        activations: [frames, U].
        labels: of each frame; frames without any count as having none of the labels.

    Returns:
        The average precision of each unit for each label that `FEWEST` frames or more have.
        Frames of equal activation are taken together, so a silent unit gets the base rate.
    """
    assert len(labels) == len(activations), "each frame has its labels"
    counts = Counter(label for each in labels for label in set(each))
    names = sorted(label for label, count in counts.items() if count >= FEWEST)
    truth = np.array([[name in each for name in names] for each in labels], bool)
    truth = truth.reshape(len(labels), len(names))
    units = activations.shape[1]
    found = np.zeros((units, len(names)), np.float32)
    step = max(1, _AT_ONCE // max(1, truth.size))
    for start in range(0, units, step):
        part = activations[:, start : start + step].astype(np.float32).T
        found[start : start + step] = _average_precision(part, truth)
    return Detectors(names, found, truth.mean(axis=0), np.any(activations > 0, axis=0))


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of scores [U, frames] for truth [frames, labels]: [U, labels]."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, 1)
    hits = truth[order].cumsum(axis=1, dtype=np.float32)  # [U, frames, labels]
    # A run of equal scores is one step: its last frame speaks for all of it.
    last = np.ones(ranked.shape, bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    places = np.where(last, np.arange(ranked.shape[1]), ranked.shape[1])
    ends = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    hits = np.take_along_axis(hits, ends[:, :, None], 1)
    precision = hits / (ends[:, :, None] + 1)
    return (precision * truth[order]).sum(axis=1) / np.maximum(truth.sum(axis=0), 1)
