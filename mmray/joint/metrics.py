"""How good scores of tags, of classes and of pairs are.

Throughout, `scores` is float [N, V], higher is likelier, and `truth` is bool [N, V]: N pictures,
V tags or classes. Scores that are equal say nothing about their order, so no result depends on
the order of the rows: each function says what it does with ties. Where nothing can be measured,
the result is NaN.
"""

from __future__ import annotations

import numpy as np

LEAST_POSITIVES = 3
"""Tags with fewer true pictures have an average precision that is mostly chance."""
CALIBRATION_BINS = 15
_CHUNK_CELLS = 1 << 22  # sorted at once: bounds memory at about 200 MB


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Non-interpolated average precision of each column.

    Equal scores form one step of the curve, as in scikit-learn: each true row in it counts with
    the precision after the whole group. So a constant score gets the share of the true.

    Returns:
        float64 [V], from 0 to 1; NaN for columns without a true row.
    """
    _check(scores, truth)
    result = np.full(scores.shape[1], np.nan)
    (columns,) = np.nonzero(truth.any(axis=0))
    step = max(1, _CHUNK_CELLS // max(1, len(scores)))
    for start in range(0, len(columns), step):
        chosen = columns[start : start + step]
        result[chosen] = _row_precision(scores[:, chosen].T, truth[:, chosen].T)
    return result


def _row_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each row [V, N], all with something true."""
    order = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    hits = np.take_along_axis(truth, order, axis=1)
    places = np.arange(scores.shape[1])
    # The last place of the group of equal scores that each place is in.
    ends = np.full(scores.shape, places[-1])
    np.copyto(ends[:, :-1], places[:-1], where=ranked[:, 1:] != ranked[:, :-1])
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(np.cumsum(hits, axis=1), ends, axis=1) / (ends + 1)
    return np.mean(precision, axis=1, where=hits)


def map_tags(scores: np.ndarray, truth: np.ndarray, least: int = LEAST_POSITIVES) -> float:
    """Mean average precision over the tags that at least so many pictures have."""
    common = truth.sum(axis=0) >= max(1, least)
    return _mean(average_precision(scores[:, common], truth[:, common]))


def map_images(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean average precision over the pictures with at least one true tag."""
    return _mean(average_precision(scores.T, truth.T))


def quality(scores: np.ndarray, tags: np.ndarray) -> float:
    """The mean of both mean average precisions, rare tags too: settings are chosen by it."""
    return (map_tags(scores, tags, least=1) + map_images(scores, tags)) / 2


def precision_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of true tags among the first k of a picture, over the pictures with tags.

    Of equal scores at the k-th place the expected number counts, over all orders.
    """
    tagged = truth.any(axis=1)
    return _mean(_expected_hits(scores[tagged], truth[tagged], k) / k)


def recall_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of a picture's tags that are among its first k, over the pictures with tags.

    Ties as in `precision_at`.
    """
    tagged = truth.any(axis=1)
    hits = _expected_hits(scores[tagged], truth[tagged], k)
    return _mean(hits / truth[tagged].sum(axis=1))


def class_map(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean average precision over the classes that any picture has."""
    return map_tags(scores, truth, least=1)


def class_precision_at_50(scores: np.ndarray, truth: np.ndarray, deepnet: bool = False) -> float:
    """Share of true pictures among the 50 likeliest of a class, over the classes any picture has.

    Args:
        scores: float [N, C].
        truth: bool [N, C].
        deepnet: look at the first 51, as the code does with which Srivastava and Salakhutdinov's
            results (*Multimodal Learning with Deep Boltzmann Machines*, NIPS 2012) were
            replicated: it reads entry 50 of an array that starts at 0.
    """
    present = truth.any(axis=0)
    k = 51 if deepnet else 50
    return _mean(_expected_hits(scores[:, present].T, truth[:, present].T, k) / k)


def _expected_hits(scores: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """How many of each row's first k are true, ties in their expectation: float64 [N]."""
    _check(scores, truth)
    if not scores.size:
        return np.zeros(len(scores))
    k = min(k, scores.shape[1])
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > last, scores == last
    share = (k - above.sum(axis=1)) / tied.sum(axis=1)
    return (above & truth).sum(axis=1) + share * (tied & truth).sum(axis=1)


def calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
    """Expected calibration error over all (picture, tag) pairs.

    The mean, over pairs, of the gap between what was said and what came true in the pair's bin
    (Naeini et al.: *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, AAAI 2015).
    Bins have equal mass, that is equal sums of probability: each is expected to hold as many true
    pairs as any other. Nearly all pairs have a probability near 0, so bins of equal width would
    leave the likely tags a handful of pairs each, and bins of equal counts would put all of them
    into the last one. Equal probabilities are never parted.

    Read it beside the share of true pairs, which is the error of a model that always says 0.
    """
    _check(probabilities, truth)
    if not probabilities.size:
        return float("nan")
    p = probabilities.ravel().astype(np.float64)
    ascending = np.sort(p)
    mass = np.cumsum(ascending)
    cuts = np.searchsorted(mass, mass[-1] * np.arange(1, bins) / bins)
    which = np.searchsorted(np.unique(ascending[cuts]), p)
    said = np.bincount(which, weights=p)
    came_true = np.bincount(which, weights=truth.ravel())
    return float(np.abs(said - came_true).sum() / p.size)


def evaluate_tags(
    scores: np.ndarray, truth: np.ndarray, least: int = LEAST_POSITIVES, k: int = 5
) -> dict[str, float]:
    """All measures of tag prediction; `scores` are probabilities.

    Returns:
        `map_tags`, `map_images`, `pK` and `rK` (precision and recall at k) and `ece`.
    """
    return {
        "map_tags": map_tags(scores, truth, least),
        "map_images": map_images(scores, truth),
        f"p{k}": precision_at(scores, truth, k),
        f"r{k}": recall_at(scores, truth, k),
        "ece": calibration_error(scores, truth),
    }


def retrieval(similarity: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """How early the one right answer to each question comes.

    Args:
        similarity: float [N, M], of N questions to M candidates.
        relevant: int [N], the right candidate of each question.

    Returns:
        `r1`, `r5`, `r10`: the share of questions whose answer is among the first so many;
        `median_rank`, from 1. Candidates as similar as the right one count as before it.
    """
    right = np.take_along_axis(similarity, np.asarray(relevant)[:, None], axis=1)
    # Counted from below, so that a NaN is never before anything.
    ranks = similarity.shape[1] - (similarity < right).sum(axis=1)
    found = {f"r{k}": _mean(ranks <= k) for k in (1, 5, 10)}
    return {**found, "median_rank": float(np.median(ranks)) if len(ranks) else float("nan")}


def retrieval_both_ways(similarity: np.ndarray) -> dict[str, float]:
    """`retrieval` among N pairs, of which picture i and tags i belong together.

    Args:
        similarity: float [N, N], of pictures (rows) to tags (columns).

    Returns:
        The results of `retrieval` as `to_tags.NAME` and `to_images.NAME`.
    """
    pairs = np.arange(len(similarity))
    ways = {"to_tags": similarity, "to_images": similarity.T}
    return {f"{w}.{name}": x for w, s in ways.items() for name, x in retrieval(s, pairs).items()}


def _check(scores: np.ndarray, truth: np.ndarray) -> None:
    assert scores.shape == truth.shape, f"{scores.shape} scores, {truth.shape} truths"
    # A NaN would be sorted to one end, which is a score nobody gave.
    assert not np.isnan(scores).any(), "a score is NaN"


def _mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
