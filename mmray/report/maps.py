"""Vectors laid out on a plane, near ones near each other."""

from __future__ import annotations

import numpy as np


def plane(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of vectors, by their angles.

    Args:
        vectors: [N, d].
        seed: the same seed gives the same map.

    Returns:
        float32 [N, 2], in about [-1, 1].
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(vectors)
    if count < 3 or not np.ptp(vectors, axis=0).any():  # t-SNE does not survive equal points
        return np.stack([np.linspace(-1, 1, count), np.zeros(count)], axis=1).astype(np.float32)
    x = vectors.astype(np.float32)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    most = min(50, count, x.shape[1])
    x = PCA(most, random_state=seed).fit_transform(x)
    # Random starts differ between machines; the first two components do not.
    found = TSNE(
        init="pca", perplexity=min(30.0, (count - 1) / 3), random_state=seed, max_iter=500
    ).fit_transform(x)
    found -= found.mean(axis=0)
    return (found / max(float(np.abs(found).max()), 1e-9)).astype(np.float32)


def apart(places: np.ndarray, sizes: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Move boxes up and down until none lies upon another, or the rounds are over.

    Args:
        places: of their middles, float [N, 2].
        sizes: their widths and heights, [N, 2].
        rounds: of moving each pair that overlaps half of the overlap apart.

    Returns:
        Their middles, float [N, 2].
    """
    x, y = places.T.astype(np.float64)
    width, height = sizes.T
    beside = np.abs(x[:, None] - x) < (width[:, None] + width) / 2
    np.fill_diagonal(beside, False)
    # Boxes in the same place part by their order.
    order = np.sign(np.arange(len(x))[:, None] - np.arange(len(x)))
    for _ in range(rounds):
        gap = y[:, None] - y
        overlap = np.where(beside, (height[:, None] + height) / 2 - np.abs(gap), 0).clip(0)
        if not (overlap > 1e-6 * height.max(initial=1e-9)).any():
            break
        y = y + (np.where(gap == 0, order, np.sign(gap)) * overlap).sum(axis=1) / 2
    return np.stack([x, y], axis=1).astype(np.float32)


def neighbours(vectors: np.ndarray, k: int = 10) -> np.ndarray:
    """The `k` (or all other) rows nearest to each by angle, of [N, d]: int64 [N, k]."""
    from sklearn.neighbors import NearestNeighbors

    unit = vectors.astype(np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    # Asked without vectors, none is a neighbour of itself.
    found: np.ndarray = (
        NearestNeighbors(n_neighbors=min(k, len(unit) - 1))
        .fit(unit)
        .kneighbors(return_distance=False)
    )
    return found


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the neighbours that two lists [N, k] have in common."""
    return float(np.mean([len(set(p) & set(q)) / len(p) for p, q in zip(a, b, strict=True)]))
