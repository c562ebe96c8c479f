"""The charts of the pages, as Altair makes them for Vega-Lite."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from mmray.report.page import Chart

HEIGHT = 260
Row = Mapping[str, Any]


def lines(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    by: str = "",
    *,
    points: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
    wide: bool = False,
) -> Chart:
    """A line for each value of `by`; the names of columns are the axes' titles."""
    base = _chart(rows).mark_line(point={"size": 40} if points else False, clip=True)
    chart = base.encode(
        x=alt.X(
            _field(x),
            type="quantitative",
            title=x,
            scale=alt.Scale(type="log") if log_x else alt.Scale(nice=False),
        ),
        y=alt.Y(
            _field(y),
            type="quantitative",
            title=y,
            scale=alt.Scale(type="log") if log_y else alt.Scale(zero=zero),
        ),
        order=alt.Order(_field(x), type="quantitative"),
        tooltip=_tips(rows),
        **_colour(by, rows),
    )
    return _done(title, alt_text, chart, wide)


def path(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    by: str,
    order: str,
    levels: Sequence[Row] = (),
    *,
    wide: bool = False,
) -> Chart:
    """For each value of `by` a line through its points by `order`, which is written beside them.

    Args:
        title: of the chart.
        alt_text: what is to be seen.
        rows: `x`, `y`, `by`, `order`, and for tooltips anything.
        x: title of the axis.
        y: title of the axis.
        by: what colours stand for.
        order: of the points.
        levels: `y` and `by` of dashed lines across.
        wide: as wide as the page.
    """
    colours = _colour(by, rows)
    up = alt.Y(_field(y), type="quantitative", title=y, scale=alt.Scale(zero=False))
    base = _chart(rows).encode(
        x=alt.X(_field(x), type="quantitative", title=x),
        y=up,
        order=alt.Order(_field(order), type="quantitative"),
        **colours,
    )
    layers: list[Any] = [
        base.mark_line(point={"size": 50}).encode(tooltip=_tips(rows)),
        base.mark_text(align="left", dx=7, dy=-7, fontSize=11).encode(
            text=alt.Text(_field(order), type="quantitative", format="~g")
        ),
    ]
    if levels:
        dashed = _chart(levels).mark_rule(strokeDash=[3, 3])
        layers.append(dashed.encode(y=up, tooltip=_tips(levels), **colours))
    return _done(title, alt_text, alt.layer(*layers), wide, 340)


def bars(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    name: str,
    value: str,
    by: str = "",
    *,
    colour: str = "",
    wide: bool = False,
    height: int | None = None,
) -> Chart:
    """Horizontal bars in the order of the rows; with `by` a bar for each value of it.

    With `colour` each name still has one bar, coloured by this column.
    """
    names = list(dict.fromkeys(str(row[name]) for row in rows))
    groups = len({row[by] for row in rows}) if by else 1
    encoding: dict[str, Any] = _colour(by or colour, rows)
    if by:
        encoding["yOffset"] = alt.YOffset(_field(by), type="nominal", sort=None)
    chart = (
        _chart(rows)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X(_field(value), type="quantitative", title=value),
            y=alt.Y(
                _field(name),
                type="nominal",
                title=name,
                sort=_order(names),
                axis=alt.Axis(labelLimit=190),
            ),
            tooltip=_tips(rows),
            **encoding,
        )
    )
    return _done(title, alt_text, chart, wide, height or max(90, len(names) * (12 + 10 * groups)))


def histogram(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    value: str,
    by: str = "",
    *,
    step: float | None = None,
    weight: str = "",
) -> Chart:
    """How often values fall into bins; with `by` a translucent layer for each.

    With `weight` a row counts as much as this column says, which is the axis' title.
    """
    bins = alt.Bin(step=step) if step else alt.Bin(maxbins=30)
    how_often = alt.Y("count()", title="count", stack=None)
    if weight:
        how_often = alt.Y(
            _field(weight), aggregate="sum", type="quantitative", title=weight, stack=None
        )
    chart = (
        _chart(rows)
        .mark_bar(opacity=0.65 if by else 1, binSpacing=0.5)
        .encode(
            x=alt.X(_field(value), type="quantitative", bin=bins, title=value),
            y=how_often,
            tooltip=_tips(rows) if weight else ["count()"],
            **_colour(by, rows),
        )
    )
    return _done(title, alt_text, chart)


def heat(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    x: str,
    y: str,
    value: str,
    *,
    wide: bool = False,
) -> Chart:
    """A square for each pair, for shares from 0 to 1; in the order in which names come first."""
    xs, ys = (list(dict.fromkeys(str(row[k]) for row in rows)) for k in (x, y))
    chart = (
        _chart(rows)
        .mark_rect()
        .encode(
            x=alt.X(
                _field(x), type="nominal", sort=_order(xs), title=x, axis=alt.Axis(labelAngle=-45)
            ),
            y=alt.Y(_field(y), type="nominal", sort=_order(ys), title=y),
            color=alt.Color(
                _field(value),
                type="quantitative",
                title=value,
                scale=alt.Scale(scheme="viridis", domain=[0, 1]),
            ),
            tooltip=_tips(rows),
        )
    )
    return _done(title, alt_text, chart, wide, max(140, 20 * len(ys)))


