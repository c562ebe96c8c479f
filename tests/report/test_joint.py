"""The page of a joint model: what it shows against what is found otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jobs import report
from mmray import storage
from mmray.errors import UserError
from mmray.joint.vocabulary import normalised
from mmray.models import load_kind
from mmray.report.joint.measured import MODEL
from mmray.report.joint.pictures import TAGS
from mmray.report.page import MAX_BYTES
from tests.joint.worlds import save_small, small_task, train_small, write_rows, write_world
from tests.report.html import Page
from tests.report.joint_world import World
from tests.soundnet.clips import write_net

ITEMS = 12


@dataclass
class Node:
    """An element with what is in it."""

    tag: str
    attrs: dict[str, str]
    parts: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, kind: str = "") -> list[Node]:
        """Elements below it by tag and class, in order."""
        return [
            node
            for node in self.below()
            if node.tag == tag and (not kind or kind in node.attrs.get("class", "").split())
        ]

    def below(self) -> Iterator[Node]:
        for part in self.parts:
            if isinstance(part, Node):
                yield part
                yield from part.below()

    @property
    def text(self) -> str:
        texts = [part if isinstance(part, str) else part.text for part in self.parts]
        return re.sub(r"\s+", " ", "".join(texts)).strip()

    def has(self, kind: str) -> bool:
        return kind in self.attrs.get("class", "").split()


class Tree(HTMLParser):
    """A page as nodes, its sections by their ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._open = [Node("", {})]
        self.feed(html)
        self.sections = {
            node.attrs["id"]: node for node in self._open[0].below() if node.tag == "section"
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].parts.append(node)
        if tag not in ("img", "input", "meta", "link"):
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag, "elements are closed in their order"

    def handle_data(self, data: str) -> None:
        self._open[-1].parts.append(data)


def write_page(world: World, out: Path, *argv: str) -> str:
    base = ["joint", "--local", "--model", world.model, "--data", world.data, "--out", str(out)]
    base += [] if "--metrics" in argv else ["--metrics", world.metrics]
    return Path(report.main([*base, *argv])).read_text()


