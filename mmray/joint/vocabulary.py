"""From tags as people write them to the vocabulary that a model learns.

Tags are normalised by `normalise`: Unicode NFKC, case folded, runs of white space and control
characters become one space, none at the ends; a leading `#` and invisible characters are dropped.
Accents, hyphens and underscores stay, since they tell words apart (Spanish *papa*, *papá*). Two
tags that are the same after that are one tag. Plurals and synonyms are left to the model, which
learns that they occur with the same pictures.

The vocabulary is made from the training split alone: a tag that only held-out pictures have is
unknown to the model, as it would be in use.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset

LONGEST = 100
"""Longer tags are sentences, or rubbish; they are left out."""
MOST_TAGS = 256
"""More tags of one picture are left out: such lists are spam, and say nothing of the picture."""
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphens, zero-width spaces and byte order marks: two tags that look alike are one."""
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")


def normalise(tag: str) -> str:
    """A tag as the vocabulary knows it; empty for what is no tag."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", tag)).casefold()
    # Case folding may decompose what was composed.
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip().lstrip("# ")
    return text if len(text) <= LONGEST else ""


def normalised(tags: Iterable[str]) -> list[str]:
    """The different tags of one picture, normalised, in their order."""
    return list(dict.fromkeys(t for t in map(normalise, tags) if t))[:MOST_TAGS]


class UnknownTag(UserError):
    """A tag that the model does not know."""


@dataclass(frozen=True)
class Vocabulary:
    """The tags that a model knows.

    Args:
        tags: normalised, the most frequent first.
        counts: in how many training pictures each occurs.
        num_tagged: training pictures with at least one of them.
    """

    tags: list[str]
    counts: list[int]
    num_tagged: int

    def __len__(self) -> int:
        return len(self.tags)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each tag."""
        return {tag: i for i, tag in enumerate(self.tags)}

    @property
    def frequency(self) -> np.ndarray:
        """Share of the tagged pictures that have each tag, float32 [V]."""
        return np.asarray(self.counts, np.float32) / max(self.num_tagged, 1)

    @property
    def idf(self) -> np.ndarray:
        """How telling each tag is: log(pictures / pictures with it), float32 [V], at least .1."""
        return np.maximum(-np.log(np.minimum(self.frequency, 1.0)), 0.1).astype(np.float32)

    def known(self, tags: Iterable[str]) -> list[int]:
        """Numbers of those tags that are known, each once."""
        return [self.numbers[t] for t in normalised(tags) if t in self.numbers]

    def number(self, tag: str) -> int:
        """Number of a tag that a user asks for.

        Raises:
            UnknownTag: the model does not know it; names the nearest that it knows.
        """
        word = normalise(tag)
        if word in self.numbers:
            return self.numbers[word]
        near = difflib.get_close_matches(word, self.tags, n=4, cutoff=0.5)
        hint = (
            f"; near: {', '.join(near)}" if near else f"; it knows {', '.join(self.tags[:5])} ..."
        )
        raise UnknownTag(f"tag {tag!r}: is not among the {len(self)} tags of this model{hint}")

    def to_json(self) -> dict[str, Any]:
        """As it is written beside a model."""
        return {"tags": self.tags, "counts": self.counts, "num_tagged": self.num_tagged}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Vocabulary:
        """Read what `to_json` wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            found = cls(list(value["tags"]), list(value["counts"]), int(value["num_tagged"]))
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(f"{where}: is not a vocabulary of tags ({e!r})") from e
        if len(found.tags) != len(found.counts) or len(found.numbers) != len(found.tags):
            raise UserError(f"{where}: tags and counts do not belong together")
        return found


def build_vocabulary(
    dataset: Dataset, *, min_count: int = 3, max_tags: int = 2000, limit: int | None = None
) -> Vocabulary:
    """The tags of a dataset's training split.

    Args:
        dataset: of pictures; its tags are streamed.
        min_count: a tag of fewer training pictures is left out.
        max_tags: keep at most so many, the most frequent.
        limit: look only at the first rows of the split.

    Raises:
        UserError: fewer than two tags are left.
    """
    counts: Counter[str] = Counter()
    for tags in _tag_sets(dataset, limit):
        counts.update(tags)
    kept = sorted((t for t, n in counts.items() if n >= min_count), key=lambda t: (-counts[t], t))
    kept = kept[:max_tags]
    if len(kept) < 2:
        raise UserError(
            f"{dataset.uri}: {len(kept)} tags occur in {min_count} or more training pictures (of "
            f"{len(counts)} different tags), expected two or more; give a smaller --min-count, or "
            "pictures with tags"
        )
    known = set(kept)
    num_tagged = sum(not known.isdisjoint(tags) for tags in _tag_sets(dataset, limit))
    return Vocabulary(kept, [counts[t] for t in kept], num_tagged)


def _tag_sets(dataset: Dataset, limit: int | None) -> Iterator[list[str]]:
    for table in dataset.batches(["tags"], 4096, split="train", limit=limit):
        for tags in table["tags"].to_pylist():
            yield normalised(tags or [])


def presence(vocabulary: Vocabulary, tag_lists: Sequence[Sequence[str] | None]) -> np.ndarray:
    """Which known tags pictures have, bool [N, V]."""
    table = np.zeros((len(tag_lists), len(vocabulary)), bool)
    for row, tags in zip(table, tag_lists, strict=True):
        row[vocabulary.known(tags or [])] = True
    return table


def every_other(tags: np.ndarray) -> np.ndarray:
    """The first, third ... tag of each picture, bool [N, V]: those that are given away in tests."""
    return tags.astype(bool) & (np.cumsum(tags, axis=1) % 2 == 1)
