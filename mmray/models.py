"""Model folders of every kind: finding one, and loading the predictor of its kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmray import storage
from mmray.errors import UserError

if TYPE_CHECKING:
    import torch

KINDS = {
    "soundnet": "mmray.soundnet.predict:SoundNet",
    "joint": "mmray.joint.predict:Tagger",
    "captioner": "mmray.captioner.predict:Captioner",
    "storyteller": "mmray.storyteller.predict:Storyteller",
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


def load_kind(where: str, kind: str, device: str = "auto", **options: Any) -> Any:
    """As `load_predictor`, of a model of one kind.

    Raises:
        UserError: it is a model of another kind.
    """
    found = "soundnet"
    if not where.startswith("official:"):
        where = str(resolve(where))
        found = read_config(where).get("kind", "")
    if found != kind:
        raise UserError(f"{where}: is a model of kind {found!r}, expected {kind!r}")
    return load_predictor(where, device=device, **options)


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


def read_config_of(folder: str, kind: str, version: int) -> dict[str, Any]:
    """As `read_config`, of a model of one kind and format.

    Raises:
        UserError: it is another one.
    """
    config = read_config(folder)
    found = config.get("kind"), config.get("format_version")
    if found != (kind, version):
        raise UserError(
            f"{folder}: holds a model of kind {found[0]!r}, format {found[1]!r}; expected "
            f"{kind!r}, format {version}"
        )
    return config


def choose_device(device: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UserError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"device is {device!r}, but torch finds no such GPU; use auto or cpu")
    return torch.device(device)
