"""MLflow by plain calls: one run a folder, whatever happens to the server in between."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mmray.errors import UserError
from mmray.training import tracking


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


def start(tmp_path: Path) -> tracking.TrackedRun:
    settings = {"lr": 0.1, "augment": {"mix": 0.5}, "long": "x" * 2000}
    return tracking.start(str(tmp_path), "net", settings, {"mmray.dataset_sha256": "abc"})


def test_a_run_is_gone_on_with_until_it_is_deleted(tmp_path: Path) -> None:
    run = start(tmp_path)
    assert start(tmp_path) == run
    MlflowClient(run.uri).delete_run(run.run_id)
    assert start(tmp_path) != run


def test_params_tags_and_commit(tmp_path: Path) -> None:
    run = start(tmp_path)
    data = MlflowClient(run.uri).get_run(run.run_id).data
    assert data.params["augment.mix"] == "0.5"
    assert len(data.params["long"]) == 500
    assert data.tags["mmray.dataset_sha256"] == "abc"
    here = Path(tracking.__file__).parent
    done = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True)
    expected = done.stdout.strip() if done.returncode == 0 else None
    assert data.tags.get("mlflow.source.git.commit") == expected


def test_finish_registers_once_and_can_be_repeated(tmp_path: Path, model: str) -> None:
    run = start(tmp_path)
    version = tracking.finish(run, model, "mmray-net", {"a.png": b"png"})
    assert tracking.finish(run, model, "mmray-net", {}) == version
    longer = tracking.finish(run, model, "mmray-net", {}, steps=20)
    assert longer != version  # what is registered stays what it is
    assert tracking.finish(run, model, "mmray-net", {}, steps=20) == longer
    other = tracking.start(str(tmp_path / "other"), "net", {}, {})
    assert tracking.finish(other, model, "mmray-net", {}) != version
    MlflowClient(run.uri).set_registered_model_alias("mmray-net", "best", str(version))
    for where in (f"models:/mmray-net/{version}", "models:/mmray-net@best"):
        folder = tracking.download_model(where)
        assert (folder / "model.safetensors").read_bytes() == b"weights"
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/mmray-net/{version}"))
    assert (folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("where", ["models:/net", "models:/net/one", "models:/", "net/1"])
def test_other_forms_are_refused(where: str) -> None:
    with pytest.raises(UserError, match="expected models:/NAME/VERSION"):
        tracking.download_model(where)


def test_looking_for_a_model_makes_no_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with pytest.raises(UserError, match="there is no registry at sqlite:"):
        tracking.download_model("models:/no-such-model/7")
    assert not path.exists()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    start(tmp_path)  # makes the registry
    with pytest.raises(UserError, match=r"models:/no-such-model/7 at .*MLFLOW_TRACKING_URI"):
        tracking.download_model("models:/no-such-model/7")


def test_a_tracker_that_cannot_log_says_so_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(tmp_path)
    with caplog.at_level(logging.WARNING):
        tracker = tracking.MlflowTracker(tracking.TrackedRun(run.uri, "no-such-run"))
        tracker.metrics(1, {"loss": 0.5})
        tracker.close()
    assert "step 1 is not logged" in caplog.text


def test_metrics_and_pictures_of_steps(tmp_path: Path) -> None:
    run = start(tmp_path)
    tracker = tracking.MlflowTracker(run)
    tracker.metrics(200, {"val.loss": 0.5})
    tracker.pictures(200, {"captions.png": b"png"})
    tracker.close()
    client = MlflowClient(run.uri)
    assert client.get_run(run.run_id).data.metrics == {"val.loss": 0.5}
    found = client.list_artifacts(run.run_id, "pictures/step-000200")
    assert [f.path for f in found] == ["pictures/step-000200/captions.png"]


def test_a_submitted_job_says_that_its_file_does_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unpacked = tmp_path / "working_dir_files"
    unpacked.mkdir()
    monkeypatch.chdir(unpacked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    start(tmp_path / "one")
    assert "MLFLOW_TRACKING_URI" not in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    start(tmp_path / "two")
    assert "name a server in the job's MLFLOW_TRACKING_URI" in caplog.text


def test_default_address_is_a_file_under_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    run = start(tmp_path / "out")
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    artifacts = MlflowClient(run.uri).get_run(run.run_id).info.artifact_uri
    assert artifacts.startswith(f"file://{tmp_path}/runs/mlflow-artifacts/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    assert tracking.tracking_uri() == "http://somewhere"


def test_nothing_of_mlflow_lands_in_the_working_directory(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    run = start(tmp_path / "out")
    version = tracking.finish(run, model, "mmray-elsewhere", {})
    tracking.download_model(f"models:/mmray-elsewhere/{version}")
    assert {p.name for p in tmp_path.iterdir()} - before == {"out"}
