"""Sentences of a book and captions, joined where they share a word."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mmray.storyteller.splice import pivots_of, splice

BOOK = "And the king dwelt in the land with all his people."
CAPTION = "A red dog runs in the garden with a ball."
PIVOTS = frozenset({"in", "the", "with", "a"})


def rngs() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(40)]


def test_pivots_are_frequent_in_both() -> None:
    book = ["the king of the land", "the land of the king in 7 days"] * 50
    captions = ["a dog of the house", "7 dogs in a house of the king"] * 50
    assert pivots_of(book, captions) == {"the", "of", "in", "king"}


def test_the_parts_are_of_both_and_meet_at_a_pivot() -> None:
    book, caption = BOOK.split(), CAPTION.split()
    seen = set()
    for rng in rngs():
        text = splice(BOOK, CAPTION, float(rng.random()), PIVOTS, rng)
        assert text is not None
        seen.add(text)
        words = text.split()
        for one, two in pairwise(words):
            # Words that stand side by side did so before, in the one or in the other.
            pairs = [*pairwise(book), *pairwise(caption)]
            assert (one, two) in pairs or one.lower() in PIVOTS
    assert len(seen) > 5


def test_the_share_is_near_what_is_wanted() -> None:
    def share(wanted: float) -> float:
        texts = [splice(BOOK, CAPTION, wanted, PIVOTS, rng) or "" for rng in rngs()]
        own = {*BOOK.split()} - {*CAPTION.split()}
        return float(np.mean([np.mean([w in own for w in text.split()]) for text in texts]))

    assert share(0.1) < share(0.5) < share(0.9)


@pytest.mark.parametrize("caption", ["Dogs run.", "in the", "Nothing but dogs in"])
def test_what_shares_nothing_or_tells_nothing_is_not_spliced(caption: str) -> None:
    for rng in rngs()[:5]:
        found = splice("Kings reign.", caption, 0.5, PIVOTS, rng)
        assert found is None
