"""Sentences that begin in a book and end in a caption, or the other way round.

No book tells of phones, and no caption of burnt offerings; but both use *in*, *the* and *of*. Where
they share such a word they can be cut and joined: "And the LORD spake unto him in" "the kitchen at
night." From such sentences a decoder learns to tell of the one in the words of the other, from
nothing but the two texts (after crossovers of sentences in data augmentation: Jia & Liang, *Data
Recombination for Neural Semantic Parsing*, ACL 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from mmray.storyteller.texts import words_of

FREQUENT = 100
"""Words of each text among which the shared ones are looked for."""
LOST = 0.3
"""What it costs to tell nothing of a caption."""
_LONGEST = 45
"""Words of a spliced sentence that need not be shorter."""
_TRIES = 64


@dataclass(frozen=True)
class _Spliced:
    before: list[str]
    plain: list[str]
    after: list[str]

    @property
    def words(self) -> list[str]:
        return [*self.before, *self.plain, *self.after]

    def cost(self, share: float, caption: int) -> float:
        """How far it is from a share of the book; what is lost of the caption costs too."""
        told = len(self.before) + len(self.plain) + len(self.after)
        off = abs(1 - len(self.plain) / told - share)
        return off + LOST * (1 - len(self.plain) / caption) + 0.05 * max(0, told - _LONGEST)


def pivots_of(book: Iterable[str], captions: Iterable[str]) -> frozenset[str]:
    """The words that are frequent in both: function words, in any language that has spaces."""
    frequent = []
    for text in (book, captions):
        counts = Counter(word for sentence in text for word in words_of(sentence))
        frequent.append({word for word, _ in counts.most_common(FREQUENT)})
    return frozenset(word for word in frequent[0] & frequent[1] if word.isalpha())


def splice(
    sentence: str, caption: str, share: float, pivots: Set[str], rng: np.random.Generator
) -> str | None:
    """A sentence of a book and a caption as one.

    Args:
        sentence: of the book.
        caption: at least two of its words will be told, one of them no pivot.
        share: of the words that should be the book's, 0 to 1; comes near it.
        pivots: where they may be joined.
        rng: chooses among the many ways.

    Returns:
        The sentence; None where they share no pivot.
    """
    book, plain = sentence.split(), caption.split()
    joints = [
        (i, j)
        for j, word in enumerate(plain)
        if word.lower() in pivots
        for i, other in enumerate(book)
        if word.lower() == other.lower()
    ]
    if not joints:
        return None
    ways = [way for joint in joints for way in _at_one(book, plain, joint, pivots)]
    for _ in range(_TRIES if len(joints) > 1 else 0):
        (i, j), (n, m) = (joints[k] for k in rng.integers(len(joints), size=2))
        if i < n and j < m and _tells(plain[j + 1 : m], pivots):
            ways.append(_Spliced(book[: i + 1], plain[j + 1 : m + 1], book[n + 1 :]))
    if not ways:
        return None
    noise = rng.uniform(0, 0.15, len(ways))
    costs = [way.cost(share, len(plain)) + noise[k] for k, way in enumerate(ways)]
    return " ".join(ways[int(np.argmin(costs))].words)


def _at_one(
    book: list[str], plain: list[str], joint: tuple[int, int], pivots: Set[str]
) -> list[_Spliced]:
    i, j = joint
    ways = []
    if _tells(plain[j + 1 :], pivots):
        ways.append(_Spliced(book[: i + 1], plain[j + 1 :], []))
    if _tells(plain[:j], pivots) and i + 1 < len(book):
        ways.append(_Spliced([], plain[: j + 1], book[i + 1 :]))
    return ways


def _tells(words: Sequence[str], pivots: Set[str]) -> bool:
    return len(words) > 1 and any(word.lower() not in pivots for word in words)
