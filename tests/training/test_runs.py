"""The run of a model is found again: from its folder, and from the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mmray.errors import UserError
from mmray.training import runs, tracking


@pytest.fixture
def trained(tmp_path: Path) -> tuple[tracking.TrackedRun, str]:
    """A finished run, and the folder of its model."""
    folder = tmp_path / "job" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    run = tracking.start(str(tmp_path / "job"), "net", {}, {})
    tracker = tracking.MlflowTracker(run)
    for step in (10, 20):
        tracker.metrics(step, {"train.loss": 1.0 / step, "val.loss": 2.0 / step})
    tracker.close()
    tracking.finish(run, str(folder), "mmray-found", {})
    return run, str(folder)


def test_from_the_folder_and_from_the_registry(trained: tuple[tracking.TrackedRun, str]) -> None:
    run, folder = trained
    client = MlflowClient(run.uri)
    mine = [v for v in client.search_model_versions("name='mmray-found'") if v.run_id == run.run_id]
    version = mine[0].version
    client.set_registered_model_alias("mmray-found", "best", version)
    for where in (
        folder,
        f"{folder}/",
        f"models:/mmray-found/{version}",
        "models:/mmray-found@best",
    ):
        assert runs.run_of(where) == run, where


def test_unknown_ones_have_none(tmp_path: Path, trained: tuple[tracking.TrackedRun, str]) -> None:
    run, folder = trained
    assert runs.run_of(str(tmp_path)) is None
    assert runs.run_of("official:sound8.npy") is None
    assert runs.history_of(str(tmp_path)) == {}
    with pytest.raises(UserError, match="models:/mmray-none/1 at sqlite:"):
        runs.run_of("models:/mmray-none/1")
    MlflowClient(run.uri).delete_run(run.run_id)
    MlflowClient(run.uri)._tracking_client.store._hard_delete_run(run.run_id)
    assert runs.run_of(folder) is None


def test_the_history_is_by_step(trained: tuple[tracking.TrackedRun, str]) -> None:
    history = runs.history_of(trained[1])
    assert history["train.loss"] == [(10, 0.1), (20, 0.05)]
    assert history["val.loss"] == [(10, 0.2), (20, 0.1)]


def test_a_file_goes_to_the_run_or_to_a_new_one(
    tmp_path: Path, trained: tuple[tracking.TrackedRun, str]
) -> None:
    run, folder = trained
    assert runs.log_file(folder, b"page", "a.html", "report") == run
    other = runs.log_file(str(tmp_path / "elsewhere"), b"page", "a.html", "report")
    assert other != run
    client = MlflowClient(run.uri)
    for one in (run, other):
        assert [a.path for a in client.list_artifacts(one.run_id, "report")] == ["report/a.html"]
        assert client.get_run(one.run_id).info.status == "FINISHED"
