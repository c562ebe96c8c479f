"""Workers under Ray Train: the same losses as in one process, and dead workers are replaced."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.exceptions import ActorUnavailableError
from ray.train import ControllerError
from torch import nn

from mmray import runtime
from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.training import ray_train
from mmray.training.train import train
from tests.training.tiny import TinyTask, job, write_dataset

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data"))


def losses_here(data: str, out: Path) -> list[float]:
    runtime.set_local_mode(True)
    try:
        return train(job(data, out)).losses
    finally:
        runtime.set_local_mode(False)


class DyingTask(TinyTask):
    """Dies at three steps, once at each."""

    def _perhaps_die(self, model: nn.Module) -> None:
        for step in (6, 11, 16):
            once = TinyTask(die_once=f"{self.die_once}{step}", die_at=step)
            TinyTask._perhaps_die(once, model)


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_one_of_which_dies(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = TinyTask(die_once=str(tmp_path / "died"), die_at=12)
    trained = train(job(data, tmp_path / "two", dying, num_workers=2))
    assert (tmp_path / "died").exists()
    assert trained.steps == 20
    assert len(trained.losses) == 20
    assert trained.losses == pytest.approx(losses_here(data, tmp_path / "one"), abs=1e-4)
    assert "training: step 20/20" in capsys.readouterr().out  # what workers report is shown here
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "checkpoints",
        "mlflow_run.json",
        "model",
    ]


@pytest.mark.usefixtures("ray_cluster")
def test_a_users_error_in_a_worker_ends_the_job_at_once(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", bad=40)
    with pytest.raises(UserError, match=r"is not finite.*row040"):
        train(job(data, tmp_path / "out"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_shard_is_named_and_ends_the_job_at_once(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    shard = tmp_path / "data" / "part-00001.parquet"
    column = pq.ParquetFile(shard).metadata.row_group(2).column(2)
    whole = bytearray(shard.read_bytes())
    at = column.data_page_offset + column.total_compressed_size // 2
    whole[at : at + 60] = b"poison" * 10  # where the footer does not tell
    shard.write_bytes(whole)
    # One of two workers reads it; the other one waits for it, and is stopped.
    with pytest.raises(UserError, match=r"part-00001\.parquet: row group \d is damaged"):
        train(job(data, tmp_path / "out", num_workers=2))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_may_die_as_often_as_there_is_progress(data: str, tmp_path: Path) -> None:
    dying = DyingTask(die_once=str(tmp_path / "died"))
    trained = train(job(data, tmp_path / "out", dying, max_failures=1))
    assert len(list(tmp_path.glob("died*"))) == 3
    assert trained.losses == pytest.approx(losses_here(data, tmp_path / "one"), abs=1e-4)


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_always_dies_fails_the_job(data: str, tmp_path: Path) -> None:
    missing = TinyTask(die_once=str(tmp_path / "no" / "such" / "folder"), die_at=2)
    with pytest.raises(JobFailed, match=r"--max-failures.*worker 0.*FileNotFoundError"):
        train(job(data, tmp_path / "out", missing, max_failures=0))


class Losing:
    """A trainer that is lost so many times as Ray Train starts or stops its workers."""

    def __init__(self, times: int) -> None:
        self.left, self.fits = times, 0

    def fit(self) -> None:
        self.fits += 1
        if self.left:
            self.left -= 1
            raise ControllerError(ActorUnavailableError("Socket closed", None))


@pytest.mark.parametrize(("times", "max_failures"), [(2, 2), (2, 1), (1, 0)])
def test_ray_train_may_give_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int, max_failures: int
) -> None:
    trainer = Losing(times)
    monkeypatch.setattr(ray_train, "_trainer", lambda *_: trainer)

    def launch() -> None:
        ray_train._fit(print, None, str(tmp_path), 2, max_failures)

    if times > max_failures:
        with pytest.raises(JobFailed, match=rf"{max_failures} new starts.*lost.*Socket closed"):
            launch()
    else:
        launch()
    assert trainer.fits == min(times, max_failures) + 1


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_cluster_has() -> None:
    with pytest.raises(UserError, match=r"--num-workers 99: each worker needs a CPU.* has 4"):
        ray_train.num_workers(99)
    assert ray_train.num_workers(3) == 3


@pytest.mark.usefixtures("ray_cluster")
def test_an_elastic_training_waits_for_its_nodes(caplog: pytest.LogCaptureFixture) -> None:
    assert ray_train.num_workers(elastic=(2, 99)) == (2, 99)
    assert not caplog.text
    assert ray_train.num_workers(elastic=(5, 99)) == (5, 99)
    assert "--elastic 5 99: each worker needs a CPU, and the cluster has 4" in caplog.text


@pytest.mark.usefixtures("ray_cluster")
def test_an_elastic_training_takes_what_there_is(data: str, tmp_path: Path) -> None:
    trained = train(job(data, tmp_path / "many", elastic=(1, 3)))
    assert trained.losses == pytest.approx(losses_here(data, tmp_path / "one"), abs=1e-4)
    with pytest.raises(UserError, match=r"--batch-size 2 .* 3 workers"):
        train(job(data, tmp_path / "few", elastic=(1, 3), batch_size=2))


@pytest.mark.usefixtures("local_mode")
def test_local_mode_needs_no_ray() -> None:
    seen: list[object] = []

    def work(worker: ray_train.Worker, report: ray_train.Report) -> None:
        report((worker.rank, worker.world_size, worker.device.type))

    ray_train.launch(work, seen.append, out="unused", workers=ray_train.num_workers(5))
    assert seen[0][:2] == (0, 1)  # type: ignore[index]


def test_the_line_says_how_many_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"CPU": 16, "GPU": 2}
    monkeypatch.setattr(ray_train, "_resource", lambda name: have[name])
    assert ray_train.describe(2) == (
        "workers: 2 x training (one for each GPU), on 16 CPUs and 2 GPUs"
    )
    assert "2 x training (as told)" in ray_train.describe(2, wanted=2)
    assert "2 to 8 x training (as nodes come and go)" in ray_train.describe((2, 8))
