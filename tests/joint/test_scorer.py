"""Probabilities from every kind of evidence, and the model folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mmray
from mmray.errors import UserError
from mmray.joint import finish
from mmray.joint import scorer as module
from mmray.joint.finish import rows_with_tags, visual_scores
from mmray.joint.metrics import calibration_error
from mmray.joint.scorer import Scorer
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.statistics import Statistics
from tests.joint.worlds import save_small, small_task, train_small, write_teacher, write_world


@pytest.fixture(scope="module")
def scorer(joint_model: str) -> Scorer:
    return finish.load(joint_model)


@pytest.fixture(scope="module")
def test_rows(picture_world: str, scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
    return rows_with_tags(Dataset(picture_world, "images"), "test", scorer.vocabulary, 1000)


def test_without_given_tags_the_picture_alone_counts(
    scorer: Scorer, test_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    features, tags = test_rows
    given = tags.copy()
    given[::2] = False
    alone, both = scorer.probabilities(features), scorer.probabilities(features, given)
    np.testing.assert_allclose(both[::2], alone[::2], atol=1e-6)
    assert not np.allclose(both[1::2], alone[1::2], atol=1e-2)
    assert (both[given] == 1).all()
    assert (scorer.probabilities(None, given)[given] == 1).all()
    for values in (alone, both):
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()


def test_batches_do_not_matter(
    scorer: Scorer, test_rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, tags = test_rows
    kinds = [(features, None), (None, tags), (features, tags & (np.arange(len(tags)) % 2)[:, None])]
    whole = [scorer.probabilities(*kind) for kind in kinds]
    monkeypatch.setattr(module, "BATCH", 7)
    for kind, expected in zip(kinds, whole, strict=True):
        np.testing.assert_allclose(scorer.probabilities(*kind), expected, atol=1e-5)
        nothing = [None if x is None else x[:0] for x in kind]
        assert scorer.probabilities(*nothing).shape == (0, len(scorer.vocabulary))


def test_the_memory_leaves_a_picture_out(picture_world: str, scorer: Scorer) -> None:
    rows = rows_with_tags(Dataset(picture_world, "images"), "train", scorer.vocabulary, 1000)
    features, tags = rows[0][:40], rows[1][:40]
    own = np.arange(len(features))
    known, asked = scorer.probabilities(features), scorer.probabilities(features, None, own)
    assert known[tags].mean() > asked[tags].mean() + 0.02


def test_calibration_lowers_the_calibration_error(
    picture_world: str, joint_model: str, test_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    scorer = finish.load(joint_model)
    with torch.no_grad():  # a net that is too sure of itself
        scorer.model.head.weight.mul_(4)
        scorer.model.head.bias.mul_(4)
    known = rows_with_tags(Dataset(picture_world, "images"), "val", scorer.vocabulary, 1000)
    scorer.calibration = finish.calibrate(scorer, *known)
    features, tags = test_rows
    for given, name in ((None, "picture"), (tags & (np.arange(13) % 2 == 0), "both")):
        counts = np.ones_like(tags) if given is None else ~given
        net = 1 / (1 + np.exp(-scorer.evidence(features, given)[0][counts]))
        found = scorer.probabilities(features, given)[counts]
        before, after = (calibration_error(p[None], tags[counts][None]) for p in (net, found))
        assert after < 0.6 * before, name


def test_useless_tags_are_told_from_useful_ones(scorer: Scorer) -> None:
    visual = dict(zip(scorer.vocabulary.tags, scorer.visual, strict=True))
    assert visual.pop("nikon") < finish.VISUAL_AUC
    assert min(visual.values()) > 0.8


def test_visual_scores_of_few_pictures() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    tags = np.stack([x[:, 0] > 0, rng.random(60) < 0.5, np.arange(60) < 1, x[:, 0] > -99], axis=1)
    statistics = Statistics(x.mean(0), x.std(0))
    scores = visual_scores(x, tags, statistics)
    assert scores[0] > 0.9
    assert 0.3 < scores[1] < 0.7
    unknown = finish.VISUAL_AUC
    assert scores[2:].tolist() == [unknown] * 2  # of one picture, and of all
    assert visual_scores(x[:5], tags[:5], statistics).tolist() == [unknown] * 4


def test_saved_and_loaded_it_is_the_same(
    scorer: Scorer, tmp_path: Path, test_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    finish.save(scorer, str(tmp_path / "model"), {"val": {"ap_picture": 0.5}})
    loaded = finish.load(str(tmp_path / "model"))
    features, tags = test_rows
    for given in (None, tags):
        expected = scorer.probabilities(features, given)
        assert np.array_equal(loaded.probabilities(features, given), expected)
    assert np.array_equal(loaded.probabilities(None, tags), scorer.probabilities(None, tags))
    assert loaded.fingerprint == scorer.fingerprint
    assert loaded.vocabulary == scorer.vocabulary
    assert "ap_picture 0.500" in (tmp_path / "model" / "README.md").read_text()
    with torch.no_grad():
        loaded.model.head.bias += 1
    del loaded.fingerprint
    assert loaded.fingerprint != scorer.fingerprint


def test_the_folder_needs_nothing_beside_it(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher", seed=3)
    data = write_world(tmp_path / "data", teacher, {"train": 80})  # and nothing is held out
    train_small(data, tmp_path / "out", steps=8)
    model = save_small(small_task(data), tmp_path / "out")
    for name in ("teacher", "data"):
        shutil.rmtree(tmp_path / name)
    moved = shutil.move(model, tmp_path / "moved")
    picture = np.zeros((20, 30, 3), np.uint8)
    names = mmray.load(str(moved)).tags([picture], k=3, useless=True)[0]
    assert len(names) == 3
    assert all(0 <= p <= 1 for _, p in names)


def swap_tags(file: Path) -> None:
    tags = json.loads(file.read_text())["tags"]
    change_json(file, tags=tags[::-1])


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / "tags.json").unlink(), r"tags\.json"),
        (lambda m: (m / "tags.json").write_text("{"), r"tags\.json"),
        (lambda m: (m / "model.safetensors").unlink(), "safetensors"),
        (lambda m: cut(m / "model.safetensors"), "do not belong together"),
        (lambda m: (m / "model.safetensors").write_bytes(b""), "do not belong together"),
        (
            lambda m: change_json(m / "tags.json", tags=["a", "b"], counts=[1, 1], visual=[1, 1]),
            "do not belong together.*another number of tags",
        ),
        (lambda m: change_json(m / "tags.json", visual=[0.5]), "do not belong together"),
        (lambda m: swap_tags(m / "tags.json"), "tags.json is of another model"),
        (lambda m: change_json(m / "config.json", arch="transformer"), "transformer"),
        (lambda m: change_json(m / "config.json", sizes={}), "do not belong together"),
        (lambda m: change_json(m / "config.json", calibration={}), "do not belong together"),
        (lambda m: change_json(m / "config.json", kind="soundnet"), "of kind 'soundnet'"),
        (lambda m: change_json(m / "config.json", format_version=9), "format version 9"),
        (lambda m: (m / "config.json").unlink(), r"no config\.json"),
    ],
)
def test_damaged_folders(joint_model: str, tmp_path: Path, damage, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(joint_model, folder)
    damage(folder)
    with pytest.raises(UserError, match=f"{tmp_path}.*{message}"):
        finish.load(str(folder))