@pytest.fixture(scope="module")
def html(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    storage_of_other = {"tags.joint.map_tags": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmray.joint.evaluate.evaluate", lambda *_, **__: storage_of_other)
        return write_page(
            world,
            tmp_path_factory.mktemp("page"),
            *("--items", str(ITEMS), "--also", f"second={world.other}"),
            *("--analogies", world.analogies),
        )


@pytest.fixture(scope="module")
def tree(html: str) -> Tree:
    return Tree(html)


def shown_id(node: Node) -> str:
    return re.findall(r"picture (\w+)", node.all("img")[0].attrs["alt"])[0]


def grid(section: Node, title: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    (table,) = [f for f in section.all("figure", "table") if title in f.text]
    return [[cell.text for cell in [*row.all("th"), *row.all("td")]] for row in table.all("tr")]


def test_the_page_stands_alone(html: str, tree: Tree) -> None:
    page = Page(html)
    page.check()
    assert len(html.encode()) < MAX_BYTES
    wanted = {"tags", "nearest", "arithmetic", "maps", "analogies", "precision", "missing"}
    assert tree.sections.keys() >= {*wanted, "useless"}
    links = {a.removeprefix("#") for a in page.addresses if a.startswith("#")}
    assert links == tree.sections.keys()
    assert "60 of the split test" in page.text
    assert "360 of all splits are searched" in page.text


def test_tags_are_those_of_people_and_models(world: World, tree: Tree) -> None:
    cards = tree.sections["tags"].all("li", "card")
    ids = [shown_id(card) for card in cards]
    asked = [name for name in world.ids if world.rows[name]["split"] == "test"]
    tagged = [name for name in asked if world.rows[name]["tags"]]
    bare = [name for name in asked if not world.rows[name]["tags"]]
    assert ids == tagged[:9] + bare[:3], "the first with tags, and the first without"
    taggers = [world.tagger, load_kind(world.other, "joint", "cpu")]
    for name, card in zip(ids, cards, strict=True):
        people, *models = card.all("div")[2:]
        written = normalised(world.rows[name]["tags"] or [])
        assert [chip.text for chip in people.all("span", "chip")] == written
        unknown = [chip.text for chip in people.all("span", "quiet") if chip.has("chip")]
        assert unknown == [tag for tag in written if tag == "unicorn"]
        assert ("nobody gave a tag" in people.text) == (not written)
        for tagger, said in zip(taggers, models, strict=True):
            (found,) = tagger.tags_of_features(world.features[[world.place(name)]], TAGS)
            chips = said.all("span", "chip")
            assert [chip.text for chip in chips] == [f"{tag} {p:.2f}" for tag, p in found]
            right = [tag in written for tag, _ in found]
            assert [chip.has("right") for chip in chips] == right
        assert [p.text for p in card.all("p", "quiet")][1:3] == [MODEL, "second"]


def test_nearest_pictures_are_those_of_brute_force(world: World, tree: Tree) -> None:
    lines = tree.sections["nearest"].all("li", "line")
    assert len(lines) == 10
    centre = world.tagger.scorer.centre
    for line in lines:
        query, *found = line.all("li", "found")
        name = shown_id(query)
        assert world.rows[name]["split"] == "test"
        around = world.vectors[world.place(name)] - centre
        assert [shown_id(node) for node in found] == world.nearest(around, name)
        for node in (query, *found):
            tags = normalised(world.rows[shown_id(node)]["tags"] or [])
            assert node.all("p")[0].text.startswith(", ".join(tags[:5]) or "no tags")


def test_arithmetic_finds_what_the_tagger_finds(world: World, tree: Tree) -> None:
    lines = tree.sections["arithmetic"].all("li", "line")
    assert len(lines) == 10
    kinds = []
    for line in lines:
        query, *found = line.all("li", "found")
        name = shown_id(query)
        minus, plus = (chip.text for chip in line.all("span", "chip"))
        mine = world.vectors[world.place(name)][None]
        vector = world.tagger.combine(mine, [plus], [minus])
        assert [shown_id(node) for node in found] == world.nearest(vector, name)
        labels = world.rows[name]["labels"]
        (old,) = [label for label in labels if label.endswith(f":{minus}")]
        tags = normalised(world.rows[name]["tags"])
        assert minus in tags
        kinds.append(old.split(":")[0])
        kept = {x for x in labels if x != old and x.split(":")[1] in tags}
        for node in found:
            has = set(world.rows[shown_id(node)]["labels"])
            right = has >= {f"{kinds[-1]}:{plus}", *kept} and old not in has
            assert node.has("right") == right
            assert node.all("img")[0].attrs["alt"].endswith("a right one") == right
    assert sorted(kinds) == ["colour"] * 5 + ["object"] * 5, "all kinds alike"
    assert len({shown_id(line) for line in lines}) == 10


def test_a_page_without_labels(world: World, unlabelled: str, tmp_path: Path) -> None:
    storage.write_json(tmp_path / "m.json", {"tags.joint.map_tags": 0.2})
    argv = "--data", unlabelled, "--limit", "8", "--metrics", str(tmp_path / "m.json")
    html = write_page(world, tmp_path, *argv)
    tree = Tree(html)
    assert "analogies" not in tree.sections
    assert "missing" not in tree.sections
    assert "coloured by tag" in html
    assert "known to be true" not in html
    assert "Marked are pictures that people gave the new tag" in tree.sections["arithmetic"].text
    assert "8 of the split test" in html
    assert len(tree.sections["tags"].all("li", "card")) == 8


def test_precision_is_that_of_scikit_learn(world: World, tree: Tree) -> None:
    head, *rows = grid(tree.sections["precision"], "Average precision of every tag")
    assert head == ["tag", MODEL, "second", "chance", "test", "training"]
    test = [i for i, name in enumerate(world.ids) if world.rows[name]["split"] == "test"]
    scores = world.tagger.scorer.probabilities(world.features[test])
    written = [normalised(world.rows[world.ids[i]]["tags"] or []) for i in test]
    counts = {t: sum(t in tags for tags in written) for t in world.tagger.vocabulary.tags}
    assert {row[0] for row in rows} == {tag for tag, count in counts.items() if count >= 3}
    for tag, mine, _, chance, count, training in rows:
        j = world.tagger.vocabulary.number(tag)
        truth = [tag in tags for tags in written]
        assert float(mine) == pytest.approx(average_precision_score(truth, scores[:, j]), abs=6e-4)
        assert float(chance) == pytest.approx(np.mean(truth), abs=6e-4)
        assert int(count) == counts[tag]
        assert int(training) == world.tagger.vocabulary.counts[j]
    assert sorted(rows, key=lambda row: -float(row[1])) == rows


def test_analogies_of_a_file(world: World, tree: Tree) -> None:
    section = tree.sections["analogies"]
    head, *rows = grid(section, "Analogies between tags")
    assert head == ["question", "answer", "expected", "right", "cosine", "next"]
    assert [row[0] for row in rows] == ["red : rojo = blue : ?", "dog : perro = car : ?"]
    for row, (a, b, c, d) in zip(
        rows, [("red", "rojo", "blue", "azul"), ("dog", "perro", "car", "coche")], strict=True
    ):
        names = [tag for tag, _ in world.tagger.analogy(a, b, c, 5)]
        assert row[1:3] == [names[0], d]
        assert (row[3] == "yes") == (names[0] == d)
        assert row[5] == ", ".join(names[1:])
    assert "1 more have a tag that the model does not know" in section.text


def test_metrics_of_other_pictures_are_noted(tree: Tree) -> None:
    assert "By the metrics the mean average precision" in tree.sections["precision"].text


def test_it_is_measured_where_no_metrics_are_given(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "QUICK_BASELINES", ("prior",))
    argv = ["--model", world.model, "--data", world.data, "--out", str(tmp_path)]
    html = Path(report.main(["joint", "--local", *argv, "--items", "2"])).read_text()
    tree = Tree(html)
    assert "By the metrics" not in tree.sections["precision"].text, "they are of the same pictures"
    head, *rows = grid(tree.sections["precision"], "Tags from the picture alone, beside baselines")
    assert [row[0] for row in rows] == [MODEL, "prior"]
    assert head[1] == "MAP tags"
    assert "missing" in tree.sections


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--also", "x"], "--also x: expected NAME=MODEL"),
        (["--also", "kNN=/nowhere"], "--also kNN=...: the page has that name already"),
        (["--also", "x=/nowhere"], "/nowhere: no such model"),
        (["--metrics", "/nowhere.json"], r"/nowhere\.json"),
        (["--analogies", "/nowhere.txt"], r"/nowhere\.txt"),
        (["--data", "/nowhere"], "/nowhere: is not a finished dataset"),
        (["--items", "0"], "--items 0: expected 1 or more"),
    ],
)
def test_wrong_flags_are_one_line(
    world: World, tmp_path: Path, argv: list[str], message: str
) -> None:
    with pytest.raises((UserError, FileNotFoundError), match=message):
        write_page(world, tmp_path, *argv)


@pytest.mark.parametrize("metrics", [{"cider": 1.0}, [1], {"tags.joint.map_tags": "x"}])
def test_metrics_of_another_kind_are_refused(world: World, tmp_path: Path, metrics: Any) -> None:
    (tmp_path / "m.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="--metrics: holds nothing that is measured of a joint"):
        write_page(world, tmp_path, "--metrics", str(tmp_path / "m.json"))


def test_models_of_other_tags_are_refused(
    world: World, tiny_teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"tags": [("cat", "sun")[i % 2]], "features": f} for i, f in enumerate(world.features[:40])
    ]
    train_small(write_rows(tmp_path / "data", rows, tiny_teacher), tmp_path / "out", steps=2)
    other = save_small(small_task(str(tmp_path / "data")), tmp_path / "out")
    monkeypatch.setattr(report, "measure", lambda *_: pytest.fail("it is told at once"))
    with pytest.raises(UserError, match="--also cats: knows other tags than --model"):
        write_page(world, tmp_path, "--also", f"cats={other}")


def test_another_kind_of_model_is_refused(world: World, tmp_path: Path) -> None:
    net = write_net(tmp_path / "net")
    with pytest.raises(UserError, match="is a model of kind 'soundnet', expected 'joint'"):
        report.main(["joint", "--local", "--model", net, "--data", world.data])
    with pytest.raises(UserError, match="is a model of kind 'soundnet', expected 'joint'"):
        write_page(world, tmp_path, "--also", f"net={net}")


def test_a_split_without_pictures(world: World, tiny_teacher: str, tmp_path: Path) -> None:
    data = write_world(tmp_path / "data", tiny_teacher, {"train": 20})
    with pytest.raises(UserError, match="no pictures of the split 'test' to show"):
        write_page(world, tmp_path, "--data", data)
