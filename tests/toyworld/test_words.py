"""Tags and captions."""

from collections import Counter

import numpy as np
import pytest

from mmray.toyworld.words import (
    NOUNS,
    UNTAGGED_SHARE,
    USELESS_TAGS,
    WHERE,
    captions,
    tags,
    true_tags,
)
from mmray.toyworld.world import COLOURS, OBJECTS, PLACES, sample_scene


@pytest.fixture(scope="module")
def described():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2000):
        scene = sample_scene(rng)
        rows.append((scene, tags(scene, rng), captions(scene, rng)))
    return rows


def test_words_are_deterministic():
    scene = sample_scene(np.random.default_rng(1))
    for function in (tags, captions):
        once, again = (function(scene, np.random.default_rng(2)) for _ in range(2))
        assert once == again


def test_many_pictures_are_untagged(described):
    share = np.mean([not tagged for _, tagged, _ in described])
    assert share == pytest.approx(UNTAGGED_SHARE, abs=0.05)


def test_no_tag_is_given_twice(described):
    assert all(len(set(tagged)) == len(tagged) for _, tagged, _ in described)


def test_useless_tags_are_there(described):
    counts = Counter(t.lower() for _, tagged, _ in described for t in tagged)
    useless = sum(counts[t] for t in USELESS_TAGS)
    assert 0.2 < useless / counts.total() < 0.6
    assert {"nikon", "2007"} <= set(counts)


def test_second_language_and_synonyms_are_there(described):
    counts = Counter(t for _, tagged, _ in described for t in tagged)
    for word in ("perro", "rojo", "playa", "kitty", "telephone"):
        assert counts[word] >= 3


def test_most_useful_tags_are_true_and_a_few_are_wrong(described):
    useful = wrong = 0
    for scene, tagged, _ in described:
        names = {t.lower() for t in tagged} - set(USELESS_TAGS)
        useful += len(names)
        wrong += len(names - set(true_tags(scene)))
    assert 0 < wrong / useful < 0.08


def test_useful_tags_are_often_missing(described):
    tagged = [(s, {t.lower() for t in t_}) for s, t_, _ in described if t_]
    named = np.mean([bool(set(true_tags(s)) & t) for s, t in tagged])
    colour = np.mean([s.colour in t for s, t in tagged])
    assert named > 0.9
    assert 0.2 < colour < 0.6


def test_true_tags_hold_both_languages():
    scene = next(s for s in map(sample_scene, map(np.random.default_rng, range(999)))
                 if (s.object, s.colour, s.others) == ("dog", "red", ()))  # fmt: skip
    assert {"dog", "puppy", "perro", "red", "rojo"} <= set(true_tags(scene))
    assert not set(true_tags(scene)) & {"cat", "blue", "azul"}


def test_five_different_captions(described):
    for _, _, texts in described:
        assert len(texts) == 5
        assert len({t.lower().rstrip(".") for t in texts}) == 5


def test_captions_name_the_object_and_the_place(described):
    for scene, _, texts in described:
        nouns = [form for pair in NOUNS[scene.object] for form in pair]
        for text in texts:
            assert any(noun in text.lower().rstrip(".").split() for noun in nouns), text
            assert any(where in text.lower() for where in WHERE[scene.place]), text


def test_most_captions_name_the_colour_and_none_another(described):
    named = []
    for scene, _, texts in described:
        for text in texts:
            words = text.lower().split()
            named.append(scene.colour in words)
            assert not set(words) & (set(COLOURS) - {scene.colour}), text
    assert 0.6 < np.mean(named) < 0.95


def test_wording_varies(described):
    texts = [t for _, _, group in described for t in group]
    assert len(set(texts)) > 0.6 * len(texts)
    assert len({t.split()[0].lower() for t in texts}) > 10


def test_counts_are_said(described):
    for scene, _, texts in described:
        for text in texts:
            words = text.lower().split()
            if scene.count == 2:
                assert "two" in words or "group" in words
            if scene.count == 1:
                assert not set(words) & {"two", "three", "group"}


def test_every_class_has_words():
    assert set(NOUNS) == set(OBJECTS)
    assert set(WHERE) == set(PLACES)
