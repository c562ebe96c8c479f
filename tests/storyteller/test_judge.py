"""Judges of style, content and language, on texts whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from mmray.storyteller.evaluate import recall
from mmray.storyteller.judge import (
    LanguageModel,
    StyleJudge,
    Tfidf,
    copied,
    distinct,
    repeated,
)


def test_style_is_told_by_words_and_pairs() -> None:
    texts = ["thou art a king", "thou hast a dog", "a dog on a mat", "a king on a hill"]
    judge = StyleJudge(texts * 5, ["old", "old", "plain", "plain"] * 5)
    assert judge(["thou hast a king", "a dog on a hill"]) == ["old", "plain"]


def test_content_is_of_length_one() -> None:
    texts = ["a red dog", "a blue cat", "the sea"]
    vectors = Tfidf(texts)([*texts, "unheard of"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0])
    assert (vectors[:3] @ vectors[:3].T).argmax(1).tolist() == [0, 1, 2]


def test_own_language_surprises_least() -> None:
    model = LanguageModel(["the dog saw the cat", "the cat saw the dog"] * 10)
    assert model.perplexity(["the dog saw the cat"]) < model.perplexity(["cat the dog the saw"])
    assert model.perplexity([]) == float("inf")


def test_copies_repeats_and_variety() -> None:
    book = ["one two three four five six seven eight nine"]
    assert copied(["One two three four five six seven eight."], book) == 1
    assert copied(["two three four five six seven eight nine ten"], book) == pytest.approx(1 / 2)
    assert copied(["short"], book) == 0
    assert repeated(["a b c d a b c d"]) == pytest.approx(1 / 5)
    assert repeated(["a b c d", "a b c d"]) == 0
    assert distinct(["a b c", "a b c"]) == pytest.approx(1 / 2)


def test_recall() -> None:
    vectors = np.eye(12)
    assert recall(vectors, vectors, 1) == 1
    assert recall(np.roll(vectors, 1, 0), vectors, 1) == 0
    assert recall(np.zeros((12, 12)), vectors, 11) == 0  # says the same of all
