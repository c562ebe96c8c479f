"""The page of a storyteller: stories, curves, words and numbers against ones found otherwise."""

from __future__ import annotations

import html as entities
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmray
from jobs import report
from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.report.storyteller.measured import by_strength, curve, styles_of, tables
from mmray.report.storyteller.told import STRENGTHS, typical_words
from mmray.storyteller import evaluate as judged
from mmray.storyteller.predict import Storyteller
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.report.html import Page
from tests.serving.models import write_storyteller
from tests.storyteller.books import BOOKS

ITEMS = 10
SEED = 3


def numbers(style: float, content: float) -> dict[str, float]:
    """What is measured of one style; each number is another one."""
    found = {"shuffled.content": 0.11, "copied8": 0.0321, "distinct3": 0.6543, "loops4": 0.0}
    for i, s in enumerate(("0", "0.25", "0.5", "0.75", "1")):
        found[f"style.{s}"] = style + i / 10
        found[f"content.{s}"] = content - i / 10
        found[f"retrieval.r10.{s}"] = 0.9 - i / 20
        found[f"perplexity.{s}"] = 900.0 - 100 * i
    return found


METRICS = {
    **{f"old.{name}": value for name, value in numbers(0.13, 0.87).items()},
    **{f"memo.{name}": value for name, value in numbers(0.24, 0.76).items()},
    **{"style.1": 0.6, "copied8": 0.03, "judge.accuracy": 0.987, "pictures": 100},
}


@dataclass
class World:
    """A dataset of captioned pictures, and a storyteller with its captioner."""

    data: str
    model: str
    captioner: str
    metrics: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> World:
    root = tmp_path_factory.mktemp("told")
    sizes = {"train": 60, "val": 30, "test": 30}
    data = write_captioned(root / "data", tiny_teacher, grid=False, sizes=sizes)
    captioner = write_captioner(root / "captioner", data)
    model = write_storyteller(root, data, captioner)
    storage.write_json(root / "storyteller.json", METRICS)
    return World(data, model, captioner, str(root / "storyteller.json"))


def html_of(world: World, out: Path, *argv: str, model: str = "") -> str:
    return Path(
        report.main(
            [
                *("storyteller", "--local", "--model", model or world.model, "--data", world.data),
                *("--out", str(out), "--seed", str(SEED), *argv),
            ]
        )
    ).read_text()


