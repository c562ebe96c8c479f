"""The numbers of `evaluate.py storyteller` as charts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mmray.errors import UserError
from mmray.report import charts
from mmray.report.page import Chart, Grid, metric_grid
from mmray.storyteller.evaluate import RECALL_AT, STRENGTHS

MODEL = "the model"
Metrics = Mapping[str, float]
IN_STYLE, ABOUT = "share taken for the style", "cosine with what people wrote"
NAMES = {
    "words": "words a story",
    "copied8": "copied8: share of eight words in a row that the book has too",
    "distinct3": "distinct3: different runs of three words, share of all",
    "loops4": "loops4: share of runs of four words that the story had before",
    "empty": "share of empty stories",
    "cut": "share of stories that were cut",
    "shuffled.content": "content, if stories (at 0.5) are given to other pictures",
    "shuffled.retrieval.r10": f"R@{RECALL_AT}, if stories (at 0.5) are given to other pictures",
    "random.style": "in style, if a direction is drawn by lot",
    "random.content": "content, if a direction is drawn by lot",
}


def check_metrics(metrics: Metrics) -> None:
    """Refuse what is not measured by `mmray.storyteller.evaluate`.

    Raises:
        UserError: names the flag.
    """
    if not isinstance(metrics, Mapping) or not styles_of(metrics):
        raise UserError(
            "--metrics: holds no numbers of stories; expected what `evaluate.py storyteller` wrote"
        )


def styles_of(metrics: Metrics) -> list[str]:
    """The styles that were measured."""
    last = f".style.{STRENGTHS[-1]:g}"
    return [key.removesuffix(last) for key in metrics if key.endswith(last)]


def _series(measured: Mapping[str, Metrics]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each style of each model: what to call it, and its numbers."""
    for name, metrics in measured.items():
        for style in styles_of(metrics):
            start = f"{style}."
            numbers = {
                key.removeprefix(start): value
                for key, value in metrics.items()
                if key.startswith(start)
            }
            yield style if name == MODEL else f"{style}, {name}", numbers


def curve(measured: Mapping[str, Metrics]) -> Chart:
    """How much of the style, and how much of the picture, is in stories by strength.

    Args:
        measured: what `mmray.storyteller.evaluate` gives, by name of the model.
    """
    rows, levels, told = [], [], []
    for name, numbers in _series(measured):
        points = [
            {
                IN_STYLE: numbers[f"style.{s:g}"],
                ABOUT: numbers[f"content.{s:g}"],
                "style": name,
                "strength": s,
            }
            for s in STRENGTHS
        ]
        rows += points
        listed = ", ".join(
            f"{p['strength']:g} is {p[IN_STYLE]:.2f} and {p[ABOUT]:.2f}" for p in points
        )
        others = numbers.get("shuffled.content")
        if others is not None:
            levels.append({ABOUT: others, "style": name})
            listed += f"; with other pictures {others:.2f}"
        told.append(f"{name}: {listed}")
    text = (
        "At each strength, which is written beside the points, the share of the stories that a "
        "classifier takes for the style, and the cosine with what people wrote of the picture. "
        f"Strength {'. '.join(told)}. Dashed: the cosine with what people wrote of other pictures."
    )
    return charts.path(
        "Style and content", text, rows, IN_STYLE, ABOUT, "style", "strength", levels, wide=True
    )


def by_strength(measured: Mapping[str, Metrics]) -> list[Chart]:
    """Retrieval and perplexity by strength; what is not finite is left out."""
    found = []
    for key, title, text, how in (
        (
            "retrieval.r10",
            f"R@{RECALL_AT}",
            f"The share of the stories whose picture is among the {RECALL_AT} that they are most "
            "like.",
            "{:.2f}",
        ),
        (
            "perplexity",
            "perplexity",
            "How surprising each word is to someone who knows the book; the lower, the more like "
            "the book.",
            "{:,.0f}",
        ),
    ):
        rows, told = [], []
        for name, numbers in _series(measured):
            points = [(s, numbers.get(f"{key}.{s:g}", math.nan)) for s in STRENGTHS]
            points = [(s, value) for s, value in points if math.isfinite(value)]
            rows += [{"strength": s, title: value, "style": name} for s, value in points]
            if points:
                (a, first), (b, last) = points[0], points[-1]
                told.append(
                    f"{name} {how.format(first)} at strength {a:g}, {how.format(last)} at {b:g}"
                )
        if rows:
            chart = charts.lines(
                f"{title} by strength",
                f"{text} {'; '.join(told)}.",
                rows,
                "strength",
                title,
                "style",
                points=True,
                zero=key != "perplexity",
                log_y=key == "perplexity",
            )
            found.append(chart)
    return found


def tables(measured: Mapping[str, Metrics]) -> list[Grid]:
    """All numbers: by strength, and those of stories at full strength with the controls."""
    keys = ("style", "content", "retrieval.r10")
    rows = [
        [
            name,
            f"{s:g}",
            *(numbers.get(f"{key}.{s:g}") for key in keys),
            _whole(numbers.get(f"perplexity.{s:g}", math.inf)),
        ]
        for name, numbers in _series(measured)
        for s in STRENGTHS
    ]
    columns = ["style", "strength", "in style", "content", f"R@{RECALL_AT}", "perplexity"]
    return [
        Grid("By strength", columns, rows),
        metric_grid("At strength 1, and controls", dict(_series(measured)), NAMES),
    ]


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None
