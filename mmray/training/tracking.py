"""MLflow, by plain calls: what a run was, how it went, and the model it made.

The driver starts a run and ends it; the worker of rank 0 logs metrics. Without
`MLFLOW_TRACKING_URI` everything goes to an SQLite file under `runs/`. The id of a run is kept in
the folder that the job writes, so a run that was killed goes on as the same MLflow run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmray import runtime, storage
from mmray.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_Item = tuple[int, Mapping[str, float], Mapping[str, bytes]]  # step, metrics, pictures

EXPERIMENT = "mmray"
RUN_FILE = "mlflow_run.json"
LONGEST_PARAM = 500


class Tracker(Protocol):
    """Takes what a run reports while it goes on."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Log PNG files, by name, that show what was learned up to a step."""

    def close(self) -> None:
        """Wait until all is logged."""


class NullTracker:
    """Tracks nothing: for every worker but the first."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run, so described that any worker can log to it."""

    uri: str
    run_id: str


class MlflowTracker:
    """Logs to an MLflow run, in a thread of its own, so that training never waits."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._thread = threading.Thread(target=self._log, name="mmray-mlflow", daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        self._queue.put((step, dict(values), {}))

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Log PNG files, as `pictures/step-000200/NAME`."""
        self._queue.put((step, {}, pictures))

    def close(self) -> None:
        """Wait until all is logged."""
        self._queue.put(None)
        self._thread.join()

    def _log(self) -> None:
        try:
            client = client_for(self.run.uri)
        except Exception as e:  # a tracker that cannot be reached must not end the training
            logger.warning("MLflow at %s: metrics are not logged (%s)", self.run.uri, e)
            return
        from mlflow.entities import Metric

        while (item := self._queue.get()) is not None:
            step, values, pictures = item
            now = int(time.time() * 1000)
            batch = [Metric(name, value, now, step) for name, value in values.items()]
            try:
                if batch:
                    client.log_batch(self.run.run_id, metrics=batch)
                for name, png in pictures.items():
                    log_bytes(client, self.run.run_id, png, name, f"pictures/step-{step:06d}")
            except Exception as e:
                logger.warning("MLflow at %s: step %d is not logged (%s)", self.run.uri, step, e)


def tracking_uri() -> str:
    """Where runs are tracked: `$MLFLOW_TRACKING_URI`, else an SQLite file under `runs/`."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return f"sqlite:///{Path('runs').absolute()}/mlflow.db"


def start(out: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> TrackedRun:
    """Start the MLflow run of the job that writes `out`, or go on with the one begun there.

    Args:
        out: the job's folder.
        name: of the run.
        params: all settings; nested ones are flattened with dots.
        tags: such as the hash of the dataset; the git commit is added.

    Raises:
        UserError: the tracking server cannot be used.
    """
    uri = tracking_uri()
    if runtime.is_upload() and not os.environ.get("MLFLOW_TRACKING_URI"):
        logger.warning(
            "MLflow: %s lies in a copy of the upload, which Ray removes; name a server in the "
            "job's MLFLOW_TRACKING_URI (docs/cluster.md)",
            uri,
        )
    with named_errors(uri):
        client = client_for(uri)
        if storage.exists(note(out)) and (
            found := _go_on(client, uri, storage.read_json(note(out)))
        ):
            return found
        all_tags = {**tags, **_git(), "mmray.out": out, "mlflow.source.name": name}
        run = client.create_run(experiment(client), run_name=name, tags=all_tags)
        for key, value in _flat(params).items():
            client.log_param(run.info.run_id, key, str(value)[:LONGEST_PARAM])
    storage.write_json(note(out), {"tracking_uri": uri, "run_id": run.info.run_id})
    return TrackedRun(uri, run.info.run_id)


def note(out: str) -> str:
    """The file in a job's folder that names its run."""
    return storage.join(out, RUN_FILE)


