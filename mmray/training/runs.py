"""The MLflow run that made a model: finding it again, reading its curves, adding files to it."""

from __future__ import annotations

import contextlib
import re

from mmray import storage
from mmray.training.tracking import (
    TrackedRun,
    client_for,
    experiment,
    log_bytes,
    named_errors,
    note,
    tracking_uri,
)


def run_of(where: str) -> TrackedRun | None:
    """The run that made a model; None where that is not known, or the run is gone.

    Args:
        where: a model folder as a training job leaves it, or `models:/NAME/VERSION` (or @ALIAS).

    Raises:
        UserError: the registry has no such model.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    found = None
    if match := re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", where):
        name, version, alias = match.groups()
        with named_errors(f"{where} at {uri}"):
            client = client_for(uri)
            if alias:
                found = client.get_model_version_by_alias(name, alias).run_id
            else:
                found = client.get_model_version(name, version).run_id
    elif not where.startswith("official:"):
        out = storage.absolute(where).rpartition("/")[0]
        if storage.exists(note(out)):
            noted = storage.read_json(note(out))
            found = noted.get("run_id") if noted.get("tracking_uri") == uri else None
    if not found:
        return None
    with contextlib.suppress(MlflowException):
        client_for(uri).get_run(found)
        return TrackedRun(uri, found)
    return None


def history_of(where: str) -> dict[str, list[tuple[int, float]]]:
    """The metrics of a model's training by name, as (step, value); empty where none are known."""
    run = run_of(where)
    if run is None:
        return {}
    client = client_for(run.uri)
    names = client.get_run(run.run_id).data.metrics
    found = {}
    for name in sorted(names):
        points = client.get_metric_history(run.run_id, name)
        found[name] = [*{p.step: p.value for p in points}.items()]
        found[name].sort()
    return found


def log_file(where: str, data: bytes, name: str, folder: str) -> TrackedRun:
    """Add a file to the run that made a model; to a new run where that is not known.

    Raises:
        UserError: the tracking server cannot be used.
    """
    run = run_of(where)
    uri = tracking_uri()
    with named_errors(uri):
        client = client_for(uri)
        if run is None:
            made = client.create_run(
                experiment(client), run_name=folder, tags={"mmray.model": where}
            )
            run = TrackedRun(uri, made.info.run_id)
            log_bytes(client, run.run_id, data, name, folder)
            client.set_terminated(run.run_id)
        else:
            log_bytes(client, run.run_id, data, name, folder)
    return run
