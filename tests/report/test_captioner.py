"""The page of a captioner: captions, groups, maps and numbers against ones found otherwise."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import report
from mmray import storage
from mmray.captioner import meteor
from mmray.captioner.cider import Cider
from mmray.captioner.evaluate import evaluate
from mmray.captioner.predict import Captioner
from mmray.captioner.scores import scores
from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError
from mmray.pipeline.dataset import PART, Dataset, tensor
from mmray.report import charts
from mmray.report.captioner.attention import SIDE, looked_at, overlay
from mmray.report.captioner.page import ATTENDED, measured_elsewhere
from mmray.report.captioner.words import captions_by, cider_chart, length_chart, use_chart
from mmray.report.captioner.written import MODEL, Written, stored_rows
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.report.html import Page

SIZES = {"train": 60, "test": 40}


@dataclass
class World:
    """A dataset with pictures, two captioners and the metrics of the first."""

    data: str
    model: str
    other: str
    metrics: str

    def __post_init__(self) -> None:
        table = Dataset(self.data, "images").read(["id", "captions", "features", "grid"], "test")
        self.rows = {
            name: {"captions": captions, "features": features, "grid": grid}
            for name, captions, features, grid in zip(
                *(table[k].to_pylist() for k in ("id", "captions")),
                *(tensor(table[k]) for k in ("features", "grid")),
                strict=True,
            )
            if captions
        }

    def captions(self, where: str, beam: int = 5) -> dict[str, str]:
        """What a captioner writes about each picture that has captions."""
        captioner = Captioner.load(where, "cpu")
        column = captioner.stored.column
        seen = np.stack([row[column] for row in self.rows.values()]).astype(np.float32)
        places = seen.reshape(len(seen), -1, seen.shape[-1])
        return {
            name: found[0].caption
            for name, found in zip(self.rows, captioner.captions_of(places, beam), strict=True)
        }

    def cider(self, captions: dict[str, str]) -> dict[str, float]:
        """CIDEr-D of each caption, straight from its definition."""
        references = {k: [_grams(t) for t in row["captions"]] for k, row in self.rows.items()}
        images = Counter(g for texts in references.values() for g in set().union(*texts))
        weight = {g: math.log(len(references) / max(1, n)) for g, n in images.items()}

        def similarity(ours: Counter, theirs: Counter) -> float:
            total = 0.0
            for n in range(1, 5):
                a, b = (
                    {
                        g: c * weight.get(g, math.log(len(references)))
                        for g, c in x.items()
                        if len(g) == n
                    }
                    for x in (ours, theirs)
                )
                norm = math.hypot(*a.values()) * math.hypot(*b.values())
                same = sum(min(w, b[g]) * b[g] for g, w in a.items() if g in b)
                total += same / norm if norm else 0.0
            lengths = [sum(c for g, c in x.items() if len(g) == 2) for x in (ours, theirs)]
            return total / 4 * math.exp(-((lengths[0] - lengths[1]) ** 2) / 72)

        return {
            name: 10 * np.mean([similarity(_grams(text), theirs) for theirs in references[name]])
            for name, text in captions.items()
        }


def _grams(text: str) -> Counter:
    words = tokenise(text).split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def give_thumbnails(data: str) -> None:
    """Replace the thumbnails of a dataset by small pictures that can be decoded."""
    path = Path(data) / PART.format(0)
    table = pq.read_table(path)
    pictures = []
    for i in range(table.num_rows):
        buffer = io.BytesIO()
        Image.new("RGB", (96, 72), (i % 256, 90, 200)).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    place = table.column_names.index("thumbnail")
    table = table.set_column(place, "thumbnail", pa.array(pictures, pa.binary()))
    pq.write_table(table, path, row_group_size=16)


@pytest.fixture(scope="module", autouse=True)
def _no_meteor() -> Iterator[None]:
    """Which takes long, and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "why_not", lambda: "not wanted")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> World:
    root = tmp_path_factory.mktemp("captioned")
    data = write_captioned(root / "data", tiny_teacher, sizes=SIZES)
    give_thumbnails(data)
    model = write_captioner(root / "model", data)
    other = write_captioner(root / "other", data, "lstm")
    metrics = str(root / "captioner.json")
    found = evaluate(Captioner.load(model, "cpu"), Dataset(data, "images"))
    storage.write_json(metrics, found | {"other.cider": 9.0})
    return World(data, model, other, metrics)


