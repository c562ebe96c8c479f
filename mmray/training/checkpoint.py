"""Checkpoints of a training run, from which it goes on whatever was killed.

    out/checkpoints/step_00000123/
        model.safetensors        parameters and buffers
        optimizer.safetensors    Adam's two moments of each parameter
        state.json               step, losses' file, settings, sizes of the files; written last

A folder counts only when its `state.json` is there and the files have the sizes it states, so a
checkpoint that a kill left half-written is passed over. No pickles.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mmray import storage
from mmray.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
LOSSES = "training.losses"
"""In the file of the optimizer: the loss of every step so far, float32 [step]."""


@dataclass
class State:
    """All of a run but its weights and moments.

    Args:
        step: optimizer steps done.
        settings: what the losses depend on; a run with others must not go on from here.
        losses: of every step, mean over the global batch.
        evaluations: one for each evaluation: `step` and the metrics.
        best: the value of the task's leading metric in the best evaluation; its step.
    """

    step: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_step: int | None = None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        out: the run's folder (path or URI), seen by all workers.
        keep: how many of the last to keep, beside the best.
    """

    def __init__(self, out: str, keep: int = 2) -> None:
        self.folder = storage.join(out, FOLDER)
        self.keep = keep

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint, then remove the ones no longer kept."""
        where = self.path(state.step)
        moments = _moments(model, optimizer)
        moments[LOSSES] = torch.tensor(state.losses, dtype=torch.float32)
        sizes = {
            MODEL: _write(storage.join(where, MODEL), dict(model.state_dict())),
            OPTIMIZER: _write(storage.join(where, OPTIMIZER), moments),
        }
        record = {k: v for k, v in vars(state).items() if k != "losses"}
        storage.write_json(storage.join(where, STATE), {**record, "sizes": sizes})
        self._prune(state)

    def newest(self) -> State | None:
        """The state of the newest whole checkpoint; None at the start of a run."""
        for step in reversed(self._steps()):
            if (state := self.read(step)) is not None:
                return state
            logger.warning("%s: is incomplete and is passed over", self.path(step))
        return None

    def read(self, step: int) -> State | None:
        """The state of the checkpoint of a step; None when there is none that is whole."""
        where = self.path(step)
        try:
            record = storage.read_json(storage.join(where, STATE))
            sizes = record.pop("sizes")
            if any(_size(storage.join(where, name)) != size for name, size in sizes.items()):
                return None
            state = State(**record)
        except storage.StorageFailed:
            raise  # it may be whole
        except (UserError, OSError, TypeError, KeyError, AttributeError):
            return None
        state.losses = _read(storage.join(where, OPTIMIZER))[LOSSES].tolist()
        return state

    def load_model(self, step: int, model: nn.Module) -> None:
        """Fill a model from the checkpoint of a step."""
        path = storage.join(self.path(step), MODEL)
        try:
            model.load_state_dict(_read(path))
        except RuntimeError as e:  # other layers than the model's
            raise UserError(f"{path}: does not fit the model ({e})") from e

    def load_optimizer(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fill an optimizer of `model`'s parameters from the checkpoint of a step."""
        tensors = _read(storage.join(self.path(step), OPTIMIZER))
        states: dict[int, dict[str, Tensor]] = {}
        for index, name in enumerate(_parameter_names(model, optimizer)):
            prefix = f"{name}."
            found = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
            states[index] = {k: t for k, t in found.items() if "." not in k}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})

    def path(self, step: int) -> str:
        """The folder of the checkpoint of a step."""
        return storage.join(self.folder, f"step_{step:08d}")

    def clear(self) -> None:
        """Remove all checkpoints of the run."""
        storage.remove(self.folder)

    def _steps(self) -> list[int]:
        matches = (re.fullmatch(r"step_(\d{8,})", n) for n in storage.list_folders(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def _prune(self, state: State) -> None:
        steps = [step for step in self._steps() if step <= state.step]
        for step in steps[: -self.keep]:
            if step != state.best_step:
                # The mark of a whole checkpoint goes first: a kill in between leaves no lie.
                storage.remove(storage.join(self.path(step), STATE))
                storage.remove(self.path(step))


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = _parameter_names(model, optimizer)
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}.{key}": value for index, s in state.items() for key, value in s.items()
    }


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in the optimizer's order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _write(uri: str, tensors: dict[str, Tensor]) -> int:
    # Clones, since safetensors refuses tensors that share memory.
    whole = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(whole)
    storage.write_bytes(uri, data)
    return len(data)


def _read(uri: str) -> dict[str, Tensor]:
    with storage.localized(uri) as path:
        return safetensors.torch.load_file(path)


@storage.patient
def _size(uri: str) -> int:
    fs, path = storage.filesystem(uri)
    return int(fs.size(path) or 0) if fs.exists(path) else -1
