"""Words: learned from captions, there and back."""

from __future__ import annotations

import pytest

from mmray.captioner.decode import END, PAD, START, UNKNOWN
from mmray.captioner.vocabulary import Words, word_hash
from mmray.errors import UserError

CAPTIONS = ["A dog on the beach.", "the dog, and a cat", "The beach"]


def test_words_by_how_often_they_occur() -> None:
    words = Words.of(CAPTIONS)
    assert words.words[:2] == ("the", "a")
    assert dict(zip(words.words, words.counts, strict=True))["dog"] == 2
    assert len(Words.of(CAPTIONS, min_count=2)) == 4 + 4
    assert Words.of(CAPTIONS, most=1).words == ("the",)


def test_there_and_back() -> None:
    words = Words.of(CAPTIONS)
    tokens = words.encode("The dog: on a beach!", 8)
    assert tokens[0] == START
    assert tokens[6] == END
    assert (tokens[7:] == PAD).all()
    assert words.decode(tokens) == ["the", "dog", "on", "a", "beach"]
    assert words.encode("the zebra", 8)[2] == UNKNOWN
    assert words.decode(words.encode("", 8)) == []


def test_long_captions_are_cut_and_do_not_end() -> None:
    words = Words.of(CAPTIONS)
    tokens = words.encode("the dog " * 500, 6)
    assert len(tokens) == 8
    assert END not in tokens
    assert END in words.encode("the dog " * 3, 6)


def test_no_word_is_left() -> None:
    with pytest.raises(UserError, match="--min-count"):
        Words.of(CAPTIONS, min_count=9)
    with pytest.raises(UserError, match="0 words were seen"):
        Words.of(["", "..."])


def test_hashes_are_the_same_everywhere() -> None:
    assert word_hash("dog") == -6945572266024926151
    words = Words.of(CAPTIONS)
    assert words.hashes[words.encode("dog", 1)[1]] == word_hash("dog")
    assert len(set(words.hashes.tolist())) == len(words)
