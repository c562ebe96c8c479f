"""The SoundNet model, and the folder that keeps one.

Both published nets (8 and 5 layers) as one class; what differs is in `config.ARCHITECTURES`.
BatchNorm's epsilon and momentum and the initial weights are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray import storage
from mmray.errors import UserError
from mmray.models import read_config
from mmray.soundnet.config import Layer, SoundNetConfig

WEIGHTS = "model.safetensors"


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, layer: Layer, channels_below: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            channels_below, layer.channels, layer.kernel, layer.stride, padding=layer.left
        )
        self.norm = nn.BatchNorm1d(layer.channels, eps=1e-5, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, L] -> [B, channels, cells]."""
        return F.relu(self.norm(self.conv(x)))


class SoundNetModel(nn.Module):
    """A SoundNet with up to two heads.

    New weights are drawn from torch's global generator: convolutions N(0, 0.01) without bias,
    BatchNorm gains N(1, 0.02).

    Args:
        config: which layers and heads.
    """

    def __init__(self, config: SoundNetConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = nn.ModuleDict()
        channels = 1
        for layer in config.trunk:
            self.trunk[layer.name] = (
                nn.MaxPool1d(layer.kernel, layer.stride)
                if layer.is_pool
                else ConvBlock(layer, channels)
            )
            channels = layer.channels
        head = config.head
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv1d(channels, len(classes), head.kernel, head.stride)
                for name, classes in config.classes.items()
            }
        )
        self.apply(_initialise)

    def walk(
        self, wave: Tensor, last: str | None = None, trunk: nn.ModuleDict | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Run the net layer by layer, as far as `last` or to the heads.

        Args:
            wave: float [B, samples] in [-1, 1].
            last: the layer to stop after; default all.
            trunk: run in place of the model's own: the same function, for example folded.

        Yields:
            The name and the output [B, channels, cells] of each layer: convolutions after their
            ReLU, and the heads' logits as `objects` and `scenes`.
        """
        x = wave.unsqueeze(1) * self.config.scale
        for name, module in (trunk or self.trunk).items():
            x = module(x)
            yield name, x
            if name == last:
                return
        x = self.below_heads(x, wave.shape[-1])
        for name, head in self.heads.items():
            yield name, head(x)

    def below_heads(self, x: Tensor, samples: int) -> Tensor:
        """What the heads' convolutions go over: the last trunk layer [B, C, L], padded.

        Aligned heads do not see the last cell (see `SoundNetConfig.inside`); the published ones
        keep the published lengths, and outputs that see it are left out later.
        """
        layer = self.config.head
        if self.config.aligned:
            x = x[..., : self.config.inside(samples)]
        return F.pad(x, (layer.left, layer.right))

    def layers(self, wave: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """All layers' outputs by name; arguments as of `walk`."""
        return dict(self.walk(wave, last))

    def forward(self, wave: Tensor, frame_times: Tensor, window_s: Tensor) -> dict[str, Tensor]:
        """What each head says about each frame.

        Args:
            wave: float [B, samples] in [-1, 1], at the config's sample rate.
            frame_times: [B, T], the frames' times in seconds from the start of the waveform.
            window_s: [B], seconds of sound that belong to a frame.

        Returns:
            For each head (`objects`, `scenes`) the logits, float32 [B, T, classes]. An aligned
            head's logits are averaged over its cells, each by its overlap with
            [t - window/2, t + window/2]; an unaligned head's cells are tied to the frames by
            their position, as in the published code.
        """
        steps = self.config.head_steps(wave.shape[-1])
        logits = {name: x[..., :steps] for name, x in self.walk(wave) if name in self.heads}
        return {name: self.at_frames(x, frame_times, window_s) for name, x in logits.items()}

    def at_frames(self, logits: Tensor, frame_times: Tensor, window_s: Tensor) -> Tensor:
        """A head's logits [B, classes, cells] at frames, as float32 [B, T, classes]."""
        logits = logits.float()
        if self.config.aligned:
            centres, spacing = self.cell_times(logits.shape[-1])
            weights = overlaps(centres.to(logits.device), spacing, frame_times, window_s)
            # The average of a few logits is not worth half precision.
            with torch.autocast(logits.device.type, enabled=False):
                return torch.einsum("bts,bks->btk", weights.to(logits.dtype), logits)
        cells, frames = logits.shape[-1], frame_times.shape[1]
        position = (torch.arange(frames, device=logits.device) + 0.5) * cells / frames
        return logits.index_select(-1, position.long()).transpose(1, 2)

    def cell_times(self, cells: int) -> tuple[Tensor, float]:
        """Centres of the heads' cells in seconds, float64 [cells], and their spacing."""
        name = next(iter(self.heads))
        spacing = self.config.geometry(name).stride / self.config.sample_rate
        return self.layer_times(name, cells), spacing

    def layer_times(self, layer: str, cells: int) -> Tensor:
        """Seconds at which the first `cells` cells of a layer are centred, float64 [cells]."""
        geometry = self.config.geometry(layer)
        index = torch.arange(cells, dtype=torch.float64)
        return (geometry.first_centre + index * geometry.stride) / self.config.sample_rate


def overlaps(centres: Tensor, spacing: float, times: Tensor, window_s: Tensor) -> Tensor:
    """How much of each frame's window falls on each cell, summing to 1 over cells.

    A cell stands for the time from half a spacing before its centre to half a spacing after it.

    Args:
        centres: the cells' centres in seconds, [S], evenly spaced.
        spacing: seconds between centres.
        times: the frames' times, [B, T].
        window_s: the frames' windows, [B], positive.

    Returns:
        [B, T, S]. A frame outside all cells takes the nearest one.
    """
    half = (window_s / 2)[:, None, None].to(centres.dtype)
    # Clamping keeps at least half a window on the cells, so the sum below is never 0.
    t = times.to(centres.dtype).clamp(centres[0] - spacing / 2, centres[-1] + spacing / 2)
    t = t[:, :, None]
    low = torch.maximum(t - half, centres - spacing / 2)
    high = torch.minimum(t + half, centres + spacing / 2)
    shared = (high - low).clamp_min(0.0)
    return shared / shared.sum(-1, keepdim=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d):
        nn.init.normal_(module.weight, 0.0, 0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def save_model(
    where: str | Path, model: SoundNetModel, training: dict[str, Any] | None = None, card: str = ""
) -> None:
    """Write a model folder: `model.safetensors`, `README.md`, and last `config.json`.

    Args:
        where: the folder (path or URI); made when missing.
        model: the model, on any device.
        training: how it was trained, for `config.json`; any JSON.
        card: text of the model card; a short one is written by default.
    """
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    storage.write_bytes(storage.join(where, WEIGHTS), safetensors.torch.save(weights))
    storage.write_bytes(storage.join(where, "README.md"), (card or _card(model)).encode())
    config = {**model.config.to_dict(), "training": training or {}}
    storage.write_json(storage.join(where, "config.json"), config)


def load_model(where: str | Path) -> SoundNetModel:
    """Read a model folder, in evaluation mode and on the CPU.

    Raises:
        UserError: the folder is missing, of another kind, or damaged; the message names the file.
    """
    config = SoundNetConfig.from_dict(read_config(where), storage.join(where, "config.json"))
    model = SoundNetModel(config)
    with storage.localized(storage.join(where, WEIGHTS)) as path:
        load_weights(model, path, storage.join(where, WEIGHTS))
    return model.eval()


def load_weights(model: SoundNetModel, path: Path, name: str) -> None:
    """Fill a model from a safetensors file.

    Args:
        model: what to fill.
        path: the local file.
        name: what messages call the file.

    Raises:
        UserError: the file is missing, is not safetensors, or does not fit the model.
    """
    if not path.is_file():
        raise UserError(f"{name}: is missing; a model folder holds config.json and {WEIGHTS}")
    try:
        weights = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as e:
        raise UserError(
            f"{name}: is not a whole safetensors file ({e}); copy or train the model again"
        ) from e
    expected = model.state_dict()
    if missing := sorted(expected.keys() - weights.keys()):
        raise UserError(f"{name}: lacks the tensor {missing[0]}, which its config.json asks for")
    if unknown := sorted(weights.keys() - expected.keys()):
        raise UserError(f"{name}: has the tensor {unknown[0]}, unknown to its config.json")
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"{name}: {key} has shape {list(tensor.shape)}, its config.json asks for "
                f"{list(expected[key].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name}: {key} holds NaN or infinity; the training diverged")
    model.load_state_dict(weights)


def _card(model: SoundNetModel) -> str:
    config = model.config
    heads = ", ".join(f"{len(names)} {head}" for head, names in config.classes.items()) or "none"
    return f"""# SoundNet ({config.arch})

Hears {heads} in sound; raw waveform at {config.sample_rate} Hz, mono, samples in [-1, 1].
Its classes are guesses of image classifiers about video frames, so they name what is likely to
be seen where such a sound is heard.

    import mmray
    net = mmray.load("this folder")
    net.predict([waveform], sample_rate={config.sample_rate})
    net.features([waveform], sample_rate={config.sample_rate}, layer="{config.trunk[-3].name}")
"""
