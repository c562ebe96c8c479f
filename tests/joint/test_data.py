"""Batches of pictures and tags: what is given away, mixed and drawn by lot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmray.joint.data import JointExamples, Sample
from mmray.joint.vocabulary import Vocabulary
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.statistics import SMALLEST_STD, feature_statistics
from mmray.training.loader import Loader, Share
from tests.joint.worlds import small_task, write_rows

WORDS = Vocabulary(list("abcdefgh"), [1] * 8, 8)


def batch_of(tags: list, neighbours: list, mixup: float = 0.4, seed: int = 0) -> dict[str, Any]:
    rows, others = (
        [{"features": np.full(3, value, np.float16), "tags": t} for t in lists]
        for value, lists in ((1.0, tags), (2.0, neighbours))
    )
    rngs = [np.random.default_rng([seed, slot]) for slot in range(len(rows))]
    return JointExamples(WORDS, 16, mixup)(rows, others, rngs)


def test_tagged_are_never_mixed_with_untagged() -> None:
    some, none = ["a", "B "], [["unknown"], [], None]
    batch = batch_of([some] * 3 + none, [*none, some, some, some])
    assert (batch["features"] == 1).all()
    assert batch["tags"].sum(1).tolist() == [2, 2, 2, 0, 0, 0]
    assert batch["has_tags"].tolist() == [1, 1, 1, 0, 0, 0]


def test_mixing_keeps_most_of_the_picture() -> None:
    batch = batch_of([["a"]] * 50 + [[]] * 50, [["b"]] * 50 + [[]] * 50)
    share = 2 - batch["features"][:, 0]
    assert share.min() >= 0.5
    assert 0.5 < share.mean() < 1
    torch.testing.assert_close(batch["tags"][:50, 0], share[:50])
    torch.testing.assert_close(batch["tags"][:50, 1], 1 - share[:50])
    assert not batch["tags"][50:].any()
    assert (batch_of([["a"]], [["b"]], mixup=0)["features"] == 1).all()


def test_given_tags_are_some_of_those_there() -> None:
    batch = batch_of([list("abcdef")] * 200, [list("gh")] * 200)
    given, tags = batch["given"], batch["tags"]
    assert ((given == tags) | (given == 0)).all()
    shares = (given > 0).sum(1) / (tags > 0).sum(1)
    assert shares.min() == 0
    assert shares.max() == 1
    assert shares.mean() == pytest.approx(0.5, abs=0.1)


def test_what_is_drawn_depends_on_the_slot_alone(picture_world: str) -> None:
    task = small_task(picture_world)

    def parts(workers: int) -> dict[str, torch.Tensor]:
        batches = [
            Loader(
                Dataset(picture_world, "images"),
                JointExamples(task.vocabulary, task.config.noise, 0.4),
                batch_size=32,
                share=Share(rank, workers),
            ).batch(9)
            for rank in range(workers)
        ]
        names = [name for name in batches[0] if name != "id"]
        return {name: torch.cat([batch[name] for batch in batches]) for name in names}

    one, four = parts(1), parts(4)
    assert one.keys() == {"features", "tags", "given", "has_tags", "noise"}
    assert one["noise"].shape == (32, task.config.noise)
    assert len(one["noise"].unique(dim=0)) == 32
    for name, values in one.items():
        assert torch.equal(values, four[name]), name


def test_held_out_pictures_show_every_other_tag() -> None:
    rows = [{"features": np.ones(3, np.float16), "tags": t} for t in (["c", "a", "e"], None)]
    batch = JointExamples(WORDS, 16, 0.4)(rows, rows, [])
    assert batch["given"].nonzero()[:, 1].tolist() == [0, 4]
    assert batch["tags"].sum(1).tolist() == [3, 0]
    assert "noise" not in batch


def test_statistics_are_those_of_the_training_pictures(
    picture_world: str, tmp_path, tiny_teacher: str
) -> None:
    values = tensor(Dataset(picture_world, "images").read(["features"], "train")["features"])
    found = feature_statistics(Dataset(picture_world, "images"))
    np.testing.assert_allclose(found.mean, values.astype(float).mean(0), atol=1e-5)
    np.testing.assert_allclose(found.std, values.astype(float).std(0), atol=1e-5)
    constant = write_rows(tmp_path, [{"tags": []}] * 3, tiny_teacher)
    assert (feature_statistics(Dataset(constant, "images")).std == np.float32(SMALLEST_STD)).all()


def test_a_sample_of_what_streams_by() -> None:
    def draw(most: int, step: int, seed: int = 0) -> list[int]:
        sample = Sample(most, seed)
        for start in range(0, 1000, step):
            numbers = np.arange(start, min(start + step, 1000))
            sample.add(numbers[:, None], [f"{n}" for n in numbers])
        numbers, names = sample.columns()
        assert [f"{n[0]}" for n in numbers] == names
        return [int(n[0]) for n in numbers]

    assert draw(2000, 7) == list(range(1000))  # all, in their order
    drawn = draw(50, 7)
    assert len(set(drawn)) == 50
    assert drawn == draw(50, 13)
    assert drawn != draw(50, 7, seed=1)
    means = [np.mean(draw(50, 100, seed)) for seed in range(20)]
    assert abs(np.mean(means) - 499.5) < 40  # the standard error is 9
