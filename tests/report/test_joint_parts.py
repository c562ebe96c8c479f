"""Parts of the page of a joint model: what is read, drawn by lot, counted, and told of metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmray.joint.finish import VISUAL_AUC
from mmray.joint.predict import Tagger
from mmray.models import load_kind
from mmray.pipeline.dataset import Dataset
from mmray.report import maps
from mmray.report.joint import gallery as joint_gallery
from mmray.report.joint.gallery import Gallery, read_gallery
from mmray.report.joint.measured import MODEL, by_method, measured_grids, missing_chart
from mmray.report.joint.page import measured_elsewhere
from mmray.report.joint.pictures import alike_chart, swaps
from mmray.report.joint.tags import analogies_of, judgement, precision_of, visual_chart, visual_grid
from tests.report.joint_world import METRICS

PAIRS = [("red", "rojo"), ("green", "verde"), ("blue", "azul"), ("dog", "perro")]


@pytest.fixture(scope="module")
def tagger(joint_model: str) -> Tagger:
    return load_kind(joint_model, "joint", "cpu")


@pytest.fixture(scope="module")
def gallery(tagger: Tagger, picture_world: str) -> Gallery:
    return read_gallery(tagger, Dataset(picture_world, "images"), "test")


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return list(spec["data"]["values"])


def test_few_pictures_are_read(
    tagger: Tagger, picture_world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_gallery, "MOST_ASKED", 7)
    monkeypatch.setattr(joint_gallery, "MOST_OTHERS", 30)
    data = Dataset(picture_world, "images")
    gallery = read_gallery(tagger, data, "test")
    assert (gallery.num_asked, len(gallery)) == (7, 37)
    ids = [data.read(["id"], split, limit)["id"] for split, limit in (("test", 7), ("train", 30))]
    assert gallery.pictures.ids == [name for part in ids for name in part.to_pylist()]
    assert len(read_gallery(tagger, data, "test", limit=3).asked) == 3


def test_names_have_as_many_colours_as_there_are(gallery: Gallery) -> None:
    kind, names = gallery.named(range(60))
    assert kind == "colour"
    assert names == [found[0].removeprefix("colour:") for found in gallery.asked.labels]


def without_labels(gallery: Gallery) -> Gallery:
    return replace(
        gallery, pictures=replace(gallery.pictures, labels=[[] for _ in gallery.written])
    )


def test_without_labels_tags_have_colours(gallery: Gallery) -> None:
    kind, names = without_labels(gallery).named(range(60))
    assert kind == "tag"
    for name, tags in zip(names, gallery.written, strict=False):
        assert name in tags if name not in ("other", "none") else True
        assert (name == "none") == (not set(tags) - {"nikon", "unicorn"})
    assert "nikon" not in names


def test_swaps_without_labels_are_of_tags(tagger: Tagger, gallery: Gallery) -> None:
    gallery = without_labels(gallery)
    found, by_labels = swaps(gallery, seed=3)
    assert not by_labels
    assert len({swap.row for swap in found}) == len(found) == 10
    visual = dict(zip(tagger.vocabulary.tags, tagger.scorer.visual, strict=True))
    for swap in found:
        assert swap.minus in gallery.written[swap.row]
        assert swap.plus not in gallery.written[swap.row]
        assert min(visual[swap.minus], visual[swap.plus]) >= VISUAL_AUC
        right = [swap.plus in tags and swap.minus not in tags for tags in gallery.written]
        assert swap.right.tolist() == right
        assert any(right)
    again, _ = swaps(gallery, seed=3)
    assert [(s.row, s.minus, s.plus) for s in again] == [(s.row, s.minus, s.plus) for s in found]


def test_how_alike_the_nearest_are(gallery: Gallery) -> None:
    chart = alike_chart(gallery)
    assert chart is not None
    values = {(r["what"], r["of"]): r["share that has the same"] for r in rows_of(chart.spec)}
    labels = [set(found) for found in gallery.pictures.labels]
    mine = [{x for x in found if x.startswith("colour:")} for found in labels]
    near = [bool(mine[i] & mine[j]) for i in range(60) for j in gallery.near[i]]
    pairs = [bool(mine[i] & mine[j]) for i in range(60) for j in range(360) if i != j]
    assert values["colour", "nearest pictures"] == pytest.approx(np.mean(near))
    assert values["colour", "any pictures"] == pytest.approx(np.mean(pairs))
    assert {what for what, _ in values} == {"colour", "object", "a tag that pictures tell"}


def test_answers_are_counted(tagger: Tagger) -> None:
    # Any tag is expected, so that answers are right, right later, and wrong.
    others = [tag for tag in tagger.vocabulary.tags if tag not in ("red", "rojo", "blue")]
    questions = [(a, b, c, d) for a, b in PAIRS for c, d in PAIRS if a != c]
    questions += [("red", "rojo", "blue", tag) for tag in others]
    found = analogies_of(tagger, questions)
    ranks = [[tag for tag, _ in tagger.analogy(a, b, c, 5)] for a, b, c, _ in questions]
    first = np.mean([d == names[0] for (*_, d), names in zip(questions, ranks, strict=True)])
    five = np.mean([d in names for (*_, d), names in zip(questions, ranks, strict=True)])
    assert (found.asked, found.first, found.five) == (len(questions), first, five)
    assert found.first < found.five < 1
    assert found.grid is not None
    verdicts = {row[2]: row[3] for row in found.grid.rows[-len(others) :]}
    placed = ["yes", *(f"no, it is number {i}" for i in range(2, 6))]
    assert [verdicts[tag] for tag in ranks[-1]] == placed
    assert {verdicts[tag] for tag in others if tag not in ranks[-1]} == {"no"}
    assert analogies_of(tagger, [("red", "rojo", "pink", "rosa")]).grid is None


def test_useless_tags_beside_the_truth(tagger: Tagger) -> None:
    visual = dict(zip(tagger.vocabulary.tags, tagger.scorer.visual, strict=True))
    assert visual["nikon"] < VISUAL_AUC < visual["red"]
    left_out = {tag for tag, value in visual.items() if value < VISUAL_AUC}
    text = judgement(tagger, ["nikon", "not a tag of it"])
    assert text.startswith(f"{len(left_out)} of {len(visual)} tags are judged useless. 1 of the 1")
    assert "missed" not in text
    assert "(missed: red)" in judgement(tagger, ["red", "nikon"])
    chart = visual_chart(tagger, ["nikon"])
    assert chart is not None
    assert chart.spec["encoding"]["color"]["field"] == "in truth"
    assert "yOffset" not in chart.spec["encoding"], "each tag has one bar"
    rows = {row["tag"]: row for row in rows_of(chart.spec)}
    assert rows["nikon"]["in truth"] == "cannot be seen"
    assert rows["red"]["in truth"] == "can be seen"
    assert {tag for tag, row in rows.items() if row["judged"] == "left out"} == left_out


def test_tags_of_too_few_pictures_are_not_judged(tagger: Tagger) -> None:
    scorer = replace(tagger.scorer, visual=tagger.scorer.visual.copy())
    scorer.visual[tagger.vocabulary.number("nikon")] = VISUAL_AUC
    other = Tagger(scorer, "cpu")
    counts = tagger.vocabulary.counts
    *rows, last = visual_grid(other).rows
    assert last == ["nikon", None, "too few to say", counts[tagger.vocabulary.number("nikon")]]
    values = [row[1] for row in rows]
    assert values == sorted(values)
    chart = visual_chart(other)
    assert chart is not None
    assert "nikon" not in {row["tag"] for row in rows_of(chart.spec)}


def test_metrics_by_method() -> None:
    found = by_method({MODEL: METRICS, "second": {**METRICS, "tags.joint.map_tags": 0.5}}, "tags")
    assert list(found) == [MODEL, "second", "prior", "MLP + kNN", "dual encoder"]
    assert found["second"]["map_tags"] == 0.5
    assert found["prior"] == {"map_tags": 0.05}
    completed = by_method({MODEL: METRICS}, "completed")
    assert completed == {"the model, both": {"map_tags": 0.31}}
    titles = [g.title for g in measured_grids({MODEL: METRICS})]
    assert len(titles) == 3, "classes were not measured"
    (rest,) = [g for g in measured_grids({MODEL: METRICS}) if g.title.startswith("Search")]
    assert ["their median place", 7.5] in rest.rows
    assert ["how many such questions", 40] in rest.rows


def test_the_curve_of_missing_tags() -> None:
    chart = missing_chart({MODEL: METRICS, "second": {**METRICS, "missing.0": 0.5}})
    assert chart is not None
    values = {
        (row["of"], row["tags taken away (%)"]): row["mean average precision"]
        for row in rows_of(chart.spec)
    }
    assert values[MODEL, 0] == 0.9
    assert values["second", 0] == 0.5
    assert values["linear", 100] == 0.6
    assert len(values) == 6
    assert "linear 0.700 at 0%, 0.600 at 100%" in chart.alt
    assert missing_chart({MODEL: {"tags.joint.map_tags": 0.1}}) is None


def test_metrics_of_the_same_pictures_are_not_noted(gallery: Gallery) -> None:
    precise = precision_of(gallery, {MODEL: gallery.tagger})
    mean = precise.mean(10)
    assert not measured_elsewhere({"tags.joint.map_tags": mean}, precise)
    assert not measured_elsewhere({"analogy.acc1": 1.0}, precise)
    assert f"{mean + 0.1:.3f}" in measured_elsewhere({"tags.joint.map_tags": mean + 0.1}, precise)


def test_words_are_moved_apart() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(40, 2)) * (1.0, 0.2)
    places[1] = places[0]
    sizes = np.stack([rng.uniform(0.1, 0.4, 40), np.full(40, 0.05)], axis=1)
    moved = maps.apart(places, sizes, rounds=1000)
    gap = np.abs(moved[:, None] - moved[None])
    free = (gap >= (sizes[:, None] + sizes[None]) / 2 - 1e-4).any(axis=2)
    np.fill_diagonal(free, True)
    assert free.all()
    np.testing.assert_allclose(moved[:, 0], places[:, 0], rtol=1e-6)
    alone = np.array([[0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(maps.apart(alone, np.full((2, 2), 0.5)), alone)
