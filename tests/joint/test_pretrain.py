"""Each tower alone: what it learns, and the folder that the joint training starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from mmray.errors import UserError
from mmray.joint.data import JointExamples
from mmray.joint.pretrain import (
    KINDS,
    PicturePretraining,
    TagPretraining,
    first_embeddings,
    load_tower,
)
from mmray.joint.task import JointTask
from mmray.pipeline.dataset import Dataset
from mmray.training.loader import Batch, Loader
from tests.joint.worlds import small_task


@pytest.fixture(scope="module")
def joint(picture_world: str) -> JointTask:
    return small_task(picture_world)


@pytest.fixture
def batch(joint: JointTask) -> Batch:
    examples = JointExamples(joint.vocabulary, joint.config.noise)
    return Loader(Dataset(joint.data, "images"), examples, batch_size=64).batch(0)


def tasks(joint: JointTask) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(joint.vocabulary), 8)).astype(np.float32)
    return {
        "pictures": PicturePretraining(joint.config, joint.statistics),
        "tags": TagPretraining(joint.config, joint.vocabulary, embeddings),
    }


@pytest.mark.parametrize("name", ["pictures", "tags"])
def test_a_few_steps_lower_the_loss(joint: JointTask, batch: Batch, name: str) -> None:
    task = tasks(joint)[name]
    torch.manual_seed(0)
    model: nn.Module = task.build()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = task.evaluate(model, batch)["loss"].nanmean()
    losses = []
    for _ in range(30):
        loss, _ = task.loss(model, batch)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert task.evaluate(model, batch)["loss"].nanmean() < 0.9 * before


def test_tags_that_are_shown_are_not_asked_for(joint: JointTask) -> None:
    task = tasks(joint)["tags"]
    model = task.build()
    tags = torch.zeros(3, len(joint.vocabulary))
    tags[0, :4], tags[1, :2] = 1, 1
    given = tags.clone()
    given[0, :2] = 0
    losses = task.evaluate(model, {"tags": tags, "given": given})["loss"]
    logits = model(given)[0]
    rest = torch.cat([logits[:2], logits[4:]]).log_softmax(0)
    torch.testing.assert_close(losses[0], -rest[:2].mean())
    assert losses[1:].isnan().all()  # a whole set and an empty one leave nothing to name


def test_first_embeddings_know_which_tags_occur_together() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=400)
    sets = np.stack([kind == i // 2 for i in range(6)], axis=1) & (rng.random((400, 6)) < 0.8)
    sets = np.concatenate([sets, np.zeros((400, 1), bool)], axis=1)  # a tag that never occurs
    vectors = first_embeddings(scipy.sparse.csr_matrix(sets.astype(float)), 10)
    assert vectors.shape == (7, 10)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert not vectors[:, 7:].any()
    cosines = vectors[:6] @ vectors[:6].T
    np.fill_diagonal(cosines, -np.inf)
    assert cosines.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]
    assert np.isfinite(first_embeddings(scipy.sparse.csr_matrix((0, 4)), 2)).all()


@pytest.mark.parametrize("name", ["pictures", "tags"])
def test_the_joint_training_starts_from_the_towers(
    joint: JointTask, tmp_path: Path, name: str
) -> None:
    task = tasks(joint)[name]
    torch.manual_seed(1)
    model = task.build()
    task.save(model, str(tmp_path / "tower"), {})
    torch.manual_seed(2)
    built = dataclasses.replace(joint, towers={name: str(tmp_path / "tower")}).build()
    for key, tensor in getattr(built, name).state_dict().items():
        assert tensor.equal(model.tower.state_dict()[key]), key
    kinds = dict(zip(KINDS, reversed(KINDS.values()), strict=True))
    with pytest.raises(UserError, match=f"holds '{KINDS[name]}', expected"):
        load_tower(getattr(built, name), str(tmp_path / "tower"), kinds[name])
    wider = dataclasses.replace(joint.config, hidden=24)
    larger = dataclasses.replace(joint, config=wider, towers={name: str(tmp_path / "tower")})
    with pytest.raises(UserError, match="tower: does not fit the model"):
        larger.build()


def test_pictures_are_png(joint: JointTask) -> None:
    task = tasks(joint)["tags"]
    task.vocabulary.tags[0] = "$\\frac{$"  # no formula
    assert task.pictures(task.build())["tags.png"].startswith(b"\x89PNG")
    assert tasks(joint)["pictures"].pictures(tasks(joint)["pictures"].build()) == {}
