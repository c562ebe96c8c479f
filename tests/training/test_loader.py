"""The order of rows depends on seed and step alone, and every row comes once an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.training.loader import Batch, Loader, Share, epoch_order
from tests.training.tiny import TinyExamples, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_dataset(tmp_path_factory.mktemp("data"), rows=75, val=13))


def loader(
    data: Dataset, batch_size: int = 16, share: Share | None = None, **kwargs: int
) -> Loader:
    return Loader(data, TinyExamples(), batch_size=batch_size, share=share, **kwargs)


def merged(parts: list[Batch]) -> tuple[list[str], np.ndarray]:
    return [i for p in parts for i in p["id"]], np.concatenate([p["x"] for p in parts])


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_epoch_order_is_a_permutation_that_keeps_groups_together(
    sizes: list[int], seed: int, epoch: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = epoch_order(groups, seed, epoch)
    assert sorted(order) == list(range(len(groups)))
    changes = np.count_nonzero(np.diff(groups[order]))
    assert changes == len(sizes) - 1


def test_epoch_order_changes_with_seed_and_epoch() -> None:
    groups = np.repeat(np.arange(10), 10)
    orders = [tuple(epoch_order(groups, s, e)) for s, e in [(0, 0), (0, 1), (1, 0)]]
    assert len(set(orders)) == 3
    assert tuple(epoch_order(groups, 0, 0)) == orders[0]


@settings(max_examples=20, deadline=None)
@given(batch_size=st.integers(1, 75), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_each_row_at_most_once_an_epoch(
    data: Dataset, batch_size: int, seed: int, epoch: int
) -> None:
    one = loader(data, batch_size, seed=seed)
    first = epoch * one.steps_per_epoch
    ids = [i for k in range(one.steps_per_epoch) for i in one.batch(first + k)["id"]]
    assert max(Counter(ids).values()) == 1
    assert len(ids) == 75 // batch_size * batch_size
    assert all(int(i.removeprefix("row")) < 75 for i in ids)  # none of the split val


@given(batch_size=st.integers(1, 300), data=st.data())
def test_shares_are_even_and_their_weighted_means_are_that_of_the_batch(
    batch_size: int, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, batch_size))
    shares = [Share(rank, workers) for rank in range(workers)]
    slots = [share.slots(batch_size) for share in shares]
    assert [s for part in slots for s in part] == list(range(batch_size))
    assert max(map(len, slots)) - min(map(len, slots)) <= 1
    values = np.random.default_rng(0).normal(size=batch_size)
    means = [
        share.weight(batch_size) * values[s].mean() for share, s in zip(shares, slots, strict=True)
    ]
    assert sum(means) == pytest.approx(values.mean())


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_batches_do_not_depend_on_the_number_of_workers(data: Dataset, workers: int) -> None:
    one = loader(data)
    many = [loader(data, share=Share(rank, workers)) for rank in range(workers)]
    for step in (0, 3, 4, 11):
        ids, x = merged([part.batch(step) for part in many])
        whole = one.batch(step)
        assert ids == whole["id"]
        np.testing.assert_array_equal(x, whole["x"])


def test_prefetched_batches_are_those_of_their_steps(data: Dataset) -> None:
    one = loader(data, threads=3)
    steps = list(one.batches(3, 14))
    assert len(steps) == 11
    for step, batch in zip(range(3, 14), steps, strict=True):
        expected = loader(data).batch(step)
        assert batch["id"] == expected["id"]
        np.testing.assert_array_equal(batch["x"], expected["x"])


def test_augmentation_differs_from_step_to_step(data: Dataset) -> None:
    one = loader(data, batch_size=75)
    first, second = one.batch(0), one.batch(1)
    rows = dict(zip(first["id"], np.asarray(first["x"]), strict=True))
    assert not any(
        np.array_equal(rows[i], x)
        for i, x in zip(second["id"], np.asarray(second["x"]), strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_in_order_gives_each_row_once_to_one_worker(data: Dataset, workers: int) -> None:
    parts = [
        Loader(data, TinyExamples(), split="val", batch_size=4, share=Share(r, workers))
        for r in range(workers)
    ]
    ids = [i for part in parts for batch in part.in_order() for i in batch["id"]]
    assert sorted(ids) == [f"row{i:03d}" for i in range(75, 88)]


def test_limit_takes_the_first_rows(data: Dataset) -> None:
    one = loader(data, 8, limit=8)
    assert sorted(one.batch(0)["id"]) == [f"row{i:03d}" for i in range(8)]


def test_smaller_batch_when_there_are_few_rows(
    data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    one = loader(data, 64, share=Share(0, 2), limit=9)
    assert one.batch_size == 9
    assert "batch size is 9" in caplog.text


def test_few_row_groups_are_read_and_no_more_memory_is_used_than_allowed(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read = Dataset.read_row_group
    monkeypatch.setattr(
        Dataset,
        "read_row_group",
        lambda self, group, columns: reads.append(group) or read(self, group, columns),
    )
    one = loader(data, 4, cache_bytes=0)
    epochs = 2
    list(one.batches(0, epochs * one.steps_per_epoch))
    # Each slot walks through its own stretch of the order, so a group is read at most once for
    # each slot that its rows fall to, not once for each row.
    assert len(reads) <= epochs * (10 + 4 + 4)
    assert len(one._cache._groups) <= 4 + 1


def test_user_errors_name_what_to_do(data: Dataset) -> None:
    with pytest.raises(UserError, match=r"--batch-size 3 .* 4 workers"):
        loader(data, 3, share=Share(0, 4))
    with pytest.raises(UserError, match="no rows of the split 'test'"):
        Loader(data, TinyExamples(), split="test", batch_size=4)
    with pytest.raises(UserError, match="fewer workers"):
        loader(data, 4, share=Share(0, 4), limit=3)


def test_an_unreadable_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = Dataset(write_dataset(tmp_path))
    one = loader(broken)
    (tmp_path / "part-00001.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"part-00001\.parquet"):
        list(one.batches(0, 6))
