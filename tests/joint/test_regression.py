"""Ridge regressions from sums, against regressions on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mmray.joint.regression import KINDS, Kind, Moments, inputs_of, regressions
from mmray.joint.vocabulary import every_other


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(count, 6)).astype(np.float32)
    chances = 1 / (1 + np.exp(1 - 2 * pictures))
    tags = rng.random((count, 6)) < chances
    tags[:, 5] = tags[:, 4]  # one that another one tells
    return pictures, tags


def moments_of(pictures: np.ndarray, tags: np.ndarray, step: int = 37) -> Moments:
    moments = Moments(pictures.shape[1], tags.shape[1])
    for start in range(0, len(tags), step):
        moments.add(pictures[start : start + step], tags[start : start + step])
    return moments


@pytest.mark.parametrize("kind", KINDS)
def test_sums_give_the_regression_on_the_rows(kind: Kind) -> None:
    pictures, tags = rows(300)
    given = every_other(tags)
    if kind == "picture":
        x, y = pictures, tags
    else:
        x = np.concatenate([inputs_of(kind, pictures, g) for g in (given, tags & ~given)])
        y = np.concatenate([tags & ~given, given])
    scale = x.std(axis=0)
    expected = Ridge(alpha=0.1 * len(x)).fit(x / scale, y.astype(float))
    found = moments_of(pictures, tags).solve(kind, 0.1)
    np.testing.assert_allclose(found(x), expected.predict(x / scale), atol=1e-4)
    assert found(x).dtype == np.float32


def test_given_tags_help() -> None:
    (pictures, tags), (held, truth) = rows(2000), rows(500, seed=1)
    found = regressions(moments_of(pictures, tags), held, truth)
    given = every_other(truth)
    asked = (truth & ~given)[:, 5]
    alone = found["picture"](held)[:, 5]
    both = found["both"](inputs_of("both", held, given))[:, 5]
    # The last tag goes with the one before it, which is given half of the time.
    where = given[:, 4]
    assert both[where & asked].mean() > alone[where & asked].mean() + 0.2


def test_nothing_to_learn_from_or_to_choose_on() -> None:
    pictures, tags = rows(20)
    for found in (
        regressions(Moments(6, 6), pictures, tags),
        regressions(moments_of(pictures, tags), pictures[:0], tags[:0]),
    ):
        for kind in KINDS:
            scores = found[kind](inputs_of(kind, pictures, tags))
            assert scores.shape == (20, 6)
            assert not scores.any()
