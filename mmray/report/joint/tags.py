"""Tags and what a joint model has learned of them: a map, analogies, precision, usefulness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.joint.finish import VISUAL_AUC
from mmray.joint.metrics import LEAST_POSITIVES, average_precision
from mmray.joint.predict import Tagger
from mmray.report import charts, maps
from mmray.report.joint.gallery import Gallery
from mmray.report.joint.measured import CHANCE, MODEL
from mmray.report.page import Chart, Grid

MAPPED = 150
"""Tags on the map."""
MAP_SIZE = (1060, 600)
"""Of the map in pixels, on a wide screen."""
LETTER = (6, 13)
"""Width and height of a letter on it."""
CHARTED = 20
"""Tags of a bar chart, at most."""
MOST_QUESTIONS = 500
"""Analogies that are asked."""
_UNJUDGED = 5e-5
"""Model folders keep four digits of the scores."""
TOO_FEW = "too few to say"
Question = tuple[str, str, str, str]


def tag_map(tagger: Tagger, seed: int = 0) -> Chart | None:
    """The most frequent tags as words; None of fewer than three."""
    scorer, names = tagger.scorer, tagger.vocabulary.tags
    # Without a picture that it looks like, a tag has no direction.
    numbers = np.flatnonzero(np.abs(scorer.tag_directions).max(axis=1) > 0)[:MAPPED]
    if len(numbers) < 3:
        return None
    places = maps.plane(scorer.tag_directions[numbers], seed)
    letters = np.array([len(names[j]) for j in numbers])
    span = np.ptp(places, axis=0) / MAP_SIZE
    boxes = np.stack([letters * LETTER[0] + LETTER[0], np.full(len(letters), LETTER[1])], axis=1)
    places = maps.apart(places, boxes * span)
    nearest = {j: tagger.neighbours(names[j], 1)[0] for j in numbers.tolist()}
    rows = [
        {
            "x": float(x),
            "y": float(y),
            "tag": names[j],
            "pictures tell it": _judged(scorer.visual[j]),
            "training pictures": tagger.vocabulary.counts[j],
            "most similar": "{} ({:.2f})".format(*nearest[j]),
        }
        for (x, y), j in zip(places, numbers.tolist(), strict=True)
    ]
    numbered = tagger.vocabulary.numbers
    pairs = {
        tuple(sorted((names[j], other))): value
        for j, (other, value) in nearest.items()
        if nearest.get(numbered[other], ("", 0.0))[0] == names[j]
    }
    closest = sorted(pairs.items(), key=lambda pair: -pair[1])[:10]
    told = ", ".join(f"{' and '.join(pair)} ({value:.2f})" for pair, value in closest)
    return charts.atlas(
        "Tags as the model lays them out",
        f"t-SNE of the {len(numbers)} most frequent tags by where their pictures lie. The pairs "
        f"that are nearest to each other, with their cosines: {told or 'none'}.",
        rows,
        "pictures tell it",
        labels="tag",
        wide=True,
        height=620,
    )


def _judged(visual: float) -> str:
    if abs(visual - VISUAL_AUC) < _UNJUDGED:
        return TOO_FEW
    return "yes" if visual >= VISUAL_AUC else "no"


@dataclass(frozen=True)
class Analogies:
    """What a model answers to questions `a is to b as c is to d`.

    Args:
        grid: a row for each question; None without questions.
        asked: how many were asked.
        first: how often the first answer is the right one, 0 to 1.
        five: how often one among five is.
        unknown: questions with a tag that the model does not know, which are not asked.
    """

    grid: Grid | None = None
    asked: int = 0
    first: float = 0.0
    five: float = 0.0
    unknown: int = 0


def analogies_of(tagger: Tagger, questions: Sequence[Question]) -> Analogies:
    """Ask the first `MOST_QUESTIONS` questions whose tags the model knows."""
    known = tagger.vocabulary.numbers
    asked = [q for q in questions if all(tag in known for tag in q)]
    unknown = len(questions) - len(asked)
    rows: list[list[Any]] = []
    ranks = []
    for a, b, c, d in asked[:MOST_QUESTIONS]:
        answers = tagger.analogy(a, b, c, 5)
        names = [name for name, _ in answers]
        rank = names.index(d) + 1 if d in names else 0
        ranks.append(rank)
        verdict = "yes" if rank == 1 else f"no, it is number {rank}" if rank else "no"
        (first, cosine), others = answers[0], ", ".join(names[1:])
        rows.append([f"{a} : {b} = {c} : ?", first, d, verdict, cosine, others])
    if not rows:
        return Analogies(unknown=unknown)
    columns = ["question", "answer", "expected", "right", "cosine", "next"]
    found = np.array(ranks)
    return Analogies(
        Grid("Analogies between tags", columns, rows, search=True),
        len(rows),
        float((found == 1).mean()),
        float((found > 0).mean()),
        unknown,
    )


@dataclass(frozen=True)
class Precision:
    """Average precision of tags, on the pictures of a split.

    Args:
        tags: tags of enough of these pictures.
        pictures: how many have each.
        training: how many training pictures have each.
        chance: the average precision of a constant, which is the share of pictures with the tag.
        values: average precision, float64 [T], by name of the model.
    """

    tags: list[str]
    pictures: np.ndarray
    training: np.ndarray
    chance: np.ndarray
    values: dict[str, np.ndarray]

    def mean(self, least: int) -> float:
        """The model's mean over the tags of at least so many training pictures; NaN of none."""
        chosen = self.values[MODEL][self.training >= least]
        return float(chosen.mean()) if len(chosen) else float("nan")


