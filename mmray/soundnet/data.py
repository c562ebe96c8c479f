"""Rows of a clip dataset as batches to train on: crops of sound, and what the teachers saw then.

The frames of a clip are tied to its sound by time. A crop keeps the frames whose time lies in it;
their times are given from the start of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmray.errors import UserError
from mmray.pipeline.dataset import waveform
from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.config import HEADS
from mmray.training.loader import Batch, Row

_BYTES = 2  # of a sample, int16


@dataclass(frozen=True)
class SoundExamples:
    """Makes batches of clip rows; see `mmray.training.loader.Examples`.

    A batch holds `wave` float32 [B, n] in about [-1, 1]; `frame_times` float32 [B, T], seconds
    from the start of the wave; `window_s` float32 [B], the sound that belongs to a frame;
    `weights` float32 [B, T], 1 for frames in the crop and 0 for others, at least one 1 a row; and
    for each head the teacher's posteriors, float32 [B, T, classes].

    Args:
        heads: the columns with posteriors, `objects` and `scenes`.
        crop_s: seconds of each wave. Clips that are shorter are repeated.
        sample_rate: that the clips must have, in Hz.
        encoding: of the column `audio`, as of the dataset's manifest.
        aligned: frames are tied to the sound by their times. False: by position, as in the
            published code, so that each wave gets the frames nearest to `crop_s / frame_s` evenly
            spaced times.
        frame_s: seconds between frames, for `aligned=False`.
        augment: None for no augmentation.
    """

    heads: tuple[str, ...]
    crop_s: float
    sample_rate: int
    encoding: str = "pcm16"
    aligned: bool = True
    frame_s: float = 5.0
    augment: AugmentConfig | None = None

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return ("id", "sample_rate", "duration_s", "audio", "frame_times", *self.heads)

    @property
    def samples(self) -> int:
        """Of each wave."""
        return round(self.crop_s * self.sample_rate)

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """Make a batch; without `rngs` of the middle of each clip, unchanged."""
        if not rngs:
            return _stack([self._example(row, None)[0] for row in rows])
        examples = []
        for row, neighbour, rng in zip(rows, neighbours, rngs, strict=True):
            example, wave = self._example(row, rng)
            if self.augment is not None:
                example["wave"] = self._augmented(wave, neighbour, rng, self.augment)
            examples.append(example)
        return _stack(examples)

    def _example(
        self, row: Row, rng: np.random.Generator | None
    ) -> tuple[dict[str, Any], np.ndarray]:
        wave, start_s = self._crop(row, rng)
        duration = self._length(row) / self.sample_rate
        times = np.asarray(row["frame_times"], np.float32)
        # Not the time between the frames: two wanted times may have met the same coded frame.
        window = np.float32(min(duration / len(times), self.crop_s))
        # A clip that is repeated holds a frame at its time, and again one duration later.
        times = times - np.float32(start_s)
        if duration < self.crop_s:
            times = times % np.float32(duration)
        posteriors = {head: np.asarray(row[head], np.float32) for head in self.heads}
        if not self.aligned:
            times, posteriors = self._by_position(times, posteriors)
        weights = ((times >= 0) & (times < self.crop_s)).astype(np.float32)
        if not weights.any():  # a crop between two frames: the nearer one
            weights[np.abs(times - self.crop_s / 2).argmin()] = 1.0
        example = {"wave": wave, "frame_times": times, "window_s": window, "weights": weights}
        return {**example, **posteriors}, wave

    def _by_position(
        self, times: np.ndarray, posteriors: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        frames = max(1, round(self.crop_s / self.frame_s))
        wanted = (np.arange(frames, dtype=np.float32) + 0.5) * np.float32(self.crop_s / frames)
        nearest = np.abs(times[None, :] - wanted[:, None]).argmin(1)
        return wanted, {head: values[nearest] for head, values in posteriors.items()}

    def _crop(self, row: Row, rng: np.random.Generator | None) -> tuple[np.ndarray, float]:
        """A wave of `samples`, and the second of the clip at which it starts."""
        length, wanted = self._length(row), self.samples
        if length >= wanted:
            spare = length - wanted
            start = spare // 2 if rng is None else int(rng.integers(spare + 1))
            return self._sound(row, start, wanted), start / self.sample_rate
        start = 0 if rng is None else int(rng.integers(length))
        whole = self._sound(row, 0, length)
        return np.resize(np.roll(whole, -start), wanted), start / self.sample_rate

    def _length(self, row: Row) -> int:
        """Samples of a clip."""
        if self.encoding == "pcm16":
            return len(row["audio"]) // _BYTES
        return round(row["duration_s"] * self.sample_rate)

    def _sound(self, row: Row, start: int, samples: int) -> np.ndarray:
        if row["sample_rate"] != self.sample_rate:
            raise UserError(
                f"clip {row['id']}: has {row['sample_rate']} samples a second, the model hears "
                f"{self.sample_rate}; prepare the clips again"
            )
        if self.encoding == "pcm16":  # only what is needed
            return waveform(row["audio"][start * _BYTES : (start + samples) * _BYTES], "pcm16")
        return np.resize(waveform(row["audio"], self.encoding)[start:], samples)

    def _augmented(
        self,
        wave: np.ndarray,
        neighbour: Row,
        rng: np.random.Generator,
        augment: AugmentConfig,
    ) -> np.ndarray:
        # All draws are made whatever they are used for: one setting does not move the others.
        mixed, flipped, gain, snr = rng.random(4)
        factor = 10 ** (_between(augment.gain_db, gain) / 20)
        if mixed < augment.mix:
            other, _ = self._crop(neighbour, rng)
            level = _rms(wave) / max(_rms(other), 1e-5)
            wave = wave + other * level * 10 ** (-_between(augment.mix_snr_db, snr) / 20)
        if flipped < augment.flip:
            factor = -factor
        return (wave * factor).astype(np.float32)


def _between(range_: tuple[float, float], at: float) -> float:
    return range_[0] + (range_[1] - range_[0]) * at


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))


def _stack(examples: Sequence[dict[str, Any]]) -> Batch:
    return {name: torch.from_numpy(np.stack([e[name] for e in examples])) for name in examples[0]}


def heads_of(classes: dict[str, list[str]]) -> tuple[str, ...]:
    """The posteriors that a dataset with these classes has, in the model's order."""
    return tuple(head for head in HEADS if classes.get(head))
