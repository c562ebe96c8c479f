"""Reading `serve_config.yaml` strictly: Serve itself drops keys that it does not know."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from mmray.errors import UserError
from mmray.serving.app import ServeArgs

# The parts of the file that are read here, and the model that each part must fit.
NESTED: dict[type[BaseModel], dict[str, type[BaseModel]]] = {
    ServeDeploySchema: {
        "http_options": HTTPOptionsSchema,
        "logging_config": LoggingConfig,
        "applications": ServeApplicationSchema,
    },
    ServeApplicationSchema: {
        "args": ServeArgs,
        "deployments": DeploymentSchema,
        "logging_config": LoggingConfig,
    },
    DeploymentSchema: {
        "autoscaling_config": AutoscalingConfig,
        "ray_actor_options": RayActorOptionsSchema,
        "logging_config": LoggingConfig,
    },
}


def read_config(path: str | Path) -> ServeDeploySchema:
    """Read a Serve config file for mmray's application.

    Raises:
        UserError: it is missing, is no YAML, has a key that Serve does not know, or a value that
            does not fit; the message names the file and the key.
    """
    try:
        raw = yaml.safe_load(Path(path).read_bytes())
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    except yaml.YAMLError as e:
        raise UserError(f"{path}: is not YAML ({' '.join(str(e).split())})") from e
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a Serve config, a mapping with `applications`")
    for unknown in unknown_keys(raw, ServeDeploySchema):
        raise UserError(f"{path}: {unknown}")
    try:
        config = ServeDeploySchema.model_validate(raw)
        for application in config.applications:
            ServeArgs.model_validate(application.args)
    except ValidationError as e:
        raise UserError(f"{path}: {_first_error(e)}") from e
    return config


def unknown_keys(raw: Any, schema: type[BaseModel], where: str = "") -> list[str]:
    """One message for each key in `raw` that `schema` has no field for."""
    if isinstance(raw, list):
        each = (unknown_keys(item, schema, f"{where}[{i}]") for i, item in enumerate(raw))
        return [message for messages in each for message in messages]
    if not isinstance(raw, dict):
        return []  # a value of the wrong type is for the schema's own validation
    told = []
    for key, value in raw.items():
        at = f"{where}.{key}" if where else str(key)
        if key not in schema.model_fields:
            near = difflib.get_close_matches(str(key), schema.model_fields, n=1)
            told.append(f"{at} is not a known key" + (f"; did you mean {near[0]}?" if near else ""))
        elif nested := NESTED.get(schema, {}).get(key):
            told += unknown_keys(value, nested, at)
    return told


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
