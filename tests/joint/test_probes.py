"""Classes of pictures from the joint vector, and what is taken away from it."""

from __future__ import annotations

import numpy as np
import pytest

from mmray.joint import finish, probes
from mmray.joint.metrics import class_map
from mmray.joint.probes import ClassProbe, Pictures, class_names, names_class, thinned, truth_of

LABELS = [["colour:red", "object:dog"], ["object:dog"], [], ["object:cat"]]


def pictures(labels: list[list[str]]) -> Pictures:
    count = len(labels)
    numbers = np.arange(2 * count).reshape(count, 2)
    return Pictures(numbers.astype(np.float32), numbers % 3 == 0, labels, list(map(str, numbers)))


def test_classes_are_labels_of_enough_pictures() -> None:
    assert class_names(pictures(LABELS), least=2) == ["object:dog"]
    assert class_names(pictures(LABELS), least=1) == ["colour:red", "object:cat", "object:dog"]
    assert class_names(pictures(LABELS * 20)) == ["object:dog"]
    truth = truth_of(pictures(LABELS), ["object:cat", "object:dog"])
    assert truth.tolist() == [[False, True], [False, True], [False, False], [True, False]]


@pytest.mark.parametrize("tag", ["dog", "dogs", "red", "night_sky", "sky", "animal"])
def test_tags_that_name_a_class(tag: str) -> None:
    assert names_class(tag, ["object:dogs", "colour:Red", "night_sky", "animal/cat"])


@pytest.mark.parametrize("tag", ["perro", "doggy", "rojo", "in", ""])
def test_tags_that_name_none(tag: str) -> None:
    assert not names_class(tag, ["object:dogs", "colour:Red", "night_sky", "animal/cat"])


def test_some_of_the_pictures() -> None:
    whole = pictures(LABELS)
    for rows in (np.array([False, True, False, True]), np.array([1, 3])):
        some = whole.take(rows)
        assert some.labels == [["object:dog"], ["object:cat"]]
        assert some.ids == [whole.ids[1], whole.ids[3]]
        assert some.features[:, 0].tolist() == [2, 6]


def test_thinned_tags() -> None:
    tags = np.random.default_rng(0).random((200, 30)) < 0.5
    assert np.array_equal(thinned(tags, 0, 7), tags)
    assert not thinned(tags, 100, 7).any()
    for percent in (25, 75):
        left = thinned(tags, percent, 7)
        assert not (left & ~tags).any()
        assert left.sum() / tags.sum() == pytest.approx(1 - percent / 100, abs=0.03)
        assert np.array_equal(left, thinned(tags, percent, 7))
    assert tags.any()


def test_one_probe_serves_pictures_with_and_without_tags(joint_model: str) -> None:
    scorer = finish.load(joint_model)
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[rng.integers(2, size=200)]
    tags = np.zeros((200, len(scorer.vocabulary)), bool)
    tags[:, :2] = truth & (rng.random((200, 2)) < 0.7)
    features = rng.normal(size=(200, 48)).astype(np.float32)
    features[:, :24] += np.where(truth[:, :1], 1, -1)
    both = Pictures(features, tags, [[]] * 200, [""] * 200)
    train, test = both.take(np.arange(120)), both.take(np.arange(120, 200))
    probe = ClassProbe(scorer, train, truth[:120], 0)
    for args in ((test.features, test.tags), (test.features, None), (None, test.tags)):
        scores = probe.scores(*args)
        assert scores.shape == (80, 2)
        assert class_map(scores, truth[120:]) > 0.8
    bare = probe.scores(test.features, thinned(test.tags, 100, 0))
    assert class_map(bare, truth[120:]) > 0.8
    assert {side: x.shape for side, (_, x) in probe.pathways(test).items()} == dict.fromkeys(
        ("pictures", "tags", "jointly"), (80, 16)
    )
    assert probes.REMOVED[0] == 0
    assert probes.REMOVED[-1] == 100