def html_of(world: World, out: Path, *argv: str, model: str = "") -> str:
    return Path(
        report.main(
            [
                *("captioner", "--local", "--model", model or world.model, "--data", world.data),
                *("--out", str(out), "--metrics", world.metrics, *argv),
            ]
        )
    ).read_text()


@pytest.fixture(scope="module")
def html(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page")
    return html_of(world, out, "--items", "10", "--also", f"second={world.other}")


@dataclass
class Card:
    """A picture of the gallery."""

    group: str
    name: str
    caption: str
    scores: dict[str, float]
    second: tuple[str, float]
    references: list[str]


def cards_of(html: str) -> list[Card]:
    body = html.split('<section id="gallery">')[1].split("</section>")[0]
    found = []
    for group in body.split('<h3 class="group">')[1:]:
        for card in group.split('<li class="card">')[1:]:
            others = re.findall(r"</strong> (.*?) <span class=\"quiet\">CIDEr (\S+)</span>", card)
            found.append(
                Card(
                    group.split("<")[0],
                    re.findall(r'alt="picture (\w+)"', card)[0],
                    re.findall(r"<blockquote>(.*?)</blockquote>", card)[0],
                    {k: float(v) for k, v in re.findall(r"([A-Z][\w-]+) (\d+\.\d\d)", card)[:3]},
                    (others[0][0], float(others[0][1])) if others else ("", 0.0),
                    re.findall(r"<li>(.*?)</li>", card),
                )
            )
    return found


def test_captions_are_the_models_and_peoples(world: World, html: str) -> None:
    ours, others = world.captions(world.model), world.captions(world.other)
    cider, other_cider = world.cider(ours), world.cider(others)
    cards = cards_of(html)
    assert len(cards) == 10
    for card in cards:
        assert card.caption == ours[card.name]
        assert card.references == world.rows[card.name]["captions"]
        assert card.second[0] == others[card.name]
        assert card.second[1] == pytest.approx(other_cider[card.name], abs=0.0051)
        assert card.scores["CIDEr"] == pytest.approx(cider[card.name], abs=0.0051)
        alone = scores([card.caption], [card.references])
        assert card.scores["BLEU-4"] == pytest.approx(alone["bleu4"], abs=0.0051)
        assert card.scores["ROUGE-L"] == pytest.approx(alone["rouge_l"], abs=0.0051)


def test_groups_are_by_cider(world: World, html: str) -> None:
    cider = world.cider(world.captions(world.model))
    values = sorted(cider.values(), reverse=True)
    assert values[0] > values[18] + 0.1, "else there is nothing to sort"
    groups: dict[str, list[str]] = {}
    for card in cards_of(html):
        groups.setdefault(card.group, []).append(card.name)
    best, median, worst = (groups[k] for k in ("The best", "Around the median", "The worst"))
    assert [len(best), len(median), len(worst)] == [4, 3, 3]
    assert len({*best, *median, *worst}) == 10
    np.testing.assert_allclose([cider[k] for k in best], values[:4])
    np.testing.assert_allclose([cider[k] for k in worst], values[::-1][:3])
    assert len(values) == 36
    np.testing.assert_allclose([cider[k] for k in median], values[16:19])


@pytest.mark.parametrize("items", [1, 2, 3, 5, 100])
def test_few_pictures_are_shown_once(items: int) -> None:
    cider = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    written = Written([*"abcde"], [[]] * 5, [[]] * 5, {}, {MODEL: cider})
    groups = [*written.groups(items).values()]
    shown = [i for rows in groups for i in rows]
    assert len(shown) == len({*shown}) == min(items, 5)
    assert groups[0][0] == 3
    if items >= 3:
        assert groups[2][0] == 1
        assert 0 in groups[1]


def test_words_are_shown_where_it_looked(world: World, html: str) -> None:
    page = Page(html)
    page.check()
    greedy = world.captions(world.model, beam=1)
    body = html.split('<section id="looked">')[1].split("</section>")[0]
    sentences = body.split('<article class="card sentence">')[1:]
    cards = cards_of(html)
    shown = [c.name for c in cards if c.group == "The best"][:ATTENDED]
    shown += [c.name for c in cards if c.group == "Around the median"][:ATTENDED]
    assert len(sentences) == len(shown)
    for name, sentence in zip(shown, sentences, strict=True):
        tiles = re.findall(
            r'<li class="looked"><img data-media="(\w+)" alt="(.*?)".*?>\s*(\w+)', sentence
        )
        words = [word for _, alt, word in tiles if alt.startswith("looked mostly at the ")]
        assert words == greedy[name].split()
        for media, _, _ in tiles:
            data = base64.b64decode(page.media[media].split(",")[1])
            assert Image.open(io.BytesIO(data)).size == (SIDE, SIDE)


def test_a_map_is_light_where_it_looked() -> None:
    looked = np.zeros((7, 7), np.float32)
    looked[1, 5] = 1
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    drawn = np.array(Image.open(io.BytesIO(overlay(grey, looked))).convert("L")).astype(float)
    across = drawn.reshape(SIDE // 6, 6, SIDE // 6, 6).mean((1, 3))
    row, column = np.unravel_index(across.argmax(), across.shape)
    assert row * 7 // 24 == 1
    assert column * 7 // 24 == 5
    assert drawn[-20:, :20].mean() < 90 < drawn.max()


@pytest.mark.parametrize(
    ("cell", "where"),
    [((0, 0), "top left"), ((3, 3), "centre"), ((6, 3), "bottom"), ((2, 6), "top right")],
)
def test_places_have_names(cell: tuple[int, int], where: str) -> None:
    looked = np.zeros((7, 7))
    looked[cell] = 1
    assert looked_at(looked) == where


def test_a_captioner_without_places_says_so(world: World, tmp_path: Path) -> None:
    html = html_of(world, tmp_path, "--items", "3", model=world.other)
    assert "It has no attention that could be shown" in Page(html).text
    assert 'class="looked"' not in html
    assert {c.caption for c in cards_of(html)} <= {*world.captions(world.other).values()}


def test_scores_stand_beside_baselines(world: World, html: str) -> None:
    metrics = storage.read_json(world.metrics)
    table = html.split('<section id="scores">')[1].split("</section>")[0]
    rows = {
        re.findall(r'<th scope="row">(.*?)</th>', row)[0]: re.findall(r"<td.*?>(.*?)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    }
    column = re.findall(r'<th scope="col">(.*?)</th>', table).index("CIDEr") - 1
    assert rows["the model"][column] == f"{metrics['cider']:.3f}"
    named = {name.partition(":")[0]: row for name, row in rows.items()}
    for name in ("greedy", "blind", "nearest", "commonest", "people"):
        assert named[name][column] == f"{metrics[f'{name}.cider']:.3f}"
    texts = world.captions(world.other)
    other = scores([*texts.values()], [row["captions"] for row in world.rows.values()])
    assert named["second"][column] == f"{other['cider']:.3f}"
    labels = " ".join(Page(html).labels)
    assert f"the model {metrics['cider']:.2f}" in labels
    assert "The metrics were measured" not in html


def test_no_picture_is_read_that_is_not_wanted(world: World) -> None:
    found = stored_rows(Dataset(world.data, "images"), "test", {"pic060"}, ["thumbnail", "grid"])
    assert found.keys() == {"pic060"}
    np.testing.assert_array_equal(found["pic060"]["grid"], world.rows["pic060"]["grid"])
    assert stored_rows(Dataset(world.data, "images"), "train", {"pic060"}, ["grid"]) == {}


def hand_made() -> Written:
    references = [["a red dog", "the red dog"], ["a blue car", "the blue car runs fast"]]
    tokens = [[text.split() for text in texts] for texts in references]
    texts = {MODEL: ["a a dog", "a dog"]}
    cider = Cider(tokens).score([text.split() for text in texts[MODEL]])
    return Written(["x", "y"], references, tokens, texts, {MODEL: cider})


def test_charts_tell_the_numbers() -> None:
    written = hand_made()
    captions = captions_by(written)
    lengths = length_chart(captions)
    assert "the model 2.5 on average (2 to 3); people 3.5 on average (3 to 5)" in lengths.alt
    rows = lengths.spec["data"]["values"]
    assert {"words in a caption": 3, "share of captions": 0.75, "of": "people"} in rows
    used = use_chart(captions)
    assert used is not None
    # `a` three times in two captions against twice in four, `dog` twice against twice.
    assert "a (150 against 50), dog (100 against 50)" in used.alt
    assert "the (0 against 50)" in used.alt
    values = written.cider[MODEL]
    chart = cider_chart(written)
    assert f"mean {values.mean():.2f}" in chart.alt
    assert sum(row["pictures"] for row in chart.spec["data"]["values"]) == 2


def test_words_as_people_use_them_are_no_chart() -> None:
    words = [["a", "dog"], ["a", "dog"]]
    assert use_chart({MODEL: words, "people": words}) is None


def test_other_metrics_than_of_these_captions_are_noticed() -> None:
    written = hand_made()
    cider = float(written.cider[MODEL].mean())
    assert measured_elsewhere({"cider": cider, "pictures": 2.0}, written) == ""
    assert "another model" in measured_elsewhere({"cider": cider + 1, "pictures": 2.0}, written)
    assert "on 7 pictures" in measured_elsewhere({"cider": cider, "pictures": 7.0}, written)


def test_a_word_that_vega_takes_for_its_own_is_a_name() -> None:
    rows = [{"word": word, "n": 1.0} for word in ("if", "a")]
    text = json.dumps(charts.bars("t", "a", rows, "word", "n").spec["encoding"]["y"])
    assert '"if"' not in text


def test_it_is_measured_where_no_metrics_are_given(world: World, tmp_path: Path) -> None:
    argv = ["captioner", "--local", "--model", world.model, "--data", world.data, "--limit", "20"]
    page = Page(Path(report.main([*argv, "--out", str(tmp_path), "--items", "3"])).read_text())
    page.check()
    found = evaluate(Captioner.load(world.model, "cpu"), Dataset(world.data, "images"), limit=20)
    assert f"nearest {found['nearest.cider']:.2f}" in " ".join(page.labels)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--metrics", "/nowhere.json"], "/nowhere.json"),
        (["--split", "val"], "no picture of the split 'val' has a caption"),
        (["--also", "people=x"], "--also people=...: the page has that name already"),
        (["--also", "x=/nowhere"], "/nowhere: no such model"),
        (["--items", "0"], "--items 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    world: World, tmp_path: Path, argv: list[str], message: str
) -> None:
    with pytest.raises((UserError, FileNotFoundError), match=re.escape(message)):
        html_of(world, tmp_path, *argv)
    assert not list(tmp_path.iterdir())


def test_other_models_and_metrics_are_refused(world: World, tmp_path: Path) -> None:
    storage.write_json(tmp_path / "model/config.json", {"kind": "joint"})
    with pytest.raises(UserError, match="is a model of kind 'joint', expected 'captioner'"):
        html_of(world, tmp_path, model=str(tmp_path / "model"))
    for wrong in ({"kjv.style.1": 0.5}, [1, 2]):
        storage.write_json(tmp_path / "m.json", wrong)
        with pytest.raises(UserError, match="--metrics: holds no scores of captions"):
            html_of(world, tmp_path, "--metrics", str(tmp_path / "m.json"))