def precision_of(gallery: Gallery, models: Mapping[str, Tagger]) -> Precision:
    """Average precision by tag from the picture alone, of models by name."""
    asked, vocabulary = gallery.asked, gallery.tagger.vocabulary
    counts = asked.tags.sum(axis=0)
    numbers = np.flatnonzero(counts >= LEAST_POSITIVES)
    truth = asked.tags[:, numbers]
    values = {
        name: average_precision(model.scorer.probabilities(asked.features)[:, numbers], truth)
        for name, model in models.items()
    }
    return Precision(
        [vocabulary.tags[j] for j in numbers],
        counts[numbers],
        np.array(vocabulary.counts)[numbers],
        counts[numbers] / max(1, len(asked)),
        values,
    )


def precision_grid(found: Precision, split: str) -> Grid | None:
    """A row for each tag, those that are told best first; None of no tags."""
    if not found.tags:
        return None
    order = np.argsort(-found.values[MODEL], kind="stable").tolist()
    rows = [
        [
            found.tags[i],
            *(float(values[i]) for values in found.values.values()),
            float(found.chance[i]),
            int(found.pictures[i]),
            int(found.training[i]),
        ]
        for i in order
    ]
    columns = ["tag", *found.values, CHANCE, split, "training"]
    title = f"Average precision of every tag, and how many {split} and training pictures have it"
    return Grid(title, columns, rows, search=True)


def precision_chart(found: Precision) -> Chart | None:
    """The tags that are told best, beside chance; None of no tags."""
    if not found.tags:
        return None
    mine = found.values[MODEL]
    order = np.argsort(-mine, kind="stable").tolist()
    best = order[:CHARTED]
    shown = {**found.values, CHANCE: found.chance}
    rows = [
        {
            "tag": found.tags[i],
            "average precision": float(values[i]),
            "of": name,
            "pictures": int(found.pictures[i]),
        }
        for i in best
        for name, values in shown.items()
    ]
    told = ", ".join(f"{found.tags[i]} {mine[i]:.2f} ({found.chance[i]:.2f})" for i in best[:10])
    last = ", ".join(f"{found.tags[i]} {mine[i]:.2f} ({found.chance[i]:.2f})" for i in order[-5:])
    return charts.bars(
        "Tags that are told best",
        f"Average precision, in brackets that of chance: {told}. The worst of {len(order)} are "
        f"{last}.",
        rows,
        "tag",
        "average precision",
        "of",
    )


def visual_chart(tagger: Tagger, useless: Collection[str] = ()) -> Chart | None:
    """The tags that pictures tell best and worst, where it is known coloured by the truth.

    Args:
        tagger: the model.
        useless: tags that nobody can see, where that is known.

    Returns:
        The chart; None where no tag has enough pictures to say.
    """
    visual, names = tagger.scorer.visual, tagger.vocabulary.tags
    judged = [j for j in _by_visual(tagger) if _judged(visual[j]) != TOO_FEW]
    few = CHARTED * 3 // 4
    shown = judged if len(judged) <= 2 * few else judged[:few] + judged[-few:]
    if not shown:
        return None
    rows = [
        {
            "tag": names[j],
            "area under the curve": float(visual[j]),
            "judged": "generated" if visual[j] >= VISUAL_AUC else "left out",
            **({"in truth": _truth(names[j], useless)} if useless else {}),
        }
        for j in shown
    ]
    told = [f"{names[j]} {visual[j]:.2f}" for j in shown]
    return charts.bars(
        "Tags that pictures tell best and worst",
        f"Area under the ROC curve: {', '.join(told[:10])}; down to {', '.join(told[-10:])}. "
        f"Chance is 0.5; from {VISUAL_AUC:g} on a tag is generated.",
        rows,
        "tag",
        "area under the curve",
        colour="in truth" if useless else "judged",
    )


def visual_grid(tagger: Tagger, useless: Collection[str] = ()) -> Grid:
    """How well pictures tell every tag, the worst first, where it is known beside the truth.

    Tags of too few pictures come last.
    """
    visual, names = tagger.scorer.visual, tagger.vocabulary.tags
    judged = {j: _judged(visual[j]) for j in reversed(_by_visual(tagger))}
    rows = [
        [
            names[j],
            None if judged[j] == TOO_FEW else float(visual[j]),
            judged[j],
            tagger.vocabulary.counts[j],
            *([_truth(names[j], useless)] if useless else []),
        ]
        for j in sorted(judged, key=lambda j: judged[j] == TOO_FEW)
    ]
    columns = ["tag", "area", "told", "training", *(["in truth"] if useless else [])]
    title = "How well pictures tell every tag, and how many training pictures have it"
    return Grid(title, columns, rows, search=True)


def judgement(tagger: Tagger, useless: Collection[str] = ()) -> str:
    """How many tags are judged useless, and where that is known how often rightly."""
    left_out = {
        tag
        for tag, visual in zip(tagger.vocabulary.tags, tagger.scorer.visual, strict=True)
        if visual < VISUAL_AUC
    }
    text = f"{len(left_out):,} of {len(tagger.vocabulary):,} tags are judged useless"
    if not useless:
        return f"{text}."
    truly = set(useless) & set(tagger.vocabulary.tags)
    wrong = sorted(left_out - truly)
    text = f"{text}. {len(left_out & truly)} of the {len(truly)} that nobody can see are among them"
    missed = sorted(truly - left_out)
    text += f" (missed: {', '.join(missed[:CHARTED])})" if missed else ""
    return f"{text}; wrongly judged: {', '.join(wrong[:CHARTED]) or 'none'}."


def _by_visual(tagger: Tagger) -> list[int]:
    order: list[int] = np.argsort(-tagger.scorer.visual, kind="stable").tolist()
    return order


def _truth(tag: str, useless: Collection[str]) -> str:
    return "cannot be seen" if tag in useless else "can be seen"
