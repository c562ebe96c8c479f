"""Mean and deviation of what frozen nets say of the pictures of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmray.pipeline.dataset import Dataset, tensor

STATISTICS_ROWS = 200_000
SMALLEST_STD = 1e-2


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each feature, float32 [D]."""

    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)


def feature_statistics(
    dataset: Dataset, limit: int | None = None, column: str = "features"
) -> Statistics:
    """Statistics of the first training pictures, 200,000 or `limit` of them, streamed.

    Args:
        dataset: of pictures.
        limit: use only so many.
        column: `features` [D], or `grid` [h, w, D], whose places count alike.
    """
    count, total, squares = 0, np.zeros(0), np.zeros(0)
    for table in dataset.batches([column], 128, split="train", limit=limit or STATISTICS_ROWS):
        values = tensor(table[column])
        values = values.reshape(-1, values.shape[-1]).astype(np.float64)
        count += len(values)
        total = values.sum(0) + (total if total.size else 0)
        squares = (values**2).sum(0) + (squares if squares.size else 0)
    mean = total / max(count, 1)
    variance = np.maximum(squares / max(count, 1) - mean**2, 0)
    std = np.maximum(np.sqrt(variance), SMALLEST_STD)
    return Statistics(mean.astype(np.float32), std.astype(np.float32))
