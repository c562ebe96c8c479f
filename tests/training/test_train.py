"""A whole training in one process: the model folder, MLflow's record of it, and going on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.training import tracking
from mmray.training.checkpoint import Checkpoints
from mmray.training.train import train
from tests.training.tiny import job, write_dataset

pytestmark = pytest.mark.usefixtures("local_mode")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data"))


def the_run(out: Path) -> mlflow.entities.Run:
    return MlflowClient(tracking.tracking_uri()).get_run(
        storage.read_json(out / "mlflow_run.json")["run_id"]
    )


def test_model_folder_and_what_mlflow_knows(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained = train(job(data, out))
    assert trained.path == str(out / "model")
    config = storage.read_json(out / "model" / "config.json")
    assert config["training"]["dataset"] == Dataset(data).sha256
    assert config["training"]["steps"] == 20
    assert trained.metrics.keys() == {"loss", "accuracy"}

    run = the_run(out)
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.01"
    assert run.data.tags["mmray.dataset_sha256"] == Dataset(data).sha256
    client = MlflowClient(tracking.tracking_uri())
    logged = client.get_metric_history(run.info.run_id, "train.loss")
    assert [m.step for m in logged] == list(range(1, 21))
    assert [m.value for m in logged] == pytest.approx(trained.losses)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val.accuracy")] == [10, 20]
    assert [f.path for f in client.list_artifacts(run.info.run_id, "pictures")] == [
        "pictures/losses.png"
    ]

    where = f"models:/mmray-tiny/{trained.version}"
    for folder in (mlflow.artifacts.download_artifacts(where), tracking.download_model(where)):
        saved = load_file(Path(folder) / "model.safetensors")
        assert saved.keys() == load_file(out / "model" / "model.safetensors").keys()


def test_the_model_is_that_of_the_best_checkpoint(data: str, tmp_path: Path) -> None:
    trained = train(job(data, tmp_path, steps=30, lr=0.5, eval_every=1))
    state = Checkpoints(str(tmp_path)).newest()
    assert state is not None
    assert state.best_step is not None
    best = Checkpoints(str(tmp_path)).path(state.best_step)
    expected = load_file(Path(best) / "model.safetensors")
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        assert tensor.equal(expected[name]), name
    assert trained.metrics["loss"] == state.best == min(e["loss"] for e in state.evaluations)


def test_the_same_call_again_changes_nothing_and_overwrite_starts_afresh(
    data: str, tmp_path: Path
) -> None:
    first = train(job(data, tmp_path))
    run = the_run(tmp_path).info.run_id
    assert train(job(data, tmp_path)) == first
    assert the_run(tmp_path).info.run_id == run
    with pytest.raises(UserError, match="--overwrite"):
        train(job(data, tmp_path, lr=0.5))
    other = train(job(data, tmp_path, lr=0.5), overwrite=True)
    assert other.losses != first.losses
    assert the_run(tmp_path).info.run_id != run


def test_without_validation_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_dataset(tmp_path / "data", val=0)
    with caplog.at_level(logging.WARNING):
        trained = train(job(data, tmp_path / "out", steps=5))
    assert trained.metrics == {}
    assert "no rows of the split 'val'" in caplog.text
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_a_failed_run_is_marked_so_and_goes_on_as_the_same_run(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", bad=40)
    with pytest.raises(UserError, match="not finite"):
        train(job(data, tmp_path / "out"))
    run = the_run(tmp_path / "out")
    assert run.info.status == "FAILED"
    with pytest.raises(UserError, match="not finite"):
        train(job(data, tmp_path / "out"))
    assert the_run(tmp_path / "out").info.run_id == run.info.run_id


def test_bad_input_comes_before_any_work(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        train(job(str(tmp_path / "nothing"), tmp_path / "out"))
    with pytest.raises(UserError, match="--lr"):
        train(job(data, tmp_path / "out", lr=0.0))
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys, time
from mmray import runtime
from mmray.training.train import train
from tests.training.tiny import TinyTask, job
import dataclasses

@dataclasses.dataclass(frozen=True)
class Slow(TinyTask):
    def loss(self, model, batch):
        time.sleep(0.02)
        return super().loss(model, batch)

runtime.set_local_mode(True)
print("ready", flush=True)
trained = train(job(sys.argv[1], sys.argv[2], Slow(), steps=60))
print("steps", trained.steps, flush=True)
"""


def start(data: str, out: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, data, str(out)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(folder: Path, process: subprocess.Popen[str]) -> None:
    while not folder.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_driver_goes_on(data: str, tmp_path: Path) -> None:
    for step in (0, 5, 20, 35, 50):  # five different moments, the first before any checkpoint
        process = start(data, tmp_path)
        if step:
            wait_for(tmp_path / "checkpoints" / f"step_{step:08d}", process)
        else:
            assert process.stdout is not None
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    state = Checkpoints(str(tmp_path)).newest()
    assert state is not None
    assert 45 <= state.step < 60
    process = start(data, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "steps 60" in out
    whole = train(job(data, tmp_path / "whole", steps=60))
    resumed = Checkpoints(str(tmp_path)).newest()
    assert resumed is not None
    assert resumed.losses == whole.losses


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_first(data: str, tmp_path: Path) -> None:
    process = start(data, tmp_path)
    wait_for(tmp_path / "checkpoints" / "step_00000010", process)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    state = Checkpoints(str(tmp_path)).newest()
    assert state is not None
    assert 10 <= state.step < 60
    assert the_run(tmp_path).info.status == "KILLED"
