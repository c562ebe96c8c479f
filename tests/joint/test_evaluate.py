"""A joint model beside its baselines on a world whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmray
from mmray.errors import UserError
from mmray.joint.evaluate import check_backbone, check_models, evaluate, read_splits
from mmray.joint.predict import Tagger
from mmray.joint.table import joint_tables
from mmray.pipeline.dataset import Dataset
from tests.joint.worlds import write_rows, write_teacher, write_world

ANALOGIES = [("red", "rojo", "blue", "azul"), ("azul", "blue", "verde", "green")]


@pytest.fixture(scope="module")
def tagger(joint_model: str) -> Tagger:
    return mmray.load(joint_model, device="cpu")


@pytest.fixture(scope="module")
def metrics(tagger: Tagger, picture_world: str) -> dict[str, float]:
    return evaluate(
        tagger,
        Dataset(picture_world, "images"),
        analogies=ANALOGIES,
        others={"again": tagger},
        useless=["nikon"],
        baselines=("prior", "kNN", "linear"),
    )


def test_all_that_is_promised_is_measured(metrics: dict[str, float]) -> None:
    methods = ["prior", "knn", "linear", "joint", "again"]
    names = [f"tags.{m}.{x}" for m in methods for x in ("map_tags", "map_images", "p5", "r5")]
    uses = ("both", "image", "tags")
    names += [f"classes.{x}" for x in (*uses, "concat_baseline", *(f"again_{u}" for u in uses))]
    names += [f"missing.{x}" for x in (0, 25, 50, 75, 100)]
    ways = [f"retrieval.{w}" for w in ("tags_to_image", "image_to_tags")]
    names += [f"{way}.{x}" for way in ways for x in ("r1", "r5", "r10", "median_rank")]
    names += [f"completed.{x}.map_images" for x in ("joint_tags", "joint_both", "linear_both")]
    names += [f"missing.{m}.{x}" for m in ("linear", "again") for x in (0, 50, 100)]
    names += ["retrieval.again.tags_to_image.r1", "analogy.again.acc5"]
    names += [
        "arithmetic.success10",
        "arithmetic.again.success10",
        "analogy.acc1",
        "useless.auc",
        "tags.joint.ece",
    ]
    assert set(names) <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(type(value) is float for value in metrics.values())


def test_what_is_measured_is_plausible(metrics: dict[str, float]) -> None:
    assert metrics["tags.joint.map_tags"] > metrics["tags.prior.map_tags"] + 0.2
    assert metrics["classes.both"] > 0.8
    assert metrics["classes.both"] >= max(metrics["classes.image"], metrics["classes.tags"]) - 0.02
    assert metrics["missing.0"] == metrics["classes.both"]
    assert metrics["missing.100"] == pytest.approx(metrics["classes.image"], abs=0.001)
    assert metrics["missing.100"] >= metrics["classes.image_baseline"] - 0.01
    assert metrics["completed.joint_both.map_images"] > metrics["completed.joint_tags.map_images"]
    assert metrics["arithmetic.success10"] > metrics["arithmetic.picture_only"]
    assert metrics["useless.auc"] == 1.0
    for name in ("map_tags", "ece"):
        assert metrics[f"tags.again.{name}"] == metrics[f"tags.joint.{name}"]
    assert metrics["classes.again_both"] == metrics["classes.both"]


def test_tables_have_all_of_it(metrics: dict[str, float]) -> None:
    tables = joint_tables(metrics, ["again"])
    assert len(tables) == 9
    assert tables[0].row_count == 5  # methods
    rows = {str(table.title): table.row_count for table in tables}
    assert rows["classes: MAP with tags removed"] == 3  # joint, linear, again
    assert rows["pictures and tag sets that find each other"] == 8
    assert all(len(table.columns) == 3 for table in tables[5:8])  # measure, joint, again
    assert joint_tables({}) == []


def test_without_labels_there_are_no_classes(
    tagger: Tagger, tmp_path: Path, tiny_teacher: str
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "tags": ["red"] if i % 2 else ["dog", "blue"],
            "features": rng.normal(size=48),
            "split": ("train", "val", "test")[i % 3],
        }
        for i in range(90)
    ]
    found = evaluate(
        tagger, Dataset(write_rows(tmp_path, rows, tiny_teacher), "images"), baselines=()
    )
    assert {name.split(".")[0] for name in found} == {"tags", "completed", "retrieval"}


def test_only_the_first_pictures(tagger: Tagger, picture_world: str) -> None:
    data = read_splits(tagger, Dataset(picture_world, "images"), "test", 10, 10)
    assert len(data.test) == 10
    assert len(data.train) == 240
    assert data.measured.all()
    assert len(data.tag_data("train").features) < 240
    assert len(data.tag_data("test").features) == 10


@pytest.mark.parametrize("change", [{"seed": 5}, {"fit": "crop"}])
def test_features_of_another_backbone(tagger: Tagger, tmp_path: Path, change: dict) -> None:
    teacher = write_teacher(tmp_path / "other", change.get("seed", 0))
    fit = change.get("fit", "pad")
    data = Dataset(write_world(tmp_path / "data", teacher, {"test": 9}, fit=fit), "images")
    message = rf"features are of {teacher} .*, {fit}; the model's are of mmray:.*backbone-0 .*, pad"
    with pytest.raises(UserError, match=message):
        evaluate(tagger, data)


def test_a_moved_backbone_is_the_same(tagger: Tagger, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "elsewhere")
    check_backbone(
        tagger, Dataset(write_rows(tmp_path / "data", [{"tags": []}], teacher), "images")
    )


def test_what_cannot_be_measured(tagger: Tagger, tmp_path: Path, tiny_teacher: str) -> None:
    sizes = {"train": 40, "val": 8}
    data = Dataset(write_world(tmp_path / "a", tiny_teacher, sizes), "images")
    with pytest.raises(UserError, match="no pictures of the split 'test'"):
        evaluate(tagger, data)
    with pytest.raises(UserError, match=r"none of the model's 13 tags occurs in 100 or more"):
        evaluate(tagger, data, "val", min_count=100)


def test_what_is_measured_never_chooses(
    tagger: Tagger, picture_world: str, tmp_path: Path, tiny_teacher: str
) -> None:
    data = Dataset(picture_world, "images")
    splits = read_splits(tagger, data, "val", None, 10)
    assert not set(splits.val.ids) & set(splits.test.ids)
    assert not set(splits.val.ids) & set(splits.train.ids)
    whole = read_splits(tagger, data, "test", None, 10)
    assert set(whole.train.ids) == set(splits.train.ids) | set(splits.val.ids)
    # Without a split val a part of train does the choosing.
    bare = write_world(tmp_path, tiny_teacher, {"train": 200, "test": 40})
    found = read_splits(tagger, Dataset(bare, "images"), "test", None, 3)
    assert len(found.val)
    assert not set(found.val.ids) & set(found.train.ids)


def test_a_few_pictures_have_tables_too(tagger: Tagger, picture_world: str) -> None:
    found = evaluate(
        tagger, Dataset(picture_world, "images"), limit=3, baselines=["prior"], measure=["tags"]
    )
    assert "tags.joint.map_tags" not in found  # no tag has three pictures
    (table,) = joint_tables(found)
    assert table.row_count == 2


def test_models_of_other_tags_are_refused(joint_model: str, picture_world: str) -> None:
    tagger, other = (mmray.load(joint_model, device="cpu") for _ in range(2))
    other.scorer.vocabulary = replace(tagger.vocabulary, tags=tagger.vocabulary.tags[::-1])
    with pytest.raises(UserError, match="--dbm: knows other tags than --model"):
        check_models({"joint": tagger, "dbm": other}, Dataset(picture_world, "images"))