def finish(
    run: TrackedRun, model: str, register_as: str, pictures: Mapping[str, bytes], steps: int = 0
) -> str | None:
    """End a run: log the model folder and pictures, and register the model.

    Args:
        run: as given by `start`.
        model: the model folder (path or URI).
        register_as: name in the model registry, for example `mmray-soundnet`.
        pictures: PNG files by name.
        steps: after which it is the model; a run that goes on has a version for each end.

    Returns:
        The model's version; the one that it has already when the run was ended there before.
    """
    with named_errors(run.uri):
        client = client_for(run.uri)
        from mlflow.exceptions import MlflowException

        for name, png in pictures.items():
            log_bytes(client, run.run_id, png, name, "pictures")
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(register_as)
        versions = client.search_model_versions(f"name='{register_as}'")
        mine = [v for v in versions if v.run_id == run.run_id]
        same = [v for v in mine if v.tags.get("mmray.steps") == str(steps)]
        if not same:
            # A version never changes: one that others may serve already keeps its files.
            path = f"model-{steps}" if mine else "model"
            _log_folder(client, run.run_id, model, path)
            source = f"{client.get_run(run.run_id).info.artifact_uri}/{path}"
            tags = {"mmray.steps": str(steps)}
            same = [client.create_model_version(register_as, source, run.run_id, tags=tags)]
        client.set_terminated(run.run_id)
    return str(same[0].version)


def _log_folder(client: MlflowClient, run_id: str, where: str, path: str) -> None:
    """Log a model folder, with the folders in it."""
    for file in storage.walk(where):
        folder, _, name = f"{path}/{file}".rpartition("/")
        with storage.open_file(storage.join(where, file)) as f:
            log_bytes(client, run_id, f.read(), name, folder)


def stop(run: TrackedRun, error: BaseException) -> None:
    """Mark a run as failed, or as killed when the user or the system stopped it."""
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    with contextlib.suppress(Exception):  # the error that ended the run matters more
        client_for(run.uri).set_terminated(run.run_id, status=status)


def download_model(where: str) -> Path:
    """Fetch a model folder from the registry.

    Args:
        where: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Returns:
        A local folder.

    Raises:
        UserError: the registry has no such model.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", where)
    if not match:
        raise UserError(f"{where}: expected models:/NAME/VERSION or models:/NAME@ALIAS")
    name, version, alias = match.groups()
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        # Looking into it would make it.
        raise UserError(f"{where}: there is no registry at {uri}; set MLFLOW_TRACKING_URI")
    with named_errors(f"{where} at {uri}"):
        client = client_for(uri)
        from mlflow.artifacts import download_artifacts

        if alias:
            version = client.get_model_version_by_alias(name, alias).version
        source = client.get_model_version_download_uri(name, version)
        return Path(download_artifacts(source, tracking_uri=uri))


def _go_on(client: MlflowClient, uri: str, found: Mapping[str, str]) -> TrackedRun | None:
    from mlflow.exceptions import MlflowException

    if found.get("tracking_uri") != uri:
        return None
    try:
        client.update_run(found["run_id"], status="RUNNING")
    except (MlflowException, KeyError):
        return None  # deleted there in the meantime
    return TrackedRun(uri, found["run_id"])


def client_for(uri: str) -> MlflowClient:
    """A client of a tracking server and its registry."""
    _quiet()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI", uri))


def _quiet() -> None:
    """Keep MLflow from talking of its database's migrations and its banner."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def experiment(client: MlflowClient) -> str:
    """The id of mmray's experiment, which is made when it is missing."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if client.tracking_uri.startswith("sqlite:///"):  # else MLflow takes the working directory
        folder = Path(client.tracking_uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
        location = folder.absolute().as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


@contextlib.contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into a `UserError` that names the server."""
    _quiet()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as e:
        raise UserError(f"MLflow: {uri}: {e} (see MLFLOW_TRACKING_URI)") from e


def log_bytes(client: MlflowClient, run_id: str, data: bytes, name: str, folder: str) -> None:
    """Log a file of a run."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mmray-") as local:
        path = Path(local) / name
        path.write_bytes(data)
        client.log_artifact(run_id, str(path), folder)


def _git() -> dict[str, str]:
    """The commit of the code that runs: from its git checkout, else `$MMRAY_GIT_COMMIT`."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        commit = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    # A submitted job runs from a copy without `.git`.
    commit = commit or os.environ.get("MMRAY_GIT_COMMIT", "")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
