"""What each loss is of, and that workers and kills change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mmray import storage
from mmray.joint.config import LossWeights
from mmray.joint.data import JointExamples
from mmray.joint.task import JointTask, average_precision
from mmray.pipeline.dataset import Dataset
from mmray.training.checkpoint import Checkpoints, State
from mmray.training.loader import Batch, Loader, Share
from tests.joint.worlds import Killed, small_task, train_small
from tests.training.processes import run


@pytest.fixture(scope="module")
def task(picture_world: str) -> JointTask:
    return small_task(picture_world)


@pytest.fixture
def batch(task: JointTask) -> Batch:
    examples = JointExamples(task.vocabulary, task.config.noise, task.mixup)
    return Loader(Dataset(task.data, "images"), examples, batch_size=32).batch(0)


def part(batch: Batch, rows: torch.Tensor) -> Batch:
    return {name: values[rows] for name, values in batch.items() if name != "id"}


def test_untagged_pictures_have_no_losses_of_tags(task: JointTask, batch: Batch) -> None:
    model = task.build()
    tagged = batch["has_tags"] > 0
    assert 0 < tagged.sum() < 32
    losses = task._losses(model, batch)
    for name in ("picture", "both", "tags", "contrastive"):
        assert (losses[name][~tagged] == 0).all()
        assert (losses[name][tagged] > 0).all()
    assert (losses["untagged"][tagged] == 0).all()
    assert (losses["untagged"][~tagged] > 0).all()
    # The others' losses are as if they were not there.
    for name, values in task._losses(model, part(batch, tagged)).items():
        torch.testing.assert_close(values, losses[name][tagged], msg=name)


def test_total_is_the_weighted_sum(task: JointTask, batch: Batch) -> None:
    model = task.build()
    weights = LossWeights(tags_weight=2, both_weight=0, contrastive_weight=3, untagged_weight=5)
    loss, parts = dataclasses.replace(task, weights=weights).loss(model, batch)
    expected = parts["picture"] + 2 * parts["tags"] + 3 * parts["contrastive"]
    torch.testing.assert_close(loss, expected + 5 * parts["untagged"])


@pytest.mark.parametrize("kind", ["all", "untagged"])
def test_every_parameter_has_a_gradient(task: JointTask, batch: Batch, kind: str) -> None:
    # Or workers would wait for each other for ever.
    model = task.build()
    rows = torch.arange(32) if kind == "all" else (batch["has_tags"] == 0).nonzero()[:, 0]
    task.loss(model, part(batch, rows))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_average_precision_is_that_of_sklearn() -> None:
    logits = torch.randn(20, 9)
    tags = (torch.rand(20, 9) < 0.4).float()
    tags[:, 0], tags[3] = 1, 0
    found = average_precision(logits, tags)
    assert found[3] == 0
    for i in [i for i in range(20) if i != 3]:
        expected = average_precision_score(tags[i].numpy(), logits[i].numpy())
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


def test_evaluation_is_of_pictures_with_tags(task: JointTask) -> None:
    tagged = [row for row in _rows(task) if row["tags"]]
    rows = [*tagged[:4], {**tagged[5], "tags": None}]
    rows[0]["tags"] = ["red"]  # which is shown: nothing is left to ask for
    batch = JointExamples(task.vocabulary)(rows, rows, [])
    with torch.no_grad():
        found = task.evaluate(task.build().eval(), batch)
    known = {name: (~values.isnan()).tolist() for name, values in found.items()}
    assert known["loss_picture"] == known["ap_picture"] == [True] * 4 + [False]
    assert known["ap_both"][0] is False
    assert task.leading[0] in found


def _rows(task: JointTask) -> list:
    table = Dataset(task.data, "images").read(["tags"], "val")
    return [{"tags": t, "features": np.zeros(48, np.float16)} for t in table["tags"].to_pylist()]


def test_first_weights_know_how_frequent_tags_are(task: JointTask) -> None:
    model = task.build()
    torch.testing.assert_close(
        model.head.bias.sigmoid(), torch.from_numpy(task.vocabulary.frequency)
    )
    assert np.array_equal(model.pictures.mean, task.statistics.mean)
    assert np.array_equal(model.tags.idf, task.vocabulary.idf)


def test_settings_hold_everything_open(task: JointTask) -> None:
    for name in [field.name for field in dataclasses.fields(LossWeights)]:
        other = dataclasses.replace(task.weights, **{name: 0.25})
        assert dataclasses.replace(task, weights=other).settings() != task.settings()
    for change in ({"mixup": 0.0}, {"towers": {"tags": "x"}}):
        assert dataclasses.replace(task, **change).settings() != task.settings()
    sizes = dataclasses.replace(task.config, dropout=0.2)
    assert dataclasses.replace(task, config=sizes).settings() != task.settings()


def several_workers(rank: int, world_size: int, folder: Path, data: str) -> None:
    state = train_small(data, folder / "many", share=Share(rank, world_size), steps=12)
    storage.write_json(folder / f"{rank}.json", dataclasses.asdict(state))


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_has_the_same_losses(
    picture_world: str, tmp_path: Path, workers: int
) -> None:
    one = train_small(picture_world, tmp_path / "one", steps=12)
    run(several_workers, tmp_path, picture_world, processes=workers)
    many = State(**storage.read_json(tmp_path / "0.json"))
    assert len(one.losses) == 12
    assert np.mean(one.losses[-4:]) < np.mean(one.losses[:4])
    assert many.losses == pytest.approx(one.losses, abs=1e-4)
    for here, there in zip(one.evaluations, many.evaluations, strict=True):
        assert here == pytest.approx(there, abs=1e-3)


def test_a_killed_run_ends_exactly_as_one_that_was_not(picture_world: str, tmp_path: Path) -> None:
    whole = train_small(picture_world, tmp_path / "whole", steps=24)
    with pytest.raises(Killed):
        train_small(picture_world, tmp_path / "killed", steps=24, kill_at=12)
    assert train_small(picture_world, tmp_path / "killed", steps=24) == whole
    models = [small_task(picture_world).build() for _ in range(2)]
    for model, name in zip(models, ("whole", "killed"), strict=True):
        Checkpoints(str(tmp_path / name)).load_model(24, model)
    for name, tensor in models[0].state_dict().items():
        assert tensor.equal(models[1].state_dict()[name]), name
