"""Average precision of units, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mmray.soundnet.detectors import detectors


def labels_of(truth: np.ndarray) -> list[list[str]]:
    return [[f"object:{j}" for j in np.flatnonzero(row)] for row in truth]


@pytest.mark.parametrize("levels", [3, 1000])
def test_precision_is_that_of_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((200, 4)) < 0.3
    scores = rng.integers(levels, size=(200, 7)).astype(np.float32)  # few levels: many ties
    found = detectors(scores, labels_of(truth))
    wanted = [
        [average_precision_score(truth[:, j], scores[:, u]) for j in range(4)] for u in range(7)
    ]
    np.testing.assert_allclose(found.precision, wanted, atol=1e-5)
    np.testing.assert_allclose(found.base, truth.mean(axis=0))


def test_a_perfect_and_a_silent_unit() -> None:
    truth = np.arange(40) % 4 == 0
    scores = np.stack([truth * 1.0, np.zeros(40)], axis=1)
    found = detectors(scores, [["object:dog"] if x else ["place:street"] for x in truth])
    assert found.best("object:") == [("object:dog", 1.0), ("object:dog", pytest.approx(0.25))]
    assert found.best("place:")[1] == ("place:street", pytest.approx(0.75))
    assert found.active.tolist() == [True, False]
    assert found.share(0.9) == 0.5


def test_rare_labels_are_not_looked_for() -> None:
    labels = [["object:dog"]] * 6 + [["object:rare"]] * 4
    found = detectors(np.zeros((10, 2)), labels)
    assert found.labels == ["object:dog"]
    assert detectors(np.zeros((4, 2)), [[]] * 4).best() == [("", 0.0)] * 2
    assert detectors(np.zeros((4, 2)), [[]] * 4).share() == 0.0


def test_many_units_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    truth, scores = rng.random((50, 3)) < 0.4, rng.random((50, 9))
    whole = detectors(scores, labels_of(truth)).precision
    monkeypatch.setattr("mmray.soundnet.detectors._AT_ONCE", 300)
    np.testing.assert_array_equal(detectors(scores, labels_of(truth)).precision, whole)
