"""The metrics of joint models as tables and charts, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping

from mmray.errors import UserError
from mmray.joint.baselines import BASELINES
from mmray.joint.evaluate import method_key
from mmray.joint.table import CLASS_COLUMNS, LINEAR, PATHWAY_COLUMNS, TAG_COLUMNS
from mmray.report import charts
from mmray.report.page import Chart, Grid, metric_grid

MODEL, CHANCE = "the model", "chance"
OWN = "joint"
"""What `mmray.joint.evaluate` calls the model that it measures."""
NAMES = (MODEL, CHANCE, "people", *BASELINES)
"""That other models cannot have."""
_BASELINES = {method_key(name): name for name in BASELINES}
_WHOLE = ("median_rank", "queries", "questions")
GROUPS = (
    *("tags", "completed", "classes", "p50", "missing", "retrieval", "arithmetic"),
    *("analogy", "useless"),
)
REST = {
    "retrieval.image_to_tags.r1": "the right tags come first for a picture",
    "retrieval.image_to_tags.r10": "they are among ten",
    "retrieval.image_to_tags.median_rank": "their median place",
    "retrieval.tags_to_image.r1": "the right picture comes first for tags",
    "retrieval.tags_to_image.r10": "it is among ten",
    "retrieval.tags_to_image.median_rank": "its median place",
    "arithmetic.success10": "picture - tag + tag: a right one among ten",
    "arithmetic.picture_only": "the same, asked with the picture only",
    "arithmetic.tags_only": "the same, asked with the tags only",
    "arithmetic.chance": "the same by chance",
    "arithmetic.queries": "how many such questions",
    "analogy.acc1": "analogies: the first answer is right",
    "analogy.acc5": "analogies: one among five is right",
    "analogy.questions": "how many analogies",
    "useless.auc": "useless tags told from useful ones: area under the ROC curve",
}
WAYS = {
    "success10": "picture and tags",
    "picture_only": "the picture only",
    "tags_only": "the tags only",
    "chance": CHANCE,
}
Metrics = Mapping[str, float]


def check_metrics(metrics: object) -> None:
    """Refuse what `mmray.joint.evaluate` did not measure.

    Raises:
        UserError: names the flag.
    """
    known = isinstance(metrics, Mapping) and any(
        isinstance(key, str) and key.split(".")[0] in GROUPS and isinstance(value, int | float)
        for key, value in metrics.items()
    )
    if not known:
        raise UserError(
            "--metrics: holds nothing that is measured of a joint model; expected what "
            "`evaluate.py joint` wrote"
        )


def by_method(measured: Mapping[str, Metrics], group: str) -> dict[str, dict[str, float]]:
    """Measures of tags by method: the model, other models, baselines, in this order.

    Args:
        measured: metrics by name of the model; of others than `MODEL` baselines are not taken.
        group: `tags` or `completed`.
    """
    ours: dict[str, dict[str, float]] = {}
    others: dict[str, dict[str, float]] = {}
    for model, metrics in measured.items():
        for key, value in metrics.items():
            part, _, rest = key.partition(".")
            method, _, name = rest.rpartition(".")
            if part != group or name not in TAG_COLUMNS:
                continue
            mine, _, given = method.partition("_")
            if mine == OWN:
                who = f"{model}, {given}" if given else model
                ours.setdefault(who, {})[name] = value
            elif model == MODEL:
                who = _BASELINES.get(method, method.replace("_", " "))
                others.setdefault(who, {})[name] = value
    return {**ours, **{who: found for who, found in others.items() if who not in ours}}


def measured_grids(measured: Mapping[str, Metrics]) -> list[Grid]:
    """All that was measured: a table for each group that there is something of."""
    grids = [
        _methods(measured, "tags", "Tags from the picture alone, beside baselines"),
        _methods(measured, "completed", "The other half of the tags, given one half"),
        _classes(measured),
        metric_grid("Search, arithmetic, analogies, useless tags", _whole(measured), REST),
    ]
    return [grid for grid in grids if grid.rows]


def _whole(measured: Mapping[str, Metrics]) -> dict[str, dict[str, float]]:
    """The same metrics, with places and counts as whole numbers where they are."""
    return {
        model: {
            key: int(value) if key.endswith(_WHOLE) and value == int(value) else value
            for key, value in metrics.items()
        }
        for model, metrics in measured.items()
    }


def _methods(measured: Mapping[str, Metrics], group: str, title: str) -> Grid:
    found = by_method(measured, group)
    rows = [[who, *(values.get(name) for name in TAG_COLUMNS)] for who, values in found.items()]
    return Grid(title, ["method", *TAG_COLUMNS.values()], rows)


def _classes(measured: Mapping[str, Metrics]) -> Grid:
    """Mean average precision of classes by what is given, of models and of what they build on."""
    keys = {model: (model, [*CLASS_COLUMNS]) for model in measured}
    keys["linear"] = (MODEL, [LINEAR[use] for use in CLASS_COLUMNS])
    for model in measured:
        sides = [f"{side}_pathway" for side in PATHWAY_COLUMNS]
        keys[f"{model}, a plain regression on its vectors"] = (model, sides)
    rows = [
        [who, *(measured[model].get(f"classes.{name}") for name in names)]
        for who, (model, names) in keys.items()
    ]
    return Grid(
        "Classes that no model was told: MAP by what is given",
        ["method", *CLASS_COLUMNS.values()],
        [row for row in rows if any(row[1:])],
    )


def method_chart(measured: Mapping[str, Metrics]) -> Chart | None:
    """Mean average precision of tags by method; None where it was not measured."""
    found = by_method(measured, "tags")
    names = {"map_tags": "over tags", "map_images": "over pictures"}
    rows = [
        {"method": who, "mean average precision": values[name], "of": text}
        for who, values in found.items()
        for name, text in names.items()
        if name in values
    ]
    if not rows:
        return None
    told = [
        f"{text}: "
        + ", ".join(f"{who} {values[name]:.3f}" for who, values in found.items() if name in values)
        for name, text in names.items()
    ]
    return charts.bars(
        "Tags from the picture alone",
        f"Mean average precision, 0 to 1, {'; '.join(told)}.",
        rows,
        "method",
        "mean average precision",
        "of",
    )


def arithmetic_chart(measured: Mapping[str, Metrics]) -> Chart | None:
    """How often a swap finds a right picture; None where it was not measured."""
    rows, told = [], []
    for model, metrics in measured.items():
        ways = {text: metrics.get(f"arithmetic.{name}") for name, text in WAYS.items()}
        known = {text: value for text, value in ways.items() if value is not None}
        if known:
            rows += [
                {"asked with": text, "right one among ten": value, "of": model}
                for text, value in known.items()
            ]
            listed = ", ".join(f"{text} {value:.0%}" for text, value in known.items())
            told.append(f"{model}: {listed}")
    if not rows:
        return None
    return charts.bars(
        "How often a right picture is among the ten nearest",
        f"Of all swaps that the labels allow; {'; '.join(told)}.",
        rows,
        "asked with",
        "right one among ten",
        "of" if len(told) > 1 else "",
    )


def missing_chart(measured: Mapping[str, Metrics]) -> Chart | None:
    """How well classes are told when tags are taken away; None where it was not measured."""
    curves: dict[str, dict[int, float]] = {}
    for model, metrics in measured.items():
        for key, value in metrics.items():
            group, *method, percent = key.split(".")
            if group != "missing" or not percent.isdigit():
                continue
            who = ".".join(method) or model
            if method and model != MODEL:  # the baseline once more
                continue
            curves.setdefault(who, {})[int(percent)] = value
    if not curves:
        return None
    # What the model is compared with comes after it.
    curves = {**{who: curves[who] for who in measured if who in curves}, **curves}
    rows = [
        {"tags taken away (%)": percent, "mean average precision": value, "of": who}
        for who, points in curves.items()
        for percent, value in sorted(points.items())
    ]
    told = "; ".join(
        f"{who} " + ", ".join(f"{value:.3f} at {p}%" for p, value in sorted(points.items()))
        for who, points in curves.items()
    )
    return charts.lines(
        "Classes when tags are missing",
        f"Mean average precision of classes from the picture and what is left of its tags: {told}.",
        rows,
        "tags taken away (%)",
        "mean average precision",
        "of",
        points=True,
        zero=True,
        wide=True,
    )
