"""Reading checkpoints that others wrote, without running anything that is in them."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmray import storage
from mmray.errors import UserError

# Before version 0.2 torchvision named the layers of DenseNet `norm.1`, now `norm1`.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_checkpoint(uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint that `torch.save` wrote (any version of its format).

    Args:
        uri: the file. It holds a state dict, or a dict with one under `state_dict` or `model`,
            as training scripts write it. The prefixes `module.` of DataParallel are taken off.

    Returns:
        The state dict, and what else was in the file (for example `arch`).

    Raises:
        UserError: the file is missing, or is not such a checkpoint, or holds anything but
            tensors and plain values (loading it could run code).
    """
    if not storage.exists(uri):
        raise UserError(f"{uri}: no such file; expected a PyTorch checkpoint")
    with storage.localized(uri) as path:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as e:
            raise UserError(
                f"{uri}: is not a PyTorch checkpoint with nothing but weights in it "
                f"({_first_sentence(e)})"
            ) from e
    if not isinstance(content, dict):
        raise UserError(f"{uri}: holds a {type(content).__name__}; expected a state dict")
    state, rest = content, {}
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            state, rest = content[key], {k: v for k, v in content.items() if k != key}
            break
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{uri}: holds no state dict; its keys are {_some(list(map(str, state)))}")
    cleaned = OrderedDict((_clean(str(k)), v) for k, v in state.items())
    # Versions of the layers, by which torch reads states of older ones.
    versions = getattr(state, "_metadata", {})
    cleaned._metadata = {_clean(k): v for k, v in versions.items()}  # type: ignore[attr-defined]
    return cleaned, rest


def read_safetensors(uri: str) -> dict[str, Tensor]:
    """Read a `.safetensors` file.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not storage.exists(uri):
        raise UserError(f"{uri}: no such file")
    with storage.localized(uri) as path:
        try:
            return load_file(path)
        except (SafetensorError, OSError) as e:
            raise UserError(f"{uri}: is not a whole safetensors file ({e})") from e


def fill(net: nn.Module, state: dict[str, Tensor], uri: str, what: str) -> None:
    """Put a state dict into a net; every weight must be there and fit.

    Raises:
        UserError: the file is a checkpoint of another net than `what`.
    """
    wanted = net.state_dict()
    # Checkpoints from before torch 0.4.1 lack this counter, which only training needs.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in wanted]
    if missing or unknown:
        parts = [f"it lacks {_some(missing)}"] if missing else []
        parts += [f"it has {_some(unknown)}"] if unknown else []
        raise UserError(f"{uri}: is not a checkpoint of {what}: {' and '.join(parts)}")
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{uri}: is not a checkpoint of {what}: {key} has the shape "
                f"{list(value.shape)}, expected {list(wanted[key].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{uri}: {key} holds NaN or infinity, so the net cannot be used")
    try:
        net.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as e:
        raise UserError(f"{uri}: is not a checkpoint of {what}: {_first_sentence(e)}") from e


def _clean(key: str) -> str:
    """The name that torchvision gives this weight today."""
    key = ".".join(part for part in key.split(".") if part != "module")
    return _OLD_DENSENET.sub(r"\1\2", key)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "none"


def _first_sentence(error: Exception) -> str:
    """Torch explains at length how to load unsafe files; the first sentence says what is wrong."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:160]
