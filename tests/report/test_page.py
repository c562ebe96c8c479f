"""What all pages share: one file, no other host, names for media, limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmray.errors import UserError
from mmray.report import charts, page
from mmray.report.page import Grid, Media

ROWS = [{"step": i, "loss": 1.0 / (i + 1), "of": name} for name in ("a", "b") for i in range(3)]


def test_media_are_in_the_file_once() -> None:
    media = Media()
    first, again = media.sound(b"sound"), media.sound(b"sound")
    assert first == again
    assert list(media.items.values()) == ["data:audio/mpeg;base64,c291bmQ="]
    assert media.picture(None) is None


def test_media_end_where_the_budget_does() -> None:
    media = Media(budget=10)
    assert media.sound(b"12345678")
    assert media.sound(b"123") is None
    assert media.sound(b"12345678"), "what is there already costs nothing"
    assert media.has_room(2)
    assert not media.has_room(3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\x89PNG..", "image/png"), (b"RIFF....WEBP", "image/webp"), (b"\xff\xd8", "image/jpeg")],
)
def test_pictures_have_their_type(data: bytes, kind: str) -> None:
    media = Media()
    media.picture(data)
    assert next(iter(media.items.values())).startswith(f"data:{kind};")


def test_a_page_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"would have 2\.0 MB, at most 1 are wanted"):
        page.write("x" * 2_000_000, str(tmp_path / "page.html"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("-inf"), "–"),
        (0.12345, "0.123"),
        (1234, "1,234"),
        (2500.0, "2,500"),
        (1.0, "1.000"),
        ("a", "a"),
    ],
)
def test_numbers_are_readable(value: object, text: str) -> None:
    assert page.number(value) == text


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("runs/train_joint/model", "train_joint"),
        ("models:/mmray-joint/3", "3"),
        ("official:/a/sound8.npy", "sound8.npy"),
        ("model", "model"),
    ],
)
def test_models_have_names(where: str, name: str) -> None:
    assert page.page_name(where) == name


def test_models_stand_side_by_side() -> None:
    grid = page.metric_grid("t", {"x": {"a": 1.0}, "y": {"a": 2.0, "b": 3.0}}, {"a": "A", "b": "B"})
    assert grid.columns == ["", "x", "y"]
    assert grid.rows == [["A", 1.0, 2.0], ["B", None, 3.0]]


def test_a_chart_asks_no_host_and_tells_its_numbers() -> None:
    chart = charts.lines("Loss", "From 1 to .33.", ROWS, "step", "loss", "of")
    text = json.dumps(chart.spec)
    assert "http" not in text
    assert chart.spec["encoding"]["x"]["title"] == "step"
    assert chart.spec["encoding"]["y"]["title"] == "loss"
    assert chart.spec["encoding"]["color"]["sort"] == ["a", "b"]


def test_charts_have_no_numbers_that_json_lacks() -> None:
    spec = charts.bars("t", "a", [{"n": "x", "v": float("nan")}], "n", "v").spec
    assert json.loads(json.dumps(spec, allow_nan=False))["data"]["values"] == [
        {"n": "x", "v": None}
    ]


def test_names_with_dots_and_brackets_are_fields() -> None:
    rows = [{"a.b": 1.0, "c[d]": "x"}]
    spec = charts.bars("t", "a", rows, "c[d]", "a.b").spec
    assert spec["encoding"]["x"]["field"] == r"a\.b"
    assert spec["encoding"]["y"]["field"] == r"c\[d\]"


def test_hostile_names_stay_text() -> None:
    bad = "</script><script>alert(1)</script>"
    grid = Grid("g", ["a"], [[bad]])
    html = page.render(
        "soundnet.html",
        Media(),
        **empty_soundnet()
        | {
            "title": bad,
            "agreement": [grid],
            "filters": [charts.bars(bad, bad, [{"n": bad, "v": 1.0}], "n", "v")],
        },
    )
    assert "<script>alert" not in html
    assert html.count("</script>") == html.count("<script")


def empty_soundnet() -> dict:
    lists = [
        "figures",
        "curves",
        "detector_charts",
        "unit_tables",
        "maps",
        "agreement",
        "confusion",
        "filters",
    ]
    return {
        "title": "t",
        "kind": "k",
        "lead": "l",
        "layer": "conv7",
        "labels_from": "nobody",
        "note": "",
        "units": {},
        "facts": {},
        **{name: [] for name in lists},
    }


def test_a_page_names_no_other_host() -> None:
    html = page.render("soundnet.html", Media(), **empty_soundnet())
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]+", html.split("<script>")[0])
    assert "prefers-reduced-motion" in html
    assert "@media print" in html
