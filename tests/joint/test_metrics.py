"""Metrics against scikit-learn, against brute force, and where there is nothing to measure."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mmray.joint import metrics
from mmray.joint.metrics import (
    average_precision,
    calibration_error,
    class_map,
    class_precision_at_50,
    evaluate_tags,
    map_images,
    map_tags,
    precision_at,
    recall_at,
    retrieval,
    retrieval_both_ways,
)


@pytest.fixture
def tied():
    """Scores with many ties, and truth with a tag and a picture that have nothing."""
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(6, size=(60, 12)) / 5, rng.random((60, 12)) < 0.2
    truth[:, 3] = False
    truth[7] = False
    return scores, truth


def test_average_precision_is_that_of_scikit_learn(tied, monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 150)  # several chunks
    for scores, truth in (tied, (np.random.default_rng(1).normal(size=(60, 12)), tied[1])):
        found = average_precision(scores, truth)
        assert math.isnan(found[3])
        for v in set(range(12)) - {3}:
            assert found[v] == pytest.approx(average_precision_score(truth[:, v], scores[:, v]))


def test_average_precision_by_hand():
    truth = np.array([[1], [0], [1], [0]], dtype=bool)
    assert average_precision(np.array([[4.0], [3], [2], [1]]), truth)[0] == pytest.approx(5 / 6)
    assert average_precision(np.ones((4, 1)), truth)[0] == 0.5


def test_the_order_of_the_pictures_changes_nothing(tied):
    scores, truth = tied
    order = np.random.default_rng(2).permutation(len(scores))
    for measure in (map_tags, map_images, class_map, class_precision_at_50, calibration_error):
        assert measure(scores, truth) == pytest.approx(measure(scores[order], truth[order]))


def test_maps_leave_out_rare_tags_and_pictures_without(tied):
    scores, truth = tied
    truth[:, 4] = np.arange(60) < 2
    by_tag, by_image = average_precision(scores, truth), average_precision(scores.T, truth.T)
    wanted = [v for v in range(12) if truth[:, v].sum() >= 3]
    assert 3 not in wanted
    assert 4 not in wanted
    assert map_tags(scores, truth) == pytest.approx(by_tag[wanted].mean())
    assert map_tags(scores, truth, least=1) == pytest.approx(np.nanmean(by_tag))
    assert class_map(scores, truth) == map_tags(scores, truth, least=1)
    assert map_images(scores, truth) == pytest.approx(by_image[truth.any(axis=1)].mean())


def test_precision_and_recall_are_means_over_the_orders_of_ties():
    rng = np.random.default_rng(3)
    scores, truth = rng.integers(3, size=(8, 5)), rng.random((8, 5)) < 0.4
    truth[0] = False
    for k in (1, 2, 3, 5):
        precisions, recalls = [], []
        for row, true in zip(scores[1:], truth[1:], strict=True):
            if not true.any():
                continue
            orders = [
                np.array(p)
                for p in itertools.permutations(range(5))
                if (np.diff(row[[*p]]) <= 0).all()
            ]
            hits = np.mean([true[order[:k]].sum() for order in orders])
            precisions.append(hits / k)
            recalls.append(hits / true.sum())
        assert precision_at(scores, truth, k) == pytest.approx(np.mean(precisions))
        assert recall_at(scores, truth, k) == pytest.approx(np.mean(recalls))


def test_more_places_than_tags():
    scores, truth = np.array([[0.9, 0.1]]), np.array([[True, True]])
    assert precision_at(scores, truth, 5) == pytest.approx(2 / 5)
    assert recall_at(scores, truth, 5) == 1


def test_class_precision_at_50_and_its_off_by_one():
    scores = -np.arange(200.0)[:, None].repeat(2, axis=1)
    truth = np.zeros((200, 2), dtype=bool)
    truth[:40, 0] = True
    truth[50, 0] = True
    assert class_precision_at_50(scores, truth) == pytest.approx(40 / 50)
    assert class_precision_at_50(scores, truth, deepnet=True) == pytest.approx(41 / 51)


def test_calibration():
    rng = np.random.default_rng(4)
    p = rng.beta(0.05, 2, size=(4000, 20))
    truth = rng.random(p.shape) < p
    share = truth.mean()
    honest = calibration_error(p, truth)
    assert honest < 0.1 * share
    assert calibration_error(np.sqrt(p), truth) > 10 * honest
    assert calibration_error(p**2, truth) > 3 * honest
    assert calibration_error(np.zeros_like(p), truth) == pytest.approx(share)
    assert calibration_error(np.ones_like(p), truth) == pytest.approx(1 - share)
    assert calibration_error(np.full_like(p, share), truth) == pytest.approx(0, abs=1e-12)


def test_calibration_sees_the_likely_tags_apart():
    # Among the likely, .9 should be .5 and .5 should be .9: one bin for all would see nothing.
    p = np.concatenate([np.full(100, 0.9), np.full(100, 0.5), np.zeros(9800)])[:, None]
    truth = np.zeros(p.shape, dtype=bool)
    truth[:50] = truth[100:190] = True
    assert calibration_error(p, truth) == pytest.approx(80 / 10_000)


def test_retrieval_by_hand():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.1, 0.7, 0.6]])
    found = retrieval(similarity, np.array([0, 1, 2]))
    assert found == {"r1": pytest.approx(1 / 3), "r5": 1, "r10": 1, "median_rank": 2}
    both = retrieval_both_ways(similarity)
    assert {k.removeprefix("to_tags."): v for k, v in both.items() if "tags" in k} == found
    assert both["to_images.r1"] == pytest.approx(2 / 3)


def test_retrieval_does_not_reward_equal_or_missing_similarities():
    n = 20
    for flat in (np.zeros((n, n)), np.full((n, n), np.nan)):
        assert retrieval(flat, np.arange(n)) == {"r1": 0, "r5": 0, "r10": 0, "median_rank": n}


def test_nothing_to_measure_is_nan():
    scores, nothing = np.random.default_rng(6).random((5, 4)), np.zeros((5, 4), dtype=bool)
    found = evaluate_tags(scores, nothing)
    assert found.keys() == {"map_tags", "map_images", "p5", "r5", "ece"}
    assert all(math.isnan(found[name]) for name in ("map_tags", "map_images", "p5", "r5"))
    for shape in ((0, 4), (5, 0)):
        found = evaluate_tags(np.zeros(shape), np.zeros(shape, dtype=bool))
        assert all(math.isnan(x) for x in found.values())
    assert math.isnan(retrieval(np.zeros((0, 3)), np.zeros(0, dtype=int))["median_rank"])


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(AssertionError, match="NaN"):
        map_tags(np.full((4, 2), np.nan), np.ones((4, 2), dtype=bool))
