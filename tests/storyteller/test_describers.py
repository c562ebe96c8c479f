"""What finds sentences about pictures: captioners, and the captions of the nearest pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.storyteller.describers import (
    CAPTIONER,
    CAPTIONS,
    NEAREST,
    load_describer,
    write_nearest,
)
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.joint.taggers import write_tagger
from tests.joint.worlds import write_teacher


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> str:
    return write_captioned(tmp_path_factory.mktemp("data") / "data", tiny_teacher, grid=False)


def test_the_nearest_pictures_tell(data: str, tmp_path: Path, tiny_teacher: str) -> None:
    joint = write_tagger(tmp_path / "joint", Path(tiny_teacher.removeprefix("mmray:")))
    write_nearest(str(joint), Dataset(data, "images"), str(tmp_path / "nearest"))
    describer = load_describer(str(tmp_path / "nearest"), NEAREST, "cpu", 1)
    describer.check(Dataset(data, "images"))
    table = Dataset(data, "images").read(["features", "captions"], split="train", limit=20)
    features = tensor(table["features"]).astype(np.float32)
    told = describer.describe(features)
    assert all(len(sentences) == CAPTIONS for sentences in told)
    for sentences, own in zip(told, table["captions"].to_pylist(), strict=True):
        assert not own or own[0] in sentences  # it is the nearest of all itself
    assert describer.describe(features[:0]) == []
    assert describer.see([np.zeros((16, 16, 3), np.uint8)]).shape == (1, features.shape[1])
    again = load_describer(str(tmp_path / "nearest"), NEAREST, "cpu", 1)
    assert again.fingerprint == describer.fingerprint


def test_a_captioner_writes(data: str, tmp_path: Path) -> None:
    where = write_captioner(tmp_path / "captioner", data)
    describer = load_describer(where, CAPTIONER, "cpu", 1)
    table = Dataset(data, "images").read(["features"], limit=3)
    told = describer.describe(tensor(table["features"]).astype(np.float32))
    assert [len(sentences) for sentences in told] == [CAPTIONS] * 3


def test_what_is_no_joint_model_or_sees_otherwise(data: str, tmp_path: Path) -> None:
    captioner = write_captioner(tmp_path / "captioner", data)
    with pytest.raises(UserError, match=r"--joint .*: holds a model of kind 'captioner'"):
        write_nearest(captioner, Dataset(data, "images"), str(tmp_path / "nearest"))
    other = write_teacher(tmp_path / "other", seed=5)
    joint = write_tagger(tmp_path / "joint", Path(other.removeprefix("mmray:")))
    with pytest.raises(UserError, match="its features are of"):
        write_nearest(str(joint), Dataset(data, "images"), str(tmp_path / "nearest"))
