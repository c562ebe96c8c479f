"""Bringing the application of a config file up on a running Ray."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from mmray import storage
from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.serving.app import DEPLOYMENTS, INGRESS, ServeArgs, located
from mmray.serving.gate import check_host
from mmray.training.tracking import tracking_uri

POLL_S = 0.25
NOTE_S = 30.0  # after this long without an answer people wonder; Serve may wait for a GPU forever


def leave_out_missing(config: ServeDeploySchema) -> list[str]:
    """Take models and files that do not exist out of `config`; tell which.

    Raises:
        UserError: no model is left.
    """
    told = []
    for application in config.applications:
        models, search = application.args["models"], application.args.get("search") or {}
        for part in (models, search):
            for name, where in part.items():
                path = str(where or "").removeprefix("official:")
                if path and not path.startswith("models:/") and not storage.exists(path):
                    told.append(f"{name} ({path} is missing)")
                    part[name] = None
        if not any(models.values()):
            raise UserError(f"no model to serve: {', '.join(told)}; `make demo` trains some")
    return told


def locate(config: ServeDeploySchema) -> None:
    """Check what `config` names, and make its paths absolute in it.

    Raises:
        UserError: a model or file is missing, a model is of another kind, or Serve would listen
            where other machines reach it without asking for a key.
    """
    for application in config.applications:
        args = located(ServeArgs.model_validate(application.args))
        check_host(config.http_options.host, args.access)
        application.args = args.model_dump()
        # Serve refuses settings of a deployment that the application has not.
        served = {INGRESS, *(DEPLOYMENTS[name].name for name in args.models.given())}
        application.deployments = [d for d in application.deployments if d.name in served]


def deploy(config: ServeDeploySchema, stop: threading.Event | None = None) -> None:
    """Deploy and wait until every application answers, or `stop` is set.

    Raises:
        JobFailed: an application cannot start; the message is the error in it.
    """
    stop = stop or threading.Event()
    # What `serve run` does with a config file; Serve has no public call for it.
    client = serve_start(
        http_options=config.http_options.model_dump(), proxy_location=config.proxy_location
    )
    for application in config.applications:
        # A submitted job runs the code that came with it. Without this, the service would run
        # that of the job which first started Serve on the cluster.
        own, asked = _own_runtime_env(), application.runtime_env
        variables = {**own["env_vars"], **asked.get("env_vars", {})}
        application.runtime_env = {**own, **asked, "env_vars": variables}
    client.deploy_apps(config)
    wanted = {application.name for application in config.applications}
    next_note = time.monotonic() + NOTE_S
    while not stop.wait(POLL_S):
        states = serve.status().applications
        for name in wanted & states.keys():
            if states[name].status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise JobFailed(f"{name}: {_reason(states[name])}")
        if all(name in states and states[name].status == "RUNNING" for name in wanted):
            client.wait_for_proxies_serving()
            return
        if time.monotonic() > next_note:
            next_note += NOTE_S
            told = (d.message for a in states.values() for d in a.deployments.values())
            console.print("still starting ...", *filter(None, told))


def _own_runtime_env() -> dict[str, Any]:
    """What this process was started with that replicas need too: its code and its settings."""
    own = ray.get_runtime_context().runtime_env
    env = {name: own[name] for name in ("working_dir", "env_vars") if own.get(name)}
    # The default registry is a file below this process's working directory.
    tracking = {"MLFLOW_TRACKING_URI": tracking_uri()}
    return {**env, "env_vars": {**tracking, **env.get("env_vars", {})}}


def _reason(application: Any) -> str:
    """The error in what Serve says of a failure: the last line of a traceback."""
    messages = [application.message, *(d.message for d in application.deployments.values())]
    lines = [line.strip() for m in messages for line in m.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["Serve gives no reason"])[-1]
