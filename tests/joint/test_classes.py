"""Classes of pictures from features, tags and joint vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mmray
from mmray.joint import finish
from mmray.joint.classes import (
    REMOVED,
    ClassProbe,
    ClassRegression,
    Labelled,
    class_methods,
    class_metrics,
)
from mmray.joint.evaluate import read_splits
from mmray.joint.metrics import class_map
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures
from mmray.pipeline.dataset import Dataset


def labelled(pictures: Pictures, truth: np.ndarray, ends: tuple[int, int]) -> Labelled:
    first, second = np.arange(ends[0]), np.arange(*ends)
    return Labelled(pictures.take(first), truth[first], pictures.take(second), truth[second])


def test_classes_from_both_are_better_than_from_one() -> None:
    rng = np.random.default_rng(0)
    seen, said = rng.integers(2, size=(2, 700))
    features = (seen[:, None] + 0.3 * rng.normal(size=(700, 5))).astype(np.float32)
    tags = np.stack([said == 0, said == 1, rng.random(700) < 0.5], axis=1)
    classes = np.eye(4, dtype=bool)[2 * seen + said]
    pictures = Pictures(features, tags, [[]] * 700, [""] * 700)
    data, test = labelled(pictures, classes, (400, 500)), pictures.take(np.arange(500, 700))
    found = {name: method(test) for name, method in class_methods(data).items()}
    maps = {name: class_map(scores, classes[500:]) for name, scores in found.items()}
    assert list(maps) == ["pictures", "tags", "pictures + tags", "average"]
    assert min(maps["pictures + tags"], maps["average"]) > 0.95
    assert max(maps["pictures"], maps["tags"]) < 0.7
    again = class_methods(data)["pictures + tags"](test)
    np.testing.assert_array_equal(found["pictures + tags"], again)


def test_scores_are_probabilities_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    y = x[:, :3] + 0.3 * rng.normal(size=(500, 3)) > 0.5
    parts = np.split(np.arange(500), [300, 400])

    def scores(views: np.ndarray) -> np.ndarray:
        known, held, asked = (views[rows] for rows in parts)
        return ClassRegression([known], y[parts[0]], [held], y[parts[1]]).scores([asked])

    found = scores(x)
    assert ((found >= 0) & (found <= 1)).all()
    assert class_map(found, y[parts[2]]) > 0.9
    np.testing.assert_allclose(found, scores(x / 100), atol=0.02)


def test_one_probe_serves_pictures_with_and_without_tags(joint_model: str) -> None:
    scorer = finish.load(joint_model)
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[rng.integers(2, size=240)]
    tags = np.zeros((240, len(scorer.vocabulary)), bool)
    tags[:, :2] = truth & (rng.random((240, 2)) < 0.7)
    features = rng.normal(size=(240, 48)).astype(np.float32)
    features[:, :24] += np.where(truth[:, :1], 1, -1)
    pictures = Pictures(features, tags, [[]] * 240, [""] * 240)
    test = pictures.take(np.arange(160, 240))
    probe = ClassProbe(scorer, labelled(pictures, truth, (120, 160)))
    for args in ((test.features, test.tags), (test.features, None), (None, test.tags)):
        scores = probe.scores(*args)
        assert scores.shape == (80, 2)
        assert class_map(scores, truth[160:]) > 0.8


@pytest.fixture(scope="module")
def tagger(joint_model: str) -> Tagger:
    return mmray.load(joint_model, device="cpu")


def test_tags_that_name_a_class_are_hidden_unless_asked_for(
    tagger: Tagger, picture_world: str
) -> None:
    data = read_splits(tagger, Dataset(picture_world, "images"), "test", None, 10)
    splits = data.train, data.val, data.test
    hidden, shown = (class_metrics({"joint": tagger}, *splits, 0, hide) for hide in (True, False))
    assert shown["classes.tags_baseline"] > hidden["classes.tags_baseline"] + 0.02
    assert shown["classes.image_baseline"] == hidden["classes.image_baseline"]
    assert {f"missing.{who}{p}" for who in ("", "linear.") for p in REMOVED} <= set(shown)
    assert shown["missing.linear.0"] == shown["classes.concat_baseline"]
    assert shown["missing.0"] == shown["classes.both"]
    assert shown["missing.100"] == shown["classes.image"]


def test_pictures_without_labels_have_no_classes(tagger: Tagger, picture_world: str) -> None:
    data = read_splits(tagger, Dataset(picture_world, "images"), "test", None, 10)
    bare = replace(data.val, labels=[[]] * len(data.val))
    assert class_metrics({"joint": tagger}, data.train, bare, data.test, 0) == {}
