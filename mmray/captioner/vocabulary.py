"""The words that captions are made of, learned from the training captions alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mmray.captioner.decode import END, PAD, START, UNKNOWN
from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError

SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
"""Tokens that are no words, at the places `PAD`, `START`, `END` and `UNKNOWN`."""


@dataclass(frozen=True)
class Words:
    """A vocabulary of words.

    Args:
        words: without the special tokens, the most frequent first.
        counts: in how many places of the training captions each is.
        names: words that are copied from a frozen net (see `mmray.captioner.naming`), known to
            captions or not; their tokens come last.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """All tokens: the special ones, words and names."""
        return len(self.tokens)

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int = 1, most: int = 20_000) -> Words:
        """The words that occur often enough.

        Args:
            captions: as people wrote them; may be a generator.
            min_count: a word of fewer places is unknown.
            most: keep at most so many, the most frequent.

        Raises:
            UserError: no word is left.
        """
        found: Counter[str] = Counter()
        for caption in captions:
            found.update(tokenise(caption).split())
        kept = sorted((w for w, n in found.items() if n >= min_count), key=lambda w: (-found[w], w))
        if not kept:
            raise UserError(
                f"no word occurs {min_count} times or more in the training captions "
                f"({len(found)} words were seen); lower --min-count, or give captions"
            )
        kept = kept[:most]
        return cls(tuple(kept), tuple(found[w] for w in kept))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: len(SPECIAL) + i for i, word in enumerate(self.words)}

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """What each token stands for."""
        return (*SPECIAL, *self.words, *self.names)

    @property
    def sha256(self) -> str:
        """Hash of the words and names in their order."""
        return hashlib.sha256("\n".join((*self.words, *self.names)).encode()).hexdigest()

    @cached_property
    def hashes(self) -> np.ndarray:
        """`word_hash` of every token, int64 [V]; of special ones that of their name."""
        return np.array([word_hash(word) for word in self.tokens])

    def encode(self, caption: str, length: int) -> np.ndarray:
        """Tokens of a caption: START, at most `length` words, END, and PAD to length + 2.

        A longer caption is cut and has no END: that it ends there is not what people wrote.
        """
        tokens = np.full(length + 2, PAD, np.int64)
        words = tokenise(caption).split()
        ids = [self._numbers.get(word, UNKNOWN) for word in words[:length]]
        tokens[0] = START
        tokens[1 : 1 + len(ids)] = ids
        if len(words) <= length:
            tokens[1 + len(ids)] = END
        return tokens

    def decode(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """The words of tokens up to the END."""
        words: list[str] = []
        for token in map(int, tokens):
            if token == END:
                break
            if token >= len(SPECIAL):
                words.append(self.tokens[token])
        return words


@lru_cache(maxsize=1 << 17)
def word_hash(word: str) -> int:
    """A number that stands for a word, known to the vocabulary or not, on every machine."""
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
