"""The page of a captioner: its captions beside those of people, and how it comes to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmray.captioner.evaluate import RESERVED, taught
from mmray.captioner.predict import Captioner
from mmray.captioner.scores import scores
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.report import charts
from mmray.report.captioner.attention import attended, places_of_rows
from mmray.report.captioner.words import (
    captions_by,
    cider_chart,
    length_chart,
    use_chart,
    variety_grid,
)
from mmray.report.captioner.written import GROUPS, MODEL, Written, stored_rows, write
from mmray.report.curves import loss_charts
from mmray.report.page import Chart, Grid, Media, page_name, render

SCORES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
}
WRITERS = {
    "": MODEL,
    "greedy": "greedy: the model's likeliest word each time",
    "blind": "blind: the captions of other pictures",
    "nearest": "nearest: of the most similar training picture",
    "commonest": "commonest: the same for all",
    "people": "people: one against the others",
}
NAMES = (MODEL, *RESERVED)
"""That other models cannot have."""
ATTENDED = 4
"""Captions of a group that are shown word by word."""
_REFERENCES = 8
_APART = 0.01


def captioner_page(
    where: str,
    captioner: Captioner,
    dataset: Dataset,
    split: str,
    metrics: Mapping[str, float],
    *,
    others: Mapping[str, Captioner] | None = None,
    items: int = 40,
    limit: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """The page of a captioner as HTML.

    Args:
        where: of the captioner: anything that `mmray.load` takes.
        captioner: the same, loaded.
        dataset: of captioned pictures.
        split: which of them.
        metrics: of the captioner, as `mmray.captioner.evaluate` gives them.
        others: more captioners by name, for captions beside its own.
        items: how many pictures to show.
        limit: use only the first pictures of the split.
        report: called with a line of progress.

    Raises:
        UserError: `metrics` are none of captions, a model and the dataset do not belong together,
            or there are no captions.
    """
    check_metrics(metrics)
    media = Media()
    captioners = {MODEL: captioner, **(others or {})}
    written = write(captioners, dataset, split, limit=limit, report=report)
    groups = written.groups(items)
    shown = {written.ids[i] for rows in groups.values() for i in rows}
    thumbnails = {
        name: row["thumbnail"]
        for name, row in stored_rows(dataset, split, shown, ["thumbnail"]).items()
    }
    captions = captions_by(written)
    return render(
        "captioner.html",
        media,
        title=f"What {page_name(where)} writes",
        kind="Captioner",
        lead="A model that writes sentences about pictures. Here is what it wrote of pictures that "
        "it did not learn from, beside what people wrote of them.",
        figures=_figures(written, captions),
        gallery={
            name: [_card(written, i, thumbnails, media) for i in rows]
            for name, rows in groups.items()
        },
        looked=_looked(captioner, dataset, split, written, groups, thumbnails, media),
        has_attention=captioner.stored.grid is not None,
        word_charts=[length_chart(captions), cider_chart(written), use_chart(captions)],
        variety=variety_grid(captions, taught(dataset)),
        scores=score_grid(metrics, written),
        score_charts=[_score_chart(metrics, written), *loss_charts(where)],
        note=measured_elsewhere(metrics, written),
        facts=_facts(where, captioner, dataset, split, written, others or {}),
    )


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Refuse what is not measured by `mmray.captioner.evaluate`.

    Raises:
        UserError: names the flag.
    """
    if not isinstance(metrics, Mapping) or not isinstance(metrics.get("cider"), int | float):
        raise UserError(
            "--metrics: holds no scores of captions; expected what `evaluate.py captioner` wrote"
        )


def measured_elsewhere(metrics: Mapping[str, float], written: Written) -> str:
    """What to say where the metrics are not those of the captions on the page; "" if they are."""
    count, here = int(metrics.get("pictures", 0)), len(written.ids)
    if count != here:
        return (
            f"The metrics were measured on {count:,} pictures, all else on this page on {here:,}. "
            "CIDEr weighs phrases by how many pictures' captions have them, so the two differ "
            "somewhat. Give both the same --limit to compare them."
        )
    cider = float(written.cider[MODEL].mean())
    if abs(cider - metrics["cider"]) > _APART:
        return (
            f"By the metrics CIDEr is {metrics['cider']:.3f}, by the captions on this page "
            f"{cider:.3f}: they seem to be of another model, of other data, or of another beam."
        )
    return ""


