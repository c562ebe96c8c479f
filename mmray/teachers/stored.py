"""The backbone that a model was trained on, as its folder keeps it."""

from __future__ import annotations

from typing import Any

from mmray import storage
from mmray.errors import UserError
from mmray.teachers.backbone import Backbone

_INSIDE = "mmray:backbone-"


def keep_nets(backbone: dict[str, Any], where: str) -> dict[str, Any]:
    """Copy a backbone's own small nets into a model folder, which then needs nothing beside it.

    Args:
        backbone: as `describe_backbone` gives it.
        where: the model folder.

    Returns:
        The same with nets as `find_nets` finds them.
    """
    nets = []
    for i, spec in enumerate(backbone["nets"]):
        if spec.startswith("mmray:"):
            source = spec.removeprefix("mmray:")
            for name in ("config.json", "model.safetensors"):
                with storage.open_file(storage.join(source, name)) as f:
                    storage.write_bytes(storage.join(where, f"backbone-{i}", name), f.read())
            spec = f"{_INSIDE}{i}"
        nets.append(spec)
    return {**backbone, "nets": nets}


def find_nets(backbone: dict[str, Any], where: str) -> dict[str, Any]:
    """What `keep_nets` gave, with nets that are in the model folder `where` at their place."""
    nets = [
        f"mmray:{storage.join(where, spec.removeprefix('mmray:'))}"
        if spec.startswith(_INSIDE)
        else spec
        for spec in backbone["nets"]
    ]
    return {**backbone, "nets": nets}


def load_backbone(backbone: dict[str, Any], device: str, threads: int) -> Backbone:
    """The nets that made a model's features.

    Raises:
        UserError: nets of these names have other weights now.
    """
    nets = Backbone(backbone["nets"], backbone["fit"], device, threads)
    found = [nets[spec].weights_sha256 for spec in backbone["nets"]]
    if found != backbone["weights_sha256"]:
        raise UserError(
            f"{', '.join(backbone['nets'])}: has other weights than the net that this "
            "model was trained on; prepare the pictures and train again"
        )
    return nets


def check_same_nets(wanted: dict[str, Any], found: dict[str, Any], uri: str) -> None:
    """Refuse features that other nets made than a model's.

    Args:
        wanted: the model's backbone.
        found: the one that made the features.
        uri: of the dataset.

    Raises:
        UserError: names both.
    """

    def name(backbone: dict[str, Any]) -> str:
        pairs = zip(backbone["nets"], backbone["weights_sha256"], strict=True)
        nets = ", ".join(f"{net} (weights {sha256[:8]})" for net, sha256 in pairs)
        return f"{nets}, {backbone['fit']}"

    if any(wanted[key] != found[key] for key in ("weights_sha256", "fit", "dim")):
        raise UserError(
            f"{uri}: its features are of {name(found)}; the model's are of {name(wanted)}; "
            "prepare the pictures with the model's --backbone and --fit, or train a model on this "
            "dataset"
        )
