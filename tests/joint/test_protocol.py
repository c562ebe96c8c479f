"""The protocol of MIR-Flickr in small."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmray
from mmray.errors import UserError
from mmray.joint.predict import Tagger
from mmray.joint.protocol import mirflickr_protocol
from mmray.pipeline.dataset import Dataset
from tests.joint.worlds import write_rows, write_teacher, write_world


@pytest.fixture(scope="module")
def tagger(joint_model: str) -> Tagger:
    return mmray.load(joint_model, device="cpu")


def test_means_and_deviations(tagger: Tagger, picture_world: str) -> None:
    data = Dataset(picture_world, "images")
    found = mirflickr_protocol({"joint": tagger}, data, sizes=(150, 50, 100))
    measures = [f"{m}.{use}" for m in ("classes", "p50") for use in ("both", "image", "tags")]
    assert set(measures) | {f"{name}.std" for name in measures} <= set(found)
    assert found["classes.both"] > 0.8
    assert {f"classes.{x}_baseline" for x in ("image", "tags", "concat")} <= set(found)
    assert 0 < found["classes.both.std"] < 0.1
    assert all(type(value) is float for value in found.values())
    assert found == mirflickr_protocol({"joint": tagger}, data, sizes=(150, 50, 100))
    assert found != mirflickr_protocol({"joint": tagger}, data, seed=1, sizes=(150, 50, 100))


def test_two_models_side_by_side(tagger: Tagger, picture_world: str) -> None:
    data = Dataset(picture_world, "images")
    found = mirflickr_protocol({"joint": tagger, "dbm": tagger}, data, sizes=(150, 50, 100))
    for name in ("both", "image", "tags"):
        assert found[f"classes.dbm_{name}"] == found[f"classes.{name}"]


def test_too_few_pictures(tagger: Tagger, picture_world: str) -> None:
    data = Dataset(picture_world, "images")
    with pytest.raises(UserError, match=r"360 labelled pictures, the protocol needs 25000"):
        mirflickr_protocol({"joint": tagger}, data)
    with pytest.raises(UserError, match=r"the protocol needs 361"):
        mirflickr_protocol({"joint": tagger}, data, sizes=(150, 50, 161))


def test_other_pictures(tagger: Tagger, tmp_path: Path, tiny_teacher: str) -> None:
    rows = [{"tags": ["red"]}] * 9
    with pytest.raises(UserError, match="pictures have no labels"):
        mirflickr_protocol(
            {"joint": tagger}, Dataset(write_rows(tmp_path / "a", rows, tiny_teacher), "images")
        )
    other = write_world(tmp_path / "b", write_teacher(tmp_path / "t", 4), {"train": 9})
    with pytest.raises(UserError, match="features are of"):
        mirflickr_protocol({"joint": tagger}, Dataset(other, "images"), sizes=(3, 3, 3))
