"""Workers under Ray Train: the same losses as in one process, and dead workers are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

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
def test_a_worker_that_always_dies_fails_the_job(data: str, tmp_path: Path) -> None:
    missing = TinyTask(die_once=str(tmp_path / "no" / "such" / "folder"), die_at=2)
    with pytest.raises(JobFailed, match=r"--max-failures.*worker 0.*FileNotFoundError"):
        train(job(data, tmp_path / "out", missing, max_failures=0))


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_cluster_has() -> None:
    with pytest.raises(UserError, match=r"--num-workers 99: each worker needs a CPU.* has 4"):
        ray_train.num_workers(99)
    assert ray_train.num_workers(3) == 3


@pytest.mark.usefixtures("local_mode")
def test_local_mode_needs_no_ray() -> None:
    seen: list[object] = []

    def work(worker: ray_train.Worker, report: ray_train.Report) -> None:
        report((worker.rank, worker.world_size, worker.device.type))

    ray_train.launch(work, seen.append, out="unused", workers=ray_train.num_workers(5))
    assert seen[0][:2] == (0, 1)  # type: ignore[index]
