"""The page of a joint model of pictures and tags: what it says, finds and has learned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mmray.joint.predict import Tagger
from mmray.pipeline.dataset import Dataset
from mmray.report.curves import loss_charts
from mmray.report.joint.gallery import Gallery, read_gallery
from mmray.report.joint.measured import (
    MODEL,
    Metrics,
    arithmetic_chart,
    check_metrics,
    measured_grids,
    method_chart,
    missing_chart,
)
from mmray.report.joint.pictures import (
    alike_chart,
    nearest_cards,
    picture_map,
    swap_cards,
    swaps,
    tag_cards,
)
from mmray.report.joint.tags import (
    Analogies,
    Precision,
    Question,
    analogies_of,
    judgement,
    precision_chart,
    precision_grid,
    precision_of,
    tag_map,
    visual_chart,
    visual_grid,
)
from mmray.report.page import Media, page_name, render

LEAST_TRAINING = 10
"""Training pictures of a tag that `evaluate.py` measures, unless it is told otherwise."""
_APART = 0.01
FIGURES = (
    ("tags.joint.map_tags", ".3f", "mean average precision of tags"),
    ("arithmetic.success10", ".0%", "of swaps find a right picture among ten"),
    ("analogy.acc1", ".0%", "of analogies right at once"),
)


def joint_page(
    where: str,
    tagger: Tagger,
    dataset: Dataset,
    split: str,
    measured: Mapping[str, Metrics],
    *,
    others: Mapping[str, Tagger] | None = None,
    analogies: Sequence[Question] = (),
    useless: Collection[str] = (),
    items: int = 40,
    limit: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """The page of a joint model as HTML.

    Args:
        where: of the model: anything that `mmray.load` takes.
        tagger: the same, loaded.
        dataset: pictures with features of its backbone.
        split: which of them are shown and measured.
        measured: what `mmray.joint.evaluate` gives, by name of the model; the first is `MODEL`.
        others: more models by name, that know the same tags.
        analogies: questions `a is to b as c is to d`.
        useless: tags that are known to tell nothing of a picture.
        items: how many pictures to show with their tags.
        limit: use only the first pictures of the split.
        seed: of the maps, and of what is drawn by lot.
        report: called with a line of progress.

    Raises:
        UserError: the metrics are none of a joint model, or there are no pictures.
    """
    for metrics in measured.values():
        check_metrics(metrics)
    report("looking at pictures")
    media = Media()
    gallery = read_gallery(tagger, dataset, split, limit)
    models = {MODEL: tagger, **(others or {})}
    precise = precision_of(gallery, models)
    pictures = _of_pictures(gallery, models, media, items, seed)
    report("drawing maps")
    return render(
        "joint.html",
        media,
        title=f"What {page_name(where)} tells of pictures",
        kind="Joint model of pictures and tags",
        lead="A model that learned from pictures as people publish them, with few tags or none. "
        "Here is what it says of pictures that it did not learn from, and how it lays out "
        "pictures and tags.",
        figures=_figures(measured[MODEL], gallery),
        **pictures,
        maps=[picture_map(gallery, media, seed), tag_map(tagger, seed)],
        arithmetic=arithmetic_chart(measured),
        scores=[method_chart(measured), *measured_grids(measured)],
        precision=[precision_chart(precise), precision_grid(precise, split)],
        note=measured_elsewhere(measured[MODEL], precise),
        missing=missing_chart(measured),
        **_of_tags(tagger, analogies, useless),
        curves=loss_charts(where),
        facts=_facts(where, tagger, dataset, split, gallery, others or {}),
    )


def _of_pictures(
    gallery: Gallery, models: Mapping[str, Tagger], media: Media, items: int, seed: int
) -> dict[str, Any]:
    """What the template shows of single pictures."""
    found, by_labels = swaps(gallery, seed)
    return {
        "tagged": tag_cards(gallery, models, items, media),
        "nearest": nearest_cards(gallery, media),
        "alike": alike_chart(gallery),
        "swapped": swap_cards(gallery, found, media),
        "by_labels": by_labels,
    }


def _of_tags(
    tagger: Tagger, analogies: Sequence[Question], useless: Collection[str]
) -> dict[str, Any]:
    """What the template shows of single tags."""
    answered = analogies_of(tagger, analogies)
    return {
        "analogies": answered.grid,
        "analogies_say": _analogies_say(answered),
        "visual": [visual_chart(tagger, useless), visual_grid(tagger, useless)],
        "judgement": judgement(tagger, useless),
    }


def measured_elsewhere(metrics: Metrics, precise: Precision) -> str:
    """What to say where the metrics are not those of the pictures on the page; "" if they are."""
    said, here = metrics.get("tags.joint.map_tags"), precise.mean(LEAST_TRAINING)
    if said is None or not np.isfinite(here) or abs(said - here) <= _APART:
        return ""
    return (
        f"By the metrics the mean average precision over tags is {said:.3f}, by the pictures on "
        f"this page {here:.3f}. They may be of more pictures or of other tags (--limit, "
        "--min-count), of other data, or of another model."
    )


def _figures(metrics: Metrics, gallery: Gallery) -> list[tuple[str, str]]:
    found = [(f"{metrics[name]:{form}}", text) for name, form, text in FIGURES if name in metrics]
    known = (f"{len(gallery.tagger.vocabulary):,}", "tags known")
    return [*found, known, (f"{gallery.num_asked:,}", "pictures asked about")]


def _analogies_say(found: Analogies) -> str:
    text = (
        f"Of {found.asked:,} questions {found.first:.0%} are answered right at once, "
        f"{found.five:.0%} among five answers."
    )
    if found.unknown:
        text += f" {found.unknown:,} more have a tag that the model does not know."
    return text


def _facts(
    where: str,
    tagger: Tagger,
    dataset: Dataset,
    split: str,
    gallery: Gallery,
    others: Mapping[str, Tagger],
) -> dict[str, str]:
    def described(each: Tagger) -> str:
        nets = ", ".join(each.scorer.backbone.get("nets", []))
        return (
            f"{each.scorer.arch}, {len(each.vocabulary):,} tags, vectors of "
            f"{each.scorer.tag_directions.shape[1]:,} numbers, sees through {nets}"
        )

    facts = {"model": where, "net": described(tagger)}
    facts |= {name: described(other) for name, other in others.items()}
    facts["pictures"] = (
        f"the first {gallery.num_asked:,} of the split {split} of {dataset.uri}; "
        f"{len(gallery):,} of all splits are searched"
    )
    return facts