def _card(
    written: Written, i: int, thumbnails: Mapping[str, bytes], media: Media
) -> dict[str, Any]:
    return {
        "id": written.ids[i],
        "picture": media.picture(thumbnails.get(written.ids[i])),
        "caption": written.texts[MODEL][i],
        "scores": written.scores(i),
        "others": [
            (name, texts[i], float(written.cider[name][i]))
            for name, texts in written.texts.items()
            if name != MODEL
        ],
        "references": written.references[i][:_REFERENCES],
        "more": max(0, len(written.references[i]) - _REFERENCES),
    }


def _looked(
    captioner: Captioner,
    dataset: Dataset,
    split: str,
    written: Written,
    groups: Mapping[str, list[int]],
    thumbnails: Mapping[str, bytes],
    media: Media,
) -> dict[str, list[dict[str, Any]]]:
    """The first captions of the best and the median group word by word; of none without places."""
    if captioner.stored.grid is None:
        return {}
    wanted = {name: [written.ids[i] for i in groups[name][:ATTENDED]] for name in GROUPS[:2]}
    column = captioner.stored.column
    ids = {name for names in wanted.values() for name in names}
    rows = stored_rows(dataset, split, ids, [column])
    return {
        group: attended(
            captioner,
            places_of_rows([rows[name] for name in names], column),
            [thumbnails.get(name) for name in names],
            media,
        )
        for group, names in wanted.items()
        if names
    }


def _writers(metrics: Mapping[str, float], written: Written) -> dict[str, dict[str, float]]:
    """Scores by who wrote the captions; those of other models are of the pictures on the page."""
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, score = key.rpartition(".")
        if score in SCORES:
            found.setdefault(WRITERS.get(name, name), {})[score] = value
    ours = {MODEL: found.pop(MODEL)}
    for name, texts in written.texts.items():
        if name != MODEL:
            ours[name] = scores(texts, written.references)
            found.pop(name, None)
    return {**ours, **found}


def score_grid(metrics: Mapping[str, float], written: Written) -> Grid:
    """All scores, a row for each writer: the model, other models, baselines, people."""
    writers = _writers(metrics, written)
    names = [name for name in SCORES if any(name in found for found in writers.values())]
    rows = [[who, *(found.get(name) for name in names)] for who, found in writers.items()]
    return Grid(
        "How well captions agree with people's",
        ["captions of", *(SCORES[name] for name in names)],
        rows,
    )


def _score_chart(metrics: Mapping[str, float], written: Written) -> Chart:
    rows = [
        {"captions of": who.partition(":")[0], "CIDEr": found["cider"]}
        for who, found in _writers(metrics, written).items()
        if "cider" in found
    ]
    told = ", ".join(f"{row['captions of']} {row['CIDEr']:.2f}" for row in rows)
    text = f"The mean over pictures, from 0 to 10: {told}."
    return charts.bars("CIDEr beside baselines", text, rows, "captions of", "CIDEr")


def _figures(written: Written, captions: dict[str, list[list[str]]]) -> list[tuple[str, str]]:
    ours = captions[MODEL]
    return [
        (f"{written.cider[MODEL].mean():.2f}", "CIDEr on average"),
        (f"{len(written.ids):,}", "pictures that it wrote about"),
        (f"{len({word for words in ours for word in words}):,}", "different words"),
        (f"{np.mean([len(words) for words in ours]):.1f}", "words a caption"),
    ]


def _facts(
    where: str,
    captioner: Captioner,
    dataset: Dataset,
    split: str,
    written: Written,
    others: Mapping[str, Captioner],
) -> dict[str, str]:
    def described(each: Captioner) -> str:
        grid, config = each.stored.grid, each.net.config
        sees = f"{grid[0]} x {grid[1]} places" if grid else "one vector"
        return f"{config.arch}, {len(each.stored.words):,} words, sees {sees} of a picture"

    facts = {"model": where, "net": described(captioner)}
    for name, other in others.items():
        facts[name] = described(other)
    facts["pictures"] = f"{len(written.ids):,} with captions of the split {split} of {dataset.uri}"
    facts["people's captions"] = f"{sum(map(len, written.references)):,}"
    return facts
