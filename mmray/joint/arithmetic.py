"""Picture - tag + tag = pictures, and analogies between tags, as numbers.

Kiros, Salakhutdinov and Zemel (2014) showed both by examples. Here a swap is asked of every
held-out picture that allows it: take away what one of its labels says, add another of the same
kind, and see whether the nearest pictures are of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmray.errors import UserError
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures
from mmray.joint.vocabulary import normalise
from mmray.pipeline.dataset import Dataset
from mmray.teachers.recipes import read_text
from mmray.toyworld.words import colour_analogies

NEAREST = 10
MOST_QUERIES = 2_000


def swap_metrics(
    tagger: Tagger, asked: Pictures, others: Pictures, seed: int = 0
) -> dict[str, float]:
    """`arithmetic.success10`, beside the same without the picture and without the tags.

    Labels are of the form `kind:value`, and swaps stay within a kind; kinds of which pictures
    have several values take no part. A query is a held-out picture, one of its labels that its
    own tags mention, and another value of that kind that is a tag, too. A right picture has the
    new label, lacks the old one, and shares all other labels that the tags mention. A query
    counts when there is a right picture; it succeeds when one is among the ten nearest.

    Args:
        tagger: the model.
        asked: held-out pictures, which the queries start from; they are searched, too.
        others: the rest of the collection that is searched.
        seed: of the choice of queries where there are many.

    Returns:
        `arithmetic.success10`, `arithmetic.picture_only`, `arithmetic.tags_only` and
        `arithmetic.chance` (ten pictures drawn by lot) in the whole collection;
        `arithmetic.held_out` (success among held-out pictures alone, for queries with a right one
        there) and `arithmetic.queries`, their number. Nothing where labels have no kinds.
    """
    labels = Labels([*asked.labels, *others.labels])
    asking = list(queries(tagger, asked, labels))
    if not asking:
        return {}
    if len(asking) > MOST_QUERIES:
        chosen = np.random.default_rng(seed).choice(len(asking), MOST_QUERIES, replace=False)
        asking = [asking[i] for i in chosen]
    features = np.concatenate([asked.features, others.features])
    vectors = tagger.scorer.picture_vectors(features)
    hits: dict[str, list[float]] = {}
    for query in asking:
        targets = labels.right(query)
        for name, hit in _tried(tagger, query, vectors, targets, len(asked)).items():
            hits.setdefault(name, []).append(hit)
    found = {f"arithmetic.{name}": float(np.mean(values)) for name, values in hits.items()}
    return {**found, "arithmetic.queries": float(len(asking))}


def _tried(
    tagger: Tagger, query: Query, vectors: np.ndarray, targets: np.ndarray, held_out: int
) -> dict[str, float]:
    own, plus, minus = vectors[query.row][None], [query.plus], [query.minus]
    ways = {
        "success10": tagger.combine(own, plus, minus),
        "picture_only": tagger.combine(own, [], []),
        "tags_only": tagger.combine(None, plus, minus),
    }
    found = {"chance": 1 - (1 - targets.mean()) ** NEAREST}
    for name, vector in ways.items():
        found[name] = float(targets[nearest(vectors, vector, query.row)].any())
        if name == "success10" and targets[:held_out].any():
            near = nearest(vectors[:held_out], vector, query.row)
            found["held_out"] = float(targets[near].any())
    return found


def nearest(vectors: np.ndarray, query: np.ndarray, row: int, k: int = NEAREST) -> np.ndarray:
    """The pictures that a query finds, the nearest first.

    Args:
        vectors: of the pictures, unit vectors [N, d].
        query: as `Tagger.combine` makes it, [d].
        row: of the picture that it starts from, which is not found.
        k: how many to find.

    Returns:
        Their rows, int64 [k]; all others where there are no more.
    """
    near = vectors @ query
    near[row] = -np.inf
    return np.argsort(-near, kind="stable")[: min(k, len(near) - 1)]


@dataclass(frozen=True)
class Query:
    """A swap: the picture's row, the label to take away, the one to add, and those to keep."""

    row: int
    old: str
    new: str
    kept: tuple[str, ...]

    @property
    def minus(self) -> str:
        """The tag to take away."""
        return label_word(self.old)

    @property
    def plus(self) -> str:
        """The tag to add."""
        return label_word(self.new)