@pytest.fixture(scope="module")
def html(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page")
    return html_of(world, out, "--items", str(ITEMS), "--metrics", world.metrics)


def cards_of(html: str) -> list[dict[str, Any]]:
    """Of each picture its captions, what people wrote, and the stories by style and strength."""
    found = []
    for card in html.split('<li class="card wide">')[1:]:
        captions, people = re.findall(r'<ul class="said">(.*?)</ul>', card, re.DOTALL)
        styles = {}
        for part in card.split("<h3>")[1:]:
            told = re.findall(
                r'<span class="strength".*?>(\S+)</span>.*?<p class="story">(.*?)</p>\s*'
                r'<p class="quiet">match (\S+), log-odds ([^\s,]+?)(, cut)?</p>',
                part.split("</section>")[0],
                re.DOTALL,
            )
            styles[part.split("</h3>")[0]] = {
                float(s): (entities.unescape(text), float(match), float(odds), bool(cut))
                for s, text, match, odds, cut in told
            }
        listed = [
            [entities.unescape(x) for x in re.findall(r"<li>(.*?)</li>", part)]
            for part in (captions, people)
        ]
        found.append({"captions": listed[0], "people": listed[1], "styles": styles})
    return found


def test_stories_are_the_storytellers(world: World, html: str) -> None:
    teller = mmray.load(world.model, device="cpu")
    assert isinstance(teller, Storyteller)
    table = Dataset(world.data, "images").read(["features", "captions"], "test")
    known = table["captions"].to_pylist()
    first = [i for i, texts in enumerate(known) if texts][:ITEMS]
    assert first[-1] == ITEMS, "one picture among them has no caption"
    seen = tensor(table["features"])[first].astype(np.float32)
    captions = teller.need_describer().describe(seen)
    cards = cards_of(html)
    assert [card["captions"] for card in cards] == captions
    assert [card["people"] for card in cards] == [known[i] for i in first]
    assert {*cards[0]["styles"]} == {*BOOKS}
    for style in BOOKS:
        for strength in STRENGTHS:
            told = teller.stories_of(captions, style, strength, seed=SEED)
            for card, (story,) in zip(cards, told, strict=True):
                text, match, odds, cut = card["styles"][style][strength]
                assert text == story.story
                assert match == pytest.approx(story.match, abs=0.0051)
                assert odds == pytest.approx(story.log_odds, abs=0.0051)
                assert cut != story.ended


def test_the_page_stands_alone_and_tells_the_curve(html: str) -> None:
    page = Page(html)
    page.check()
    labels = " ".join(page.labels)
    assert "old: 0 is 0.13 and 0.87" in labels
    assert "1 is 0.53 and 0.47; with other pictures 0.11" in labels
    assert "memo: 0 is 0.24 and 0.76" in labels
    assert "old 900 at strength 0, 500 at 1" in labels
    for text in ("copied8", "0.032", "0.654", "60%", "98.7%", "old (", "a captioner"):
        assert text in page.text


def test_curves_of_other_models_stand_beside() -> None:
    measured = {"the model": METRICS, "second": {f"old.{k}": v for k, v in numbers(0, 1).items()}}
    assert styles_of(METRICS) == ["old", "memo"]
    chart = curve(measured)
    points = chart.spec["layer"][0]["data"]["values"]
    assert [row["style"] for row in points][::5] == ["old", "memo", "old, second"]
    assert [row["strength"] for row in points[:5]] == [0, 0.25, 0.5, 0.75, 1]
    order = chart.spec["layer"][0]["encoding"]["order"]
    assert order == {"field": "strength", "type": "quantitative"}
    assert [row["style"] for row in chart.spec["layer"][2]["data"]["values"]] == [
        *("old", "memo", "old, second")
    ]
    rows = tables(measured)[0].rows
    assert len(rows) == 15
    assert rows[4] == ["old", "1", pytest.approx(0.53), pytest.approx(0.47), 0.7, 500]


def test_infinite_perplexity_is_no_point() -> None:
    metrics = METRICS | {"old.perplexity.1": float("inf")}
    retrieval, perplexity = by_strength({"the model": metrics})
    assert len(retrieval.spec["data"]["values"]) == 10
    assert len(perplexity.spec["data"]["values"]) == 9
    json.dumps(perplexity.spec, allow_nan=False)
    assert tables({"the model": metrics})[0].rows[4][-1] is None


def test_typical_words_are_those_that_captions_lack() -> None:
    stories = ["And the dog spake, and spake.", "And a dog.", "Lo, the dog"]
    found = typical_words(stories, ["the dog", "a dog"])
    assert found[0] == ("and", pytest.approx(2 / 3), 0)
    words = [word for word, _, _ in found]
    assert words[1:] == ["lo", "spake", "the"]
    assert found[-1] == ("the", pytest.approx(2 / 3), 0.5)
    assert len(typical_words(stories, ["a dog"], 2)) == 2


def test_another_captioner_says_what_stories_are_about(world: World, tmp_path: Path) -> None:
    other = write_captioner(tmp_path / "other", world.data, "lstm")
    html = html_of(
        *(world, tmp_path, "--items", "2", "--metrics", world.metrics, "--captioner", other)
    )
    teller = Storyteller.load(world.model, "cpu", captioner=other)
    table = Dataset(world.data, "images").read(["features"], "test", 2)
    captions = teller.need_describer().describe(tensor(table["features"]).astype(np.float32))
    assert [card["captions"] for card in cards_of(html)] == captions


def test_it_is_measured_where_no_metrics_are_given(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def evaluate(
        teller: Storyteller, data: Dataset, passages: Dataset, *how: Any
    ) -> judged.Evaluation:
        assert data.uri == world.data
        assert passages.uri == str(Path(world.model).parent / "passages")
        asked.append((teller.styles, how[0], how[1], how[3]))
        return judged.Evaluation(METRICS, {}, "nobody")

    monkeypatch.setattr(judged, "evaluate", evaluate)
    argv = ("--items", "1", "--limit", "12", "--also", f"second={world.model}")
    page = Page(html_of(world, tmp_path, *argv))
    page.check()
    assert asked == [(["memo", "old"], "test", 12, SEED)] * 2
    assert "old, second" in page.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--metrics", "/nowhere.json"], "/nowhere.json"),
        (["--limit", "5"], "--limit 5: expected more than 10"),
        (["--also", "the model=x"], "--also the model=...: the page has that name already"),
        (["--captioner", "/nowhere"], "/nowhere: no such model"),
        (["--items", "0"], "--items 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    world: World, tmp_path: Path, argv: list[str], message: str
) -> None:
    with pytest.raises((UserError, FileNotFoundError), match=re.escape(message)):
        html_of(world, tmp_path, *argv)
    assert not list(tmp_path.iterdir())


def test_other_models_data_and_metrics_are_refused(
    world: World, tmp_path: Path, tiny_teacher: str
) -> None:
    argv = ("--metrics", world.metrics)
    with pytest.raises(UserError, match="is a model of kind 'captioner', expected 'storyteller'"):
        html_of(world, tmp_path, *argv, "--captioner", world.captioner, model=world.captioner)
    storage.write_json(tmp_path / "m.json", {"cider": 1.0})
    with pytest.raises(UserError, match="--metrics: holds no numbers of stories"):
        html_of(world, tmp_path, "--metrics", str(tmp_path / "m.json"))
    data = write_captioned(tmp_path / "data", tiny_teacher, grid=False, sizes={"train": 5})
    with pytest.raises(UserError, match="no picture of the split 'test' has a caption"):
        html_of(world, tmp_path, *argv, "--data", data)
