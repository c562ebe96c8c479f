"""What users call: objects and scenes in sounds, and features of any layer.

    net = mmray.load("official:sound8.npy")
    net.predict([waveform], sample_rate=44100)[0].top("objects")
    net.features([waveform], sample_rate=44100, layer="pool5")

A sound's results depend on that sound alone: only sounds of one length share a batch, since
padding would reach the cells near a sound's end. Sounds of any length run in bounded memory:
long ones go through the net in pieces that overlap by what the cells at their edges see.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmray.errors import UserError
from mmray.models import choose_device
from mmray.soundnet.folded import fold_trunk
from mmray.soundnet.model import SoundNetModel, load_model, overlaps
from mmray.soundnet.official import PREFIX, load_official

# Samples that go through the net at once. On CPUs small batches are the fastest, since the first
# layers then stay near the cache; on GPUs this takes about 3 GB.
MAX_SAMPLES = {"cpu": 1 << 20, "cuda": 1 << 25}
# The published net's heads see 14.5 s and were fed at least 10 s; shorter sounds are repeated.
UNALIGNED_MIN_S = 10.0
LOUDEST = 8.0


@dataclass(frozen=True)
class SoundPrediction:
    """What is to be seen where a sound is heard, over time.

    Args:
        times_s: [T], the middle of each step in seconds.
        objects: float32 [T, objects], probabilities; [T, 0] without that head.
        scenes: float32 [T, scenes], probabilities; [T, 0] without that head.
        classes: class names of `objects` and `scenes`.
    """

    times_s: np.ndarray
    objects: np.ndarray
    scenes: np.ndarray
    classes: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def top(self, head: str = "objects", k: int = 5) -> list[tuple[str, float]]:
        """The `k` likeliest classes of a head over the whole sound, with mean probabilities."""
        mean = getattr(self, head).mean(axis=0)
        best = np.argsort(-mean, kind="stable")[:k]
        return [(self.classes[head][i], float(mean[i])) for i in best]


class SoundNet:
    """A trained SoundNet, ready to use.

    Args:
        model: the net; put into evaluation mode and moved to `device`.
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        max_samples: samples that go through the net at once; bounds the memory.
    """

    def __init__(
        self, model: SoundNetModel, device: str = "auto", max_samples: int | None = None
    ) -> None:
        self.device = choose_device(device)
        self.model = model.eval().to(self.device)
        self.config = model.config
        self.max_samples = max_samples or MAX_SAMPLES[self.device.type]
        # The fusion was measured to pay on CPUs only.
        self._trunk = fold_trunk(model) if self.device.type == "cpu" else model.trunk

    @classmethod
    def load(cls, where: str | Path, device: str = "auto") -> SoundNet:
        """Load a model folder, or `official:FILE` for the official weights.

        Raises:
            UserError: nothing usable is there; the message names the file.
        """
        text = str(where)
        if text.startswith(PREFIX):
            return cls(load_official(text.removeprefix(PREFIX)), device)
        return cls(load_model(where), device)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, whatever file they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def untrained(self, seed: int = 0) -> SoundNet:
        """The same net with new weights, without touching anyone's random numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SoundNet(SoundNetModel(self.config), str(self.device))

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names of the heads: `objects`, `scenes`; a head the net lacks is absent."""
        return self.config.classes

    @property
    def layers(self) -> list[str]:
        """Names that `features` takes, from the waveform up; heads give logits."""
        return self.config.layer_names

    def predict(
        self,
        waveforms: Sequence[np.ndarray],
        sample_rate: int,
        window_s: float | None = None,
    ) -> list[SoundPrediction]:
        """Objects and scenes over time.

        Args:
            waveforms: float arrays [samples] in [-1, 1], of any lengths.
            sample_rate: of all of them, in Hz; resampled where the net wants another.
            window_s: seconds a step, for aligned heads (default: that of the training). The
                published heads step by 3 s and see 14.5 s whatever is asked.

        Raises:
            UserError: a waveform is not such an array, or the net has no heads.
        """
        if not self.classes:
            raise UserError("this SoundNet has no heads; it gives features only")
        window_s = self.config.frame_s if window_s is None else window_s
        if not window_s > 0:
            raise UserError(f"window_s is {window_s}; expected seconds above 0")
        waves = self._prepare(waveforms, sample_rate)
        logits = self._head_outputs(waves)
        return [
            self._prediction(len(wave) / self.config.sample_rate, window_s, cells)
            for wave, cells in zip(waves, logits, strict=True)
        ]

    def features(
        self, waveforms: Sequence[np.ndarray], sample_rate: int, layer: str = "pool5"
    ) -> list[np.ndarray]:
        """What a layer makes of each waveform: float32 [channels, time].

        A waveform too short for the layer to have one cell is repeated until it has. `times`
        says where the cells lie.

        Args:
            waveforms: float arrays [samples] in [-1, 1], of any lengths.
            sample_rate: of all of them, in Hz.
            layer: one of `layers`: convolutions after their ReLU, heads before their softmax.

        Raises:
            UserError: a waveform is not such an array, or the net has no such layer.
        """
        return [f[layer] for f in self.many_features(waveforms, sample_rate, [layer])]

    def many_features(
        self, waveforms: Sequence[np.ndarray], sample_rate: int, layers: Sequence[str]
    ) -> list[dict[str, np.ndarray]]:
        """As `features`, for several layers in one pass: a dict by layer for each waveform."""
        needed = max(self.config.min_samples(layer) for layer in layers)
        waves = [repeat(w, needed) for w in self._prepare(waveforms, sample_rate)]
        return self._outputs(waves, layers)

    def times(self, layer: str, cells: int) -> np.ndarray:
        """Seconds at which the first `cells` cells of a layer are centred."""
        return self.model.layer_times(layer, cells).numpy()

    def channels(self, layer: str) -> int:
        """Channels of a layer's output."""
        if layer in self.classes:
            return len(self.classes[layer])
        return self.config.path(layer)[-1].channels

    def log_probabilities(
        self,
        waveforms: Sequence[np.ndarray],
        sample_rate: int,
        frame_times: np.ndarray,
        window_s: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Each head's log-probabilities at given times, float32 [N, T, classes].

        Args:
            waveforms: N float arrays [samples] in [-1, 1].
            sample_rate: of all of them, in Hz.
            frame_times: [N, T], seconds.
            window_s: [N], seconds of sound that belong to a frame.
        """
        outputs = self._head_outputs(self._prepare(waveforms, sample_rate))
        times = torch.as_tensor(np.asarray(frame_times, dtype=np.float64))
        windows = torch.as_tensor(np.asarray(window_s, dtype=np.float64))
        return {
            head: np.stack(
                [
                    self._at_frames(cells[head], times[i], windows[i]).log_softmax(-1).numpy()
                    for i, cells in enumerate(outputs)
                ]
            )
            for head in self.classes
        }

    def _prediction(
        self, duration_s: float, window_s: float, logits: dict[str, np.ndarray]
    ) -> SoundPrediction:
        cells = next(iter(logits.values())).shape[-1]
        if self.config.aligned:
            steps = max(1, round(duration_s / window_s))
            times = (np.arange(steps) + 0.5) * duration_s / steps
        else:
            steps = cells
            times = self.times(next(iter(logits)), steps)
            if duration_s < UNALIGNED_MIN_S:  # the sound was repeated
                times = np.full(steps, duration_s / 2)
        at = torch.as_tensor(times, dtype=torch.float64)
        window = torch.tensor(duration_s / steps, dtype=torch.float64)
        probabilities = {
            head: self._at_frames(x, at, window).softmax(-1).numpy() for head, x in logits.items()
        }
        none = np.zeros((steps, 0), np.float32)
        return SoundPrediction(
            times_s=times,
            objects=probabilities.get("objects", none),
            scenes=probabilities.get("scenes", none),
            classes=self.classes,
        )

    def _at_frames(self, logits: np.ndarray, times: Tensor, window: Tensor) -> Tensor:
        """Logits [classes, cells] at `times` [T], as [T, classes]."""
        cells = torch.from_numpy(logits)[None]
        if not self.config.aligned:
            return self.model.at_frames(cells, times[None], window[None])[0]
        centres, spacing = self.model.cell_times(cells.shape[-1])
        parts = []
        for block in times.split(256):  # an hour's frames against an hour's cells is a big matrix
            reach = window / 2 + spacing
            first = int((centres < block.min() - reach).sum().clamp_max(len(centres) - 1))
            last = max(first + 1, int((centres <= block.max() + reach).sum()))
            weights = overlaps(centres[first:last], spacing, block[None], window[None])
            parts.append(weights[0].float() @ cells[0, :, first:last].T)
        return torch.cat(parts)

    def _head_outputs(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The heads' logits [classes, steps]; sounds too short for one step are repeated."""
        needed = self.config.head_samples
        if not self.config.aligned:
            needed = max(needed, int(UNALIGNED_MIN_S * self.config.sample_rate))
        waves = [repeat(wave, needed) for wave in waves]
        steps = [self.config.head_steps(len(wave)) for wave in waves]
        outputs = self._outputs(waves, list(self.classes))
        return [
            {head: x[..., :n] for head, x in output.items()}
            for output, n in zip(outputs, steps, strict=True)
        ]

    def _prepare(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        if not isinstance(sample_rate, int | np.integer) or not 1000 <= sample_rate <= 1_000_000:
            raise UserError(
                f"sample_rate is {sample_rate!r}; expected a whole number of Hz, at least 1000"
            )
        waves = [check_waveform(w, i) for i, w in enumerate(waveforms)]
        return [resample(w, int(sample_rate), self.config.sample_rate) for w in waves]

    def _outputs(
        self, waves: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[dict[str, np.ndarray]]:
        """The named layers' outputs [channels, cells] for each waveform."""
        for name in names:
            self.config.path(name)  # a UserError where there is no such layer
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, wave in enumerate(waves):
            by_length[len(wave)].append(i)
        results: list[dict[str, np.ndarray]] = [{} for _ in waves]
        for length, members in by_length.items():
            size = max(1, self.max_samples // length)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                outputs = self._run(np.stack([waves[i] for i in batch]), names)
                for row, i in enumerate(batch):
                    results[i] = {name: x[row] for name, x in outputs.items()}
        return results

    def _run(self, waves: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """One batch [B, samples] of one length, in pieces where it is long."""
        length = waves.shape[1]
        if length <= self.max_samples:
            return self._forward(waves, names)
        geometry = {name: self.config.geometry(name) for name in names}
        coarsest = max(names, key=lambda name: geometry[name].stride)
        stride = geometry[coarsest].stride
        step = stride * max(1, self.max_samples // stride)
        begins = range(0, self.config.cells(coarsest, length) * stride, step)
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for begin in begins:
            # The piece from `begin` owns the cells that start in it; it must hold all they see.
            end = begin + step if begin != begins[-1] else None
            sees_from = begin + min(g.start for g in geometry.values())
            sees_to = max((end or 0) - g.stride + g.start + g.field for g in geometry.values())
            low = max(0, sees_from // stride * stride)
            outputs = self._forward(waves[:, low : min(length, sees_to) if end else length], names)
            for name, g in geometry.items():
                own = slice((begin - low) // g.stride, end and (end - low) // g.stride)
                pieces[name].append(outputs[name][..., own])
        return {name: np.concatenate(parts, axis=-1) for name, parts in pieces.items()}

    @torch.inference_mode()
    def _forward(self, waves: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        wave = torch.from_numpy(np.ascontiguousarray(waves)).to(self.device)
        # The folded trunk has no conv1.
        trunk = self.model.trunk if "conv1" in names else self._trunk
        last = None if set(names) & set(self.classes) else max(names, key=self.layers.index)
        return {
            name: x.cpu().numpy() for name, x in self.model.walk(wave, last, trunk) if name in names
        }


def check_waveform(wave: np.ndarray, number: int) -> np.ndarray:
    """A user's waveform as float32 [samples].

    Raises:
        UserError: it is not one channel of finite samples in about [-1, 1].
    """
    wave = np.asarray(wave)
    name = f"waveform {number}"
    if wave.ndim != 1:
        raise UserError(
            f"{name}: has shape {list(wave.shape)}; expected a list of mono waveforms [samples] "
            "(average the channels)"
        )
    if not np.issubdtype(wave.dtype, np.floating):
        raise UserError(
            f"{name}: holds {wave.dtype}; expected floats in [-1, 1] (divide int16 by 32768)"
        )
    if not len(wave):
        raise UserError(f"{name}: is empty; expected at least one sample")
    wave = wave.astype(np.float32, copy=False)
    loudest = np.abs(wave).max()
    if not np.isfinite(loudest):
        raise UserError(f"{name}: holds NaN or infinity")
    if loudest > LOUDEST:
        raise UserError(
            f"{name}: reaches {loudest:g}; expected samples in [-1, 1] (divide int16 by 32768)"
        )
    return wave


def resample(wave: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    """A waveform at another sample rate (windowed sinc)."""
    if sample_rate == wanted:
        return wave
    from torchaudio.functional import resample as sinc

    # The filter bank grows with the terms of the reduced ratio; odd rates (44,099 Hz) would need
    # gigabytes for a precision of a few millionths.
    ratio = Fraction(sample_rate, wanted).limit_denominator(1000)
    with torch.inference_mode():
        out = sinc(torch.from_numpy(wave), ratio.numerator, ratio.denominator).numpy()
    return out


def repeat(wave: np.ndarray, samples: int) -> np.ndarray:
    """The waveform, repeated end to end as often as needed to have so many samples."""
    return wave if len(wave) >= samples else np.resize(wave, samples)