def small(
    title: str, alt_text: str, rows: Sequence[Row], facet: str, x: str, y: str, *, columns: int = 4
) -> Chart:
    """The same small line chart for each value of `facet`, in the order of the rows."""
    names = list(dict.fromkeys(str(row[facet]) for row in rows))
    chart = (
        _chart(rows)
        .mark_line(strokeWidth=1.2)
        .encode(
            x=alt.X(
                _field(x), type="quantitative", title=x, axis=alt.Axis(tickCount=3, grid=False)
            ),
            y=alt.Y(
                _field(y), type="quantitative", title=y, axis=alt.Axis(tickCount=3, grid=False)
            ),
            order=alt.Order(_field(x), type="quantitative"),
        )
        .properties(width=110, height=70)
        .facet(
            facet=alt.Facet(_field(facet), type="nominal", title=None, sort=names), columns=columns
        )
    )
    return Chart(title, alt_text, _plain(chart))


def atlas(
    title: str,
    alt_text: str,
    rows: Sequence[Row],
    by: str,
    *,
    size: int = 34,
    labels: str = "",
    wide: bool = False,
    height: int = 460,
) -> Chart:
    """A map to zoom and pan: each row at `x`, `y`, as its `picture` where it has one.

    Args:
        title: of the chart.
        alt_text: what is to be seen.
        rows: `x`, `y`, and for tooltips anything; `picture` and `sound` name media of the page.
        by: what colours stand for.
        size: of the pictures in pixels.
        labels: column to write instead of points.
        wide: as wide as the page.
        height: in pixels.
    """
    shown = [key for key in rows[0] if key not in ("x", "y", "picture", "sound")] if rows else []
    # So that what is at the edge is not cut off: words are wider than high.
    across, along = (45, 10) if labels else (size, size)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(nice=False, zero=False, padding=across))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(nice=False, zero=False, padding=along))
    tips = [alt.Tooltip(_field(key), title=key, type="nominal") for key in shown]
    if any(row.get("picture") for row in rows):
        tips.append(alt.Tooltip("image", type="nominal"))
    zoom = alt.selection_interval(bind="scales", name="zoom")
    base = _chart(rows).encode(x=x, y=y, tooltip=tips)
    colours = _colour(by, rows)
    if labels:
        chart = base.mark_text(fontSize=11).encode(
            text=alt.Text(_field(labels), type="nominal"), **colours
        )
        return _done(title, alt_text, chart.add_params(zoom), wide, height)
    points = base.mark_circle(
        size=(size + 12) ** 2 if _pictured(rows) else 60, opacity=0.85
    ).encode(**colours)
    if not _pictured(rows):
        return _done(title, alt_text, points.add_params(zoom), wide, height)
    pictures = base.mark_image(width=size, height=size).encode(url=alt.Url("image", type="nominal"))
    return _done(title, alt_text, (points + pictures).add_params(zoom), wide, height)


def _pictured(rows: Sequence[Row]) -> bool:
    return any(row.get("picture") for row in rows)


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def _field(name: str) -> str:
    # Dots, brackets and quotes in names would be paths into the rows.
    return re.sub(r"([\\.\[\]'\"])", r"\\\1", name)


def _colour(by: str, rows: Sequence[Row]) -> dict[str, Any]:
    if not by:
        return {}
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    return {"color": alt.Color(_field(by), type="nominal", sort=_order(names), title=by or None)}


def _order(names: list[str]) -> list[str] | None:
    """How to sort names that come in the order of the rows; None is that order, too."""
    # Vega 6 takes the name "if" in a list for one of its functions, and draws nothing.
    return None if "if" in names else names


def _tips(rows: Sequence[Row]) -> list[alt.Tooltip]:
    first = rows[0] if rows else {}
    return [
        alt.Tooltip(
            _field(key),
            title=key,
            type="quantitative" if isinstance(value, int | float) else "nominal",
            format=".3~f" if isinstance(value, float) else alt.Undefined,
        )
        for key, value in first.items()
    ]


def _done(title: str, alt_text: str, chart: Any, wide: bool = False, height: int = HEIGHT) -> Chart:
    return Chart(title, alt_text, _plain(chart.properties(width="container", height=height)), wide)


def _plain(chart: Any) -> dict[str, Any]:
    """The specification, without the address of its schema, which nothing may ask for."""
    spec: dict[str, Any] = _finite(chart.to_dict())
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    if "facet" in spec:
        del spec["autosize"]
    spec.pop("config", None)
    return spec


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