class Labels:
    """Which pictures have which labels, of the kinds that every picture has one value of.

    Args:
        rows: the labels of each picture, of the form `kind:value`.
    """

    def __init__(self, rows: list[list[str]]) -> None:
        several = {
            kind
            for found in rows
            for kind, count in Counter(map(label_kind, found)).items()
            if count > 1 or not kind
        }
        names = {label for found in rows for label in found if label_kind(label) not in several}
        numbers: dict[str, list[int]] = {label: [] for label in sorted(names)}
        for row, found in enumerate(rows):
            for label in found:
                if label in numbers:
                    numbers[label].append(row)
        self.has = {label: np.zeros(len(rows), bool) for label in numbers}
        for label, places in numbers.items():
            self.has[label][places] = True

    def right(self, query: Query) -> np.ndarray:
        """Which pictures are what a query asks for."""
        wanted = np.logical_and.reduce([self.has[label] for label in (query.new, *query.kept)])
        return wanted & ~self.has[query.old]


def queries(tagger: Tagger, asked: Pictures, labels: Labels) -> Iterator[Query]:
    """All swaps that `swap_metrics` may ask for.

    Args:
        tagger: the model.
        asked: pictures to start from.
        labels: of all pictures that are searched, those of `asked` first.
    """
    known = tagger.vocabulary.numbers
    usable = [label for label in labels.has if label_word(label) in known]
    for row, found in enumerate(asked.labels):
        mine = [label for label in found if label in usable]
        told = [label for label in mine if asked.tags[row, known[label_word(label)]]]
        for old in told:
            kept = tuple(label for label in told if label != old)
            for new in usable:
                if label_kind(new) == label_kind(old) and new not in mine and kept:
                    query = Query(row, old, new, kept)
                    if labels.right(query).any():
                        yield query


def label_kind(label: str) -> str:
    """What a label tells of: `colour` of `colour:red`; empty where it does not say."""
    return label.rpartition(":")[0]


def label_word(label: str) -> str:
    """What a label says: `red` of `colour:red`."""
    return label.rpartition(":")[2]


def analogy_metrics(
    tagger: Tagger, questions: Sequence[tuple[str, str, str, str]]
) -> dict[str, float]:
    """`analogy.acc1` and `analogy.acc5`: how often `d` is the first, or among five, answers.

    Questions with tags that the model does not know are left out; none left, nothing is returned.
    """
    known = tagger.vocabulary.numbers
    asked = [q for q in questions if all(tag in known for tag in q)]
    if not asked:
        return {}
    answers = [[tag for tag, _ in tagger.analogy(a, b, c, 5)] for a, b, c, _ in asked]
    right = [(d in names[:1], d in names) for names, (*_, d) in zip(answers, asked, strict=True)]
    first, five = np.mean(right, axis=0)
    return {
        "analogy.acc1": float(first),
        "analogy.acc5": float(five),
        "analogy.questions": float(len(asked)),
    }


def read_analogies(file: str | None, dataset: Dataset) -> list[tuple[str, str, str, str]]:
    """Questions `a is to b as c is to d`, one a line, with commas between the tags.

    Without a file those of the toy world, when the dataset is of it: translations of colours.

    Raises:
        UserError: a line has not four tags; names it.
    """
    if file is None:
        toy = str(dataset.manifest.get("source", "")).split(":")[0] == "toy"
        return colour_analogies() if toy else []
    questions = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        tags = [normalise(tag) for tag in line.split(",")]
        if len(tags) != 4 or not all(tags):
            raise UserError(f"{file}: line {number}: expected four tags with commas: a, b, c, d")
        a, b, c, d = tags
        questions.append((a, b, c, d))
    return questions
