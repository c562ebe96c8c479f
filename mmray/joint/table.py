"""The metrics of a joint model as tables."""

from __future__ import annotations

from rich.table import Table

TAG_COLUMNS = {
    "map_tags": "MAP tags",
    "map_images": "MAP pictures",
    "p5": "P@5",
    "r5": "R@5",
    "ece": "calibration error",
}
CLASS_COLUMNS = {"both": "picture + tags", "image": "picture", "tags": "tags"}


def joint_tables(metrics: dict[str, float]) -> list[Table]:
    """What `mmray.joint.evaluate.evaluate` measured, as tables for the console."""
    tables = [
        _methods(metrics, "tags", "tags of held-out pictures, from the picture alone"),
        _methods(metrics, "completed", "the other half of their tags, given one half"),
        _classes(metrics),
        _missing(metrics),
        _rest(metrics, "retrieval", "pictures and tag sets that find each other"),
        _rest(metrics, "arithmetic", "picture - tag + tag: a right one among the ten nearest"),
        _rest(metrics, "analogy", "analogies between tags"),
        _rest(metrics, "useless", "tags that pictures do not tell"),
    ]
    return [table for table in tables if table.row_count]


def _methods(metrics: dict[str, float], group: str, title: str) -> Table:
    table = Table("method", *TAG_COLUMNS.values(), title=title, title_justify="left")
    keys = [key.split(".") for key in metrics if key.startswith(f"{group}.")]
    for method in dict.fromkeys(key[1] for key in keys):
        values = [metrics[f"{group}.{method}.{name}"] for name in TAG_COLUMNS]
        table.add_row(method.replace("_", " "), *map(_number, values), style=_style(method))
    return table


def _style(method: str) -> str | None:
    return "bold" if method.startswith("joint") else None


def _classes(metrics: dict[str, float]) -> Table:
    title = "classes: MAP (precision at 50)"
    table = Table("method", *CLASS_COLUMNS.values(), title=title, title_justify="left")
    names = {"both": "concat_baseline", "image": "image_baseline", "tags": "tags_baseline"}
    rows = {"joint": {use: use for use in CLASS_COLUMNS}, "linear": names}
    for key in metrics:
        if key.startswith("classes.") and key.endswith("_both"):
            other = key.split(".")[1].removesuffix("_both")
            rows[other] = {use: f"{other}_{use}" for use in CLASS_COLUMNS}
    for name, keys in rows.items():
        if all(f"classes.{key}" in metrics for key in keys.values()):
            cells = [
                f"{_number(metrics[f'classes.{key}'])} ({_number(metrics[f'p50.{key}'])})"
                for key in keys.values()
            ]
            table.add_row(name, *cells, style=_style(name))
    return table


def _missing(metrics: dict[str, float]) -> Table:
    keys = [key for key in metrics if key.startswith("missing.")]
    title = "classes: MAP with tags removed"
    columns = [f"{key.split('.')[1]}%" for key in keys]
    table = Table(*columns, title=title, title_justify="left")
    if keys:
        table.add_row(*(_number(metrics[key]) for key in keys))
    return table


def _rest(metrics: dict[str, float], group: str, title: str) -> Table:
    keys = [key for key in metrics if key.startswith(f"{group}.")]
    table = Table("measure", "value", title=title, title_justify="left")
    for key in keys:
        name = key.removeprefix(f"{group}.").replace("_", " ").replace(".", ": ")
        table.add_row(name, _number(metrics[key]))
    return table


def _number(value: float) -> str:
    if value > 1 or value < 0:
        return f"{value:g}"
    return f"{value:.3f}".replace("0.", ".", 1)
