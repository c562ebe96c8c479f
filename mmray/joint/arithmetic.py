"""Picture - tag + tag = pictures, and analogies between tags, as numbers.

Kiros, Salakhutdinov and Zemel (2014) showed both by examples. Here a swap is asked of every
held-out picture that allows it: take away what one of its labels says, add another of the same
kind, and see whether the nearest pictures are of that.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def swap_metrics(tagger: Tagger, pool: Pictures, seed: int = 0) -> dict[str, float]:
    """`arithmetic.success10`, beside the same without the picture and without the tags.

    Labels are of the form `kind:value`, and swaps stay within a kind. A query is a picture of the
    pool, one of its labels and another value of that kind, both of which are tags that the model
    knows. What is found must have the new label, lack the old one, and share the picture's other
    labels that its own tags mention. A query counts when the pool has such a picture; it succeeds
    when one is among the ten nearest, the picture itself left out.

    Returns:
        `arithmetic.success10`, `arithmetic.picture_only`, `arithmetic.tags_only` (shares, 0 to
        1), `arithmetic.chance` (ten pictures drawn by lot) and `arithmetic.queries` (their
        number); nothing where labels have no kinds.
    """
    queries = _queries(tagger, pool)
    if not queries:
        return {}
    if len(queries) > MOST_QUERIES:
        chosen = np.random.default_rng(seed).choice(len(queries), MOST_QUERIES, replace=False)
        queries = [queries[i] for i in chosen]
    vectors = tagger.scorer.picture_vectors(pool.features)
    hits: dict[str, list[float]] = {"success10": [], "picture_only": [], "tags_only": []}
    chance = []
    for row, minus, plus, targets in queries:
        own = vectors[row : row + 1]
        tried = {
            "success10": tagger.combine(own, [plus], [minus]),
            "picture_only": tagger.combine(own, [], []),
            "tags_only": tagger.combine(None, [plus], [minus]),
        }
        for name, query in tried.items():
            near = vectors @ query
            near[row] = -np.inf
            hits[name].append(float(targets[np.argsort(-near)[:NEAREST]].any()))
        chance.append(1 - (1 - targets.mean()) ** NEAREST)
    found = {f"arithmetic.{name}": float(np.mean(values)) for name, values in hits.items()}
    found["arithmetic.chance"] = float(np.mean(chance))
    return {**found, "arithmetic.queries": float(len(queries))}


def _queries(tagger: Tagger, pool: Pictures) -> list[tuple[int, str, str, np.ndarray]]:
    """Row, tag to take away, tag to add, and which pictures of the pool are right."""
    known = tagger.vocabulary.numbers
    labels = sorted({label for found in pool.labels for label in found if ":" in label})
    has = {label: np.array([label in found for found in pool.labels]) for label in labels}
    kinds: dict[str, list[str]] = {}
    for label in labels:
        kind, word = label.split(":", 1)
        if word in known:
            kinds.setdefault(kind, []).append(label)
    queries = []
    for row, found in enumerate(pool.labels):
        mentioned = [
            label
            for label in found
            if (word := label.partition(":")[2]) in known and pool.tags[row, known[word]]
        ]
        for old in mentioned:
            kind, word = old.split(":", 1)
            others = [label for label in mentioned if label != old]
            if not others:
                continue
            fits = np.logical_and.reduce([has[label] for label in others]) & ~has[old]
            for new in kinds[kind]:
                targets = fits & has[new]
                if new not in found and targets.any():
                    queries.append((row, word, new.split(":", 1)[1], targets))
    return queries


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
