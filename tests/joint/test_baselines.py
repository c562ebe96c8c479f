"""Every baseline on clusters of pictures with known tags, and the parts against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LogisticRegression, Ridge

from mmray.joint.baselines import (
    BASELINES,
    Baseline,
    Neighbours,
    TagData,
    canonical,
    learn_sigmoids,
    linear,
    logistic_path,
    ridge_path,
)
from mmray.joint.metrics import evaluate_tags

CLUSTERS, FEATURES = 8, 12
SIZES = {"train": 400, "val": 150, "test": 2000}


def make_split(seed: int, num_pictures: int) -> TagData:
    """Pictures around the corners of a cube; a cluster has tags, which people often forget."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(CLUSTERS, size=num_pictures)
    corners = np.random.default_rng(99).normal(size=(CLUSTERS, FEATURES))
    features = corners[cluster] + 0.5 * rng.normal(size=(num_pictures, FEATURES))
    chances = np.hstack(
        [np.eye(CLUSTERS), np.eye(CLUSTERS)[:, ::2] / 2, np.full((CLUSTERS, 1), 0.3)]
    )
    tags = rng.random((num_pictures, chances.shape[1])) < 0.8 * chances[cluster]
    return TagData((3 + 20 * features).astype(np.float32), tags)


@pytest.fixture(scope="module")
def splits() -> dict[str, TagData]:
    return {name: make_split(i, size) for i, (name, size) in enumerate(SIZES.items())}


@pytest.fixture(scope="module", params=BASELINES)
def fitted(request, splits) -> tuple[str, Baseline]:
    return request.param, BASELINES[request.param](splits["train"], splits["val"], 0)


def test_beats_the_prior(fitted, splits):
    name, baseline = fitted
    scores = baseline.scores(splits["test"].features)
    found = evaluate_tags(scores, splits["test"].tags)
    if name == "prior":
        assert found["map_tags"] == pytest.approx(splits["test"].tags.mean(axis=0).mean())
    else:
        assert found["map_tags"] > 0.5
        assert found["map_images"] > 0.7


def test_says_calibrated_probabilities(fitted, splits):
    scores = fitted[1].scores(splits["test"].features)
    assert scores.shape == splits["test"].tags.shape
    assert scores.min() >= 0
    assert scores.max() <= 1
    ece = evaluate_tags(scores, splits["test"].tags)["ece"]
    assert ece < 0.25 * splits["test"].tags.mean()


def test_a_picture_alone_scores_as_among_others(fitted, splits):
    pictures = splits["test"].features
    np.testing.assert_allclose(
        fitted[1].scores(pictures[:3]), fitted[1].scores(pictures)[:3], atol=1e-5
    )


def test_fitting_again_gives_the_same(fitted, splits):
    name, baseline = fitted
    torch.rand(1)  # the state of the global generator is of no consequence
    state = torch.get_rng_state()
    again = BASELINES[name](splits["train"], splits["val"], 0)
    assert torch.equal(state, torch.get_rng_state())
    pictures = splits["test"].features
    np.testing.assert_array_equal(baseline.scores(pictures), again.scores(pictures))


def test_seeds_give_other_nets(splits):
    first, second = (
        BASELINES["MLP"](splits["train"], splits["val"], seed).scores(splits["test"].features)
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


def test_the_mean_is_of_both(splits):
    train, val, pictures = splits["train"], splits["val"], splits["test"].features
    parts = [BASELINES[name](train, val, 0).scores(pictures) for name in ("MLP", "kNN")]
    both = BASELINES["MLP + kNN"](train, val, 0).scores(pictures)
    np.testing.assert_allclose(both, np.mean(parts, axis=0), atol=1e-6)


def test_fewer_pictures_than_neighbours(splits):
    few = TagData(splits["train"].features[:4], splits["train"].tags[:4])
    scores = Neighbours().fit(few, splits["val"]).scores(splits["test"].features)
    assert np.isfinite(scores).all()
    assert BASELINES["TagProp"](few, splits["val"], 0).scores(few.features).shape == few.tags.shape


def test_a_near_twin_gives_its_tags(splits):
    train = splits["train"]
    near = Neighbours().fit(train, splits["val"])
    near.k = 1
    share = near.PRIOR_SHARE
    wanted = (1 - share) * train.tags + share * near.prior
    np.testing.assert_allclose(near.scores(train.features), wanted, atol=1e-6)


def test_ridge_is_that_of_scikit_learn(splits):
    x, y = splits["train"].features, splits["train"].tags
    x = x - x.mean(axis=0)
    ((_, weights),) = ridge_path(x, y, [5.0])
    theirs = Ridge(alpha=5.0 * len(x)).fit(x, y.astype(float))
    np.testing.assert_allclose(linear(x, weights), theirs.predict(x), atol=1e-4)


def test_logistic_regressions_are_those_of_scikit_learn(splits):
    x, y = splits["train"].features / 20, splits["train"].tags
    *_, (_, weights) = logistic_path(x, y, [0.1, 0.01, 0.01])
    for v in range(3):
        theirs = LogisticRegression(C=1 / (0.01 * len(x))).fit(x, y[:, v])
        np.testing.assert_allclose(linear(x, weights)[:, v], theirs.decision_function(x), atol=0.05)


def test_sigmoids_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.random((500, 2))
    y = (rng.random(x.shape) < 1 / (1 + np.exp(3 - 4 * x))).astype(float)
    slopes, offsets = learn_sigmoids(x, y)
    for v in range(2):
        theirs = LogisticRegression(C=1e6).fit(x[:, v : v + 1], y[:, v])
        assert slopes[v] == pytest.approx(theirs.coef_[0, 0], rel=0.02)
        assert offsets[v] == pytest.approx(theirs.intercept_[0], rel=0.02)


def test_canonical_directions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(1000, 2))
    x = np.hstack([cause, rng.normal(size=(1000, 3))]) @ rng.normal(size=(5, 5))
    y = (cause + [0.3, 1.0] * rng.normal(size=cause.shape)) @ rng.normal(size=(2, 2))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    ours = canonical(x.T @ x / 1000, x.T @ y / 1000, y.T @ y / 1000, 1e-9, 2, power=1.0)
    theirs = CCA(2, scale=False, max_iter=2000).fit(x, y)
    for view, u, t in ((x, ours[0], theirs.x_rotations_), (y, ours[1], theirs.y_rotations_)):
        for i in range(2):
            assert abs(np.corrcoef(view @ u[:, i], view @ t[:, i])[0, 1]) > 0.999
