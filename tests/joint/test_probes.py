"""Pictures with all that is known of them, and what names a class."""

from __future__ import annotations

import numpy as np
import pytest

from mmray.joint.probes import Pictures, class_names, names_class, thinned, truth_of

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
