"""The metrics of a joint model as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

TAG_COLUMNS = {
    "map_tags": "MAP tags",
    "map_images": "MAP pictures",
    "p5": "P@5",
    "r5": "R@5",
    "ece": "calibration error",
}
CLASS_COLUMNS = {"both": "picture + tags", "image": "picture", "tags": "tags"}
PATHWAY_COLUMNS = {"jointly": "joint vector", "pictures": "picture pathway", "tags": "tag pathway"}
LINEAR = {"both": "concat_baseline", "image": "image_baseline", "tags": "tags_baseline"}


def joint_tables(metrics: dict[str, float], others: Sequence[str] = ()) -> list[Table]:
    """What `mmray.joint.evaluate.evaluate` measured, as tables; `others` are further models."""
    tables = [
        _methods(metrics, "tags", "tags of held-out pictures, from the picture alone"),
        _methods(metrics, "completed", "the other half of their tags, given one half"),
        _classes(metrics, others),
        _pathways(metrics, others),
        _missing(metrics, others),
        _rest(metrics, others, "retrieval", "pictures and tag sets that find each other"),
        _rest(metrics, others, "arithmetic", "picture - tag + tag: a right one among ten"),
        _rest(metrics, others, "analogy", "analogies between tags"),
        _rest(metrics, others, "useless", "tags that pictures do not tell"),
    ]
    return [table for table in tables if table.row_count]


def _methods(metrics: dict[str, float], group: str, title: str) -> Table:
    table = Table("method", *TAG_COLUMNS.values(), title=title, title_justify="left")
    keys = [key.split(".") for key in metrics if key.startswith(f"{group}.")]
    for method in dict.fromkeys(key[1] for key in keys):
        values = [metrics.get(f"{group}.{method}.{name}", math.nan) for name in TAG_COLUMNS]
        table.add_row(method.replace("_", " "), *map(_number, values), style=_style(method))
    return table


def _style(method: str) -> str | None:
    return "bold" if method.startswith("joint") else None


def _classes(metrics: dict[str, float], others: Sequence[str]) -> Table:
    title = "classes: MAP (precision at 50)"
    table = Table("method", *CLASS_COLUMNS.values(), title=title, title_justify="left")
    rows = {"joint": {use: use for use in CLASS_COLUMNS}, "linear": LINEAR}
    for other in others:
        rows[other] = {use: f"{other}_{use}" for use in CLASS_COLUMNS}
    for name, keys in rows.items():
        if all(f"classes.{key}" in metrics for key in keys.values()):
            cells = [
                f"{_number(metrics[f'classes.{key}'])} ({_number(metrics[f'p50.{key}'])})"
                for key in keys.values()
            ]
            table.add_row(name, *cells, style=_style(name))
    return table


def _pathways(metrics: dict[str, float], others: Sequence[str]) -> Table:
    title = "classes: MAP of a plain regression on one model's own vectors"
    table = Table("method", *PATHWAY_COLUMNS.values(), title=title, title_justify="left")
    for name in ("joint", *others):
        prefix = "" if name == "joint" else f"{name}_"
        keys = [f"classes.{prefix}{side}_pathway" for side in PATHWAY_COLUMNS]
        if all(key in metrics for key in keys):
            table.add_row(name, *(_number(metrics[key]) for key in keys), style=_style(name))
    return table


def _missing(metrics: dict[str, float], others: Sequence[str]) -> Table:
    percents = [k.split(".")[1] for k in metrics if k.startswith("missing.") and k.count(".") == 1]
    title = "classes: MAP with tags removed"
    columns = [f"{percent}%" for percent in percents]
    table = Table("method", *columns, title=title, title_justify="left")
    for name in ("joint", "linear", *others) if percents else ():
        prefix = "missing" if name == "joint" else f"missing.{name}"
        keys = [f"{prefix}.{percent}" for percent in percents]
        if all(key in metrics for key in keys):
            table.add_row(name, *(_number(metrics[key]) for key in keys), style=_style(name))
    return table


def _rest(metrics: dict[str, float], others: Sequence[str], group: str, title: str) -> Table:
    own = [
        key.removeprefix(f"{group}.")
        for key in metrics
        if key.startswith(f"{group}.") and key.split(".")[1] not in others
    ]
    table = Table("measure", "joint", *others, title=title, title_justify="left")
    for name in own:
        cells = [metrics[f"{group}.{name}"]]
        cells += [metrics.get(f"{group}.{other}.{name}", math.nan) for other in others]
        label = name.replace("_", " ").replace(".", ": ")
        table.add_row(label, *map(_number, cells))
    return table


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    if value > 1 or value < 0:
        return f"{value:g}"
    return f"{value:.3f}".replace("0.", ".", 1)
