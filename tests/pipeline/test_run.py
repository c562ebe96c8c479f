"""Shards through pools of workers, here and on Ray: every row once, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.errors import MediaError, UserError
from mmray.pipeline import dataset, run, shards
from mmray.pipeline.shards import WorkList
from mmray.pipeline.stages import Errors, Pool, failed

SCHEMA = pa.schema({"id": pa.string(), "uri": pa.string(), "value": pa.int64()})


@dataclass
class Square:
    """Square a value; multiples of 7 fail."""

    def setup(self) -> None:
        self.ready = True

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert self.ready
        errors = Errors(rows.num_rows)
        values = rows["value"].to_pylist()
        for i, value in enumerate(values):
            if value % 7 == 0:
                errors.add(i, MediaError("frames", f"{value} is a multiple of seven"))
        rows = rows.append_column("square", pa.array([v * v for v in values], pa.int64()))
        for name, column in errors.columns().items():
            rows = rows.append_column(name, column)
        return rows


@dataclass
class AddOne:
    """Add one to the squares; checks that it sees the errors of the stage before."""

    def setup(self) -> None:
        pass

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert [v % 7 == 0 for v in rows["value"].to_pylist()] == failed(rows)
        values = pc.add(rows["square"], 1)
        return rows.append_column("result", values)


@pytest.fixture
def work(tmp_path: Path) -> WorkList:
    work = WorkList(str(tmp_path / "list"))
    rows = [{"id": f"r{i}", "uri": f"u{i}", "value": i} for i in range(53)]
    tables = (pa.Table.from_pylist(rows[i : i + 10], schema=SCHEMA) for i in range(0, 53, 10))
    work.write(tables, SCHEMA, rows_per_shard=8)
    return work


def pools(work: WorkList, out: Path) -> list[Pool]:
    write = shards.WriteShard(str(out), ("id", "result"), str(out / "errors"))
    return [
        Pool("square", [shards.ReadShard(work), Square()], size=2, num_cpus=0.5),
        Pool("add", [AddOne(), write], num_cpus=0),
    ]


def check(out: Path) -> None:
    table = pa.concat_tables(
        [dataset.read_table(str(out / name)) for name in dataset.part_names(str(out))]
    )
    expected = {f"r{i}": i * i + 1 for i in range(53) if i % 7}
    assert dict(zip(table["id"].to_pylist(), table["result"].to_pylist(), strict=True)) == expected
    assert table.num_rows == len(expected)
    assert shards.count_errors(str(out), str(out / "errors")) == 8
    reasons = shards.reasons(str(out / "errors"))
    assert reasons["frames: 14 is a multiple of seven"] == 1
    assert sum(reasons.values()) == 8


def test_sizes_of_shards(work: WorkList) -> None:
    assert [work.size(shard) for shard in range(work.num_shards)] == [8, 8, 8, 8, 8, 8, 5]


def test_a_long_list_is_many_files(
    work: WorkList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [work.read(shard) for shard in range(work.num_shards)]
    monkeypatch.setattr(shards, "FILE_SHARDS", 2)
    many = WorkList(str(tmp_path / "many"))
    many.write(tables, SCHEMA, rows_per_shard=3)
    assert len(list((tmp_path / "many").glob("*.parquet"))) == 9
    rows = pa.concat_tables([many.read(shard) for shard in range(many.num_shards)])
    assert rows["value"].to_pylist() == list(range(53))


def test_a_list_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    work = WorkList(str(tmp_path / "list"))

    def rows() -> Iterator[pa.Table]:
        yield pa.Table.from_pylist([{"id": "a", "uri": "u", "value": 1}] * 2000, schema=SCHEMA)
        raise UserError("row 2001: is nothing")

    with pytest.raises(UserError):
        work.write(rows(), SCHEMA, rows_per_shard=4)
    assert not work.is_written
    work.write([SCHEMA.empty_table()], SCHEMA, rows_per_shard=4)
    assert not work.is_written


@given(count=st.integers(0, 3000), workers=st.integers(1, 50), most=st.integers(1, 100))
def test_runs_hold_each_shard_once_and_get_shorter(count: int, workers: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "MOST_RUNS", most)
        runs = list(run._runs(range(count), workers))
    assert [shard for part in runs for shard in part] == list(range(count))
    sizes = [len(part) for part in runs]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1:] in ([], [1])


def test_here(work: WorkList, tmp_path: Path, local_mode: None) -> None:
    out = tmp_path / "out"
    todo = work.pending(str(out))
    assert todo == list(range(7))
    results = list(run.run(todo, pools(work, out)))
    assert [r["shard"] for r in results] == todo
    assert sum(r["rows"] for r in results) == 45
    assert work.pending(str(out)) == []
    check(out)


def test_resume_runs_only_what_is_missing(work: WorkList, tmp_path: Path, local_mode: None) -> None:
    out = tmp_path / "out"
    results = run.run(work.pending(str(out)), pools(work, out))
    for _ in range(3):
        next(results)
    results.close()
    # As left by a kill between the two writes of a shard: errors written, part not yet.
    assert (out / "part-00001.parquet").exists()
    (out / "part-00001.parquet").unlink()
    todo = work.pending(str(out))
    assert todo == [1, 3, 4, 5, 6]
    list(run.run(todo, pools(work, out)))
    check(out)


@pytest.mark.cluster
def test_on_ray(work: WorkList, tmp_path: Path, ray_cluster: None) -> None:
    out = tmp_path / "out"
    results = list(run.run(work.pending(str(out)), pools(work, out)))
    assert sorted(r["shard"] for r in results) == list(range(7))
    check(out)


@pytest.mark.cluster
def test_what_is_done_is_passed_over(
    work: WorkList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    """As for a worker that was lost in the middle of a run of shards."""
    monkeypatch.setattr(run, "MOST_RUNS", 1)  # runs of several shards
    out = tmp_path / "out"
    list(run.run([0, 2], pools(work, out)))
    kept = (out / "part-00002.parquet").stat().st_mtime_ns
    is_done = partial(shards.is_written, str(out))
    results = list(run.run(range(7), pools(work, out), is_done, 1000))
    assert sorted(r["shard"] for r in results) == [1, 3, 4, 5, 6]
    assert (out / "part-00002.parquet").stat().st_mtime_ns == kept
    check(out)


@dataclass
class Refuses:
    """A stage that finds that the user gave it something wrong: at its start, or later."""

    early: bool

    def setup(self) -> None:
        if self.early:
            raise UserError("--net x: no such net")

    def __call__(self, rows: pa.Table) -> pa.Table:
        raise UserError("--net x: no such net")


@pytest.mark.parametrize("early", [True, False])
def test_users_errors_here(work: WorkList, tmp_path: Path, early: bool, local_mode: None) -> None:
    with pytest.raises(UserError, match=r"^--net x: no such net$"):
        list(run.run([0], [Pool("net", [Refuses(early)]), pools(work, tmp_path)[1]]))


@pytest.mark.cluster
@pytest.mark.parametrize("early", [True, False])
def test_users_errors_come_out_of_workers_as_they_are(
    work: WorkList, tmp_path: Path, early: bool, ray_cluster: None
) -> None:
    refuse = Pool("net", [shards.ReadShard(work), Refuses(early)], num_cpus=0.5)
    with pytest.raises(UserError) as error:
        list(run.run([0, 1, 2], [refuse, pools(work, tmp_path)[1]]))
    assert str(error.value) == "--net x: no such net"


def test_a_shard_done_again_without_errors_leaves_none(work: WorkList, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write = shards.WriteShard(str(out), ("id",), str(out / "errors"))
    rows = shards.ReadShard(work)(pa.table({"shard": [0]}))
    for errors in ({0: MediaError("sound", "took too long")}, {}):
        table = rows
        for name, column in Errors(rows.num_rows, errors).columns().items():
            table = table.append_column(name, column)
        write(table)
    assert shards.count_errors(str(out), str(out / "errors")) == 0
