"""Model folders of every kind: finding one, and loading the predictor of its kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmray import storage
from mmray.errors import UserError

KINDS = {
    "soundnet": "mmray.soundnet.predict:SoundNet",
    "joint": "mmray.joint.predict:Tagger",
}


def load_predictor(where: str, device: str = "auto", **options: Any) -> Any:
    """The predictor of the model at `where`; see `mmray.load`."""
    from importlib import import_module

    if where.startswith("official:"):
        kind = "soundnet"
    else:
        where = str(resolve(where))
        kind = read_config(where).get("kind", "")
        if kind not in KINDS:
            raise UserError(f"{where}: holds a model of kind {kind!r}; known: {', '.join(KINDS)}")
    module, name = KINDS[kind].split(":")
    predictor = getattr(import_module(module), name)
    return predictor.load(where, device=device, **options)


def absolute(where: str) -> str:
    """The same model such that workers, whatever their working directory, find it."""
    if where.startswith("official:"):
        return f"official:{storage.absolute(where.removeprefix('official:'))}"
    if where.startswith("models:/"):
        # The default registry is a file below this process's working directory.
        return where if os.environ.get("MLFLOW_TRACKING_URI") else resolve(where)
    return storage.absolute(where)


def resolve(where: str) -> str:
    """The folder of a model: `models:/NAME/VERSION` is fetched from the MLflow registry.

    Raises:
        UserError: the registry has no such model, or the folder is missing.
    """
    if where.startswith("models:/"):
        from mmray.training.tracking import download_model

        return str(download_model(where))
    if not storage.exists(where):
        raise UserError(
            f"{where}: no such model; expected a model folder, models:/NAME/VERSION "
            "or official:FILE"
        )
    return where


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        UserError: the folder is not one that mmray wrote.
    """
    path = storage.join(folder, "config.json")
    if not storage.exists(path):
        raise UserError(
            f"{folder}: is not a model folder (no config.json); mmray writes config.json and "
            "model.safetensors"
        )
    config = storage.read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object")
    return config
