"""How each object sounds: procedural synthesis of one event (a bark, a ring, a croak).

Every function takes the sample rate in Hz, a `Voice` that stays the same through a shot, and a
random generator for what varies from event to event, and returns float32[n] peaking near 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Wave = np.ndarray


@dataclass(frozen=True)
class Voice:
    """What one individual keeps from event to event: `pitch` and `pace` as factors about 1,
    `timbre` from 0 (dull) to 1 (bright)."""

    pitch: float
    pace: float
    timbre: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Voice":
        """Draw one individual; pitches lie within about a third of an octave each way."""
        return cls(
            pitch=float(2 ** np.clip(rng.normal(0, 0.2), -0.45, 0.45)),
            pace=float(2 ** np.clip(rng.normal(0, 0.2), -0.45, 0.45)),
            timbre=float(rng.uniform()),
        )


def _time(rate: int, seconds: float) -> Wave:
    return np.arange(max(int(rate * seconds), 8), dtype=np.float32) / np.float32(rate)


def _glide(points: list[tuple[float, float]], n: int) -> Wave:
    """Piecewise linear curve through (fraction of the event, value)."""
    x, y = zip(*points, strict=True)
    return np.interp(np.linspace(0, 1, n), x, y).astype(np.float32)


def running_phase(frequency: Wave, rate: int) -> Wave:
    """Phase in radians, within one turn, of a tone whose frequency (Hz) changes."""
    # Summed in double precision and wrapped, so that single precision (many times faster) does
    # for the sines.
    turns = np.cumsum(frequency, dtype=np.float64) / rate
    return (2 * np.pi * (turns - np.floor(turns))).astype(np.float32)


def overtones(phase: Wave, weights: Sequence[float]) -> Wave:
    """Weighted sum of sin(k phase), k = 1, 2, ..."""
    wave = np.zeros_like(phase)
    for k, weight in enumerate(weights, start=1):
        if weight:
            wave += np.float32(weight) * np.sin(k * phase)
    return wave


def _harmonics(frequency: Wave, rate: int, weights: list[float]) -> Wave:
    """Sum of harmonics of a changing frequency (Hz); those above Nyquist are left out."""
    count = min(len(weights), max(1, int(0.48 * rate / float(frequency.max()))))
    return overtones(running_phase(frequency, rate), weights[:count])


def _formants(f0: float, peaks: list[tuple[float, float]], count: int, tilt: float) -> list[float]:
    """Weights of the first `count` harmonics of f0 under resonances (Hz, width in Hz)."""
    f = f0 * np.arange(1, count + 1)
    gain = sum(np.exp(-(((f - centre) / width) ** 2)) for centre, width in peaks) + 0.05
    return list(np.asarray(gain * f ** (-tilt) * f0**tilt))


def _hull(n: int, rate: int, attack: float, release: float) -> Wave:
    """Envelope that rises over `attack` s, stays, and falls over the last `release` s."""
    hull = np.ones(n, dtype=np.float32)
    a, r = min(n // 2, int(attack * rate) + 1), min(n // 2, int(release * rate) + 1)
    hull[:a] = np.linspace(0, 1, a)
    hull[n - r :] *= np.linspace(1, 0, r, dtype=np.float32)
    return hull


def _repeat(beats: list[Wave], gaps: list[float], rate: int) -> Wave:
    """Lay short sounds one after another, each starting `gap` s after the one before."""
    starts = np.concatenate([[0], np.cumsum(gaps[: len(beats) - 1])]) if len(beats) > 1 else [0]
    places = [int(s * rate) for s in starts]
    out = np.zeros(max(p + len(b) for p, b in zip(places, beats, strict=True)), dtype=np.float32)
    for place, beat in zip(places, beats, strict=True):
        out[place : place + len(beat)] += beat
    return out


def _peak(wave: Wave) -> Wave:
    return wave / np.float32(np.abs(wave).max() + 1e-9)


def _dog(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    barks = []
    for _ in range(rng.integers(2, 5)):
        t = _time(rate, rng.uniform(0.13, 0.2) / voice.pace)
        f0 = 330 * voice.pitch * rng.uniform(0.93, 1.07)
        curve = f0 * _glide([(0, 0.75), (0.25, 1.5), (1, 0.7)], len(t))
        weights = _formants(f0 * 1.2, [(750, 350), (1500, 500)], 9, 0.3)
        rasp = rng.standard_normal(len(t), dtype=np.float32) * (0.25 + 0.3 * voice.timbre)
        bark = _harmonics(curve, rate, weights)
        barks.append(_peak(bark + rasp * np.abs(bark).max()) * _hull(len(t), rate, 0.012, 0.09))
    return _repeat(barks, [rng.uniform(0.26, 0.36) / voice.pace for _ in barks], rate)


def _cat(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    t = _time(rate, rng.uniform(0.6, 0.95) / voice.pace)
    f0 = 560 * voice.pitch * rng.uniform(0.94, 1.06)
    curve = f0 * _glide([(0, 0.75), (0.3, 1.2), (0.6, 1.15), (1, 0.7)], len(t))
    curve *= 1 + 0.012 * np.sin(2 * np.pi * 7 * t)
    closed = _harmonics(curve, rate, _formants(f0, [(900, 400)], 8, 0.6))
    opened = _harmonics(curve, rate, _formants(f0, [(1700, 700), (3200, 900)], 8, 0.2))
    mouth = _glide([(0, 0.0), (0.35, 1.0), (0.6, 0.9), (1, 0.1)], len(t))
    return _peak((1 - mouth) * closed + mouth * opened) * _hull(len(t), rate, 0.09, 0.25)


def _bird(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    chirps = []
    rising = rng.random() < 0.5
    for _ in range(rng.integers(4, 9)):
        t = _time(rate, rng.uniform(0.05, 0.09) / voice.pace)
        f0 = 3900 * voice.pitch * rng.uniform(0.9, 1.1)
        ends = [(0.0, 0.8), (0.5, 1.25), (1.0, 1.0)] if rising else [(0.0, 1.3), (1.0, 0.8)]
        chirps.append(_harmonics(f0 * _glide(ends, len(t)), rate, [1.0, 0.12])
                      * _hull(len(t), rate, 0.012, 0.03))  # fmt: skip
    return _peak(_repeat(chirps, [rng.uniform(0.09, 0.14) / voice.pace for _ in chirps], rate))


def _car(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    """An engine that revs up and falls back."""
    t = _time(rate, rng.uniform(1.1, 1.7))
    f0 = 62 * voice.pitch * rng.uniform(0.94, 1.06)
    curve = f0 * _glide([(0, 0.9), (0.35, rng.uniform(1.9, 2.5)), (0.55, 2.1), (1, 1.0)], len(t))
    weights = [1 / k**0.55 for k in range(1, 17)]
    engine = _harmonics(curve, rate, weights)
    firing = 1 + 0.5 * _harmonics(curve / 2, rate, [1.0])
    exhaust = rng.standard_normal(len(t), dtype=np.float32)
    blur = np.full(max(rate // 2500, 2), 1 / 3, dtype=np.float32)
    muffled = np.convolve(exhaust, blur, "same")
    mix = _peak(engine * firing) + (0.2 + 0.25 * voice.timbre) * muffled * firing
    return _peak(mix) * _hull(len(t), rate, 0.15, 0.4)


def _train(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    """A horn: a steady chord."""
    t = _time(rate, rng.uniform(0.9, 1.5) / voice.pace)
    root = 277 * voice.pitch * rng.uniform(0.99, 1.01)
    wave = np.zeros(len(t), dtype=np.float32)
    for ratio in (1.0, 1.26, 1.5, 1.68):
        curve = np.full(len(t), root * ratio * rng.uniform(0.996, 1.004), dtype=np.float32)
        curve *= _glide([(0, 0.96), (0.08, 1.0), (1, 1.0)], len(t))
        wave += _harmonics(curve, rate, [1, 0.7, 0.55, 0.4, 0.3 * voice.timbre, 0.2])
    breath = rng.standard_normal(len(t), dtype=np.float32) * 0.1
    return _peak(_peak(wave) + breath) * _hull(len(t), rate, 0.05, 0.12)


def _bell(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    t = _time(rate, 1.8)
    strike = 620 * voice.pitch
    wave = np.zeros(len(t), dtype=np.float32)
    partials = ((0.5, 0.5, 1.6), (1.0, 1.0, 2.2), (1.19, 0.7, 2.8), (1.5, 0.4, 3.2),
                (2.0, 0.8, 3.5), (2.74, 0.6, 5.0), (3.76, 0.4 * voice.timbre + 0.2, 7.0),
                (5.2, 0.3 * voice.timbre, 9.0))  # fmt: skip
    for ratio, level, decay in partials:
        if strike * ratio < 0.48 * rate:
            level = level * rng.uniform(0.8, 1.2)
            tone = np.sin(2 * np.pi * strike * ratio * t + rng.uniform(0, 6.28))
            wave += np.float32(level) * tone * np.exp(-np.float32(decay * voice.pace) * t)
    return _peak(wave) * _hull(len(t), rate, 0.003, 0.3)


def _clock(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    ticks = []
    for k in range(rng.integers(5, 8)):
        t = _time(rate, 0.09)
        tone = 2300 * voice.pitch * (1.0 if k % 2 else 0.78)
        click = rng.standard_normal(len(t), dtype=np.float32) * np.exp(-t * 420)
        ring = np.sin(2 * np.pi * tone * t) * np.exp(-t * (80 - 40 * voice.timbre))
        ticks.append(_peak(0.6 * click + ring) * rng.uniform(0.85, 1.0))
    gap = 0.24 / voice.pace
    return _repeat(ticks, [gap] * len(ticks), rate).astype(np.float32)


def _phone(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    """A mechanical ringer: two small bells struck in turn."""
    t = _time(rate, rng.uniform(0.7, 1.0))
    strokes = 22 * voice.pace
    phase = (t * strokes) % 1.0
    side = np.floor(t * strokes) % 2
    high, low = (
        _harmonics(np.full(len(t), f * voice.pitch, dtype=np.float32), rate, [1, 0, 0.5, 0.2])
        for f in (1480.0, 1240.0)
    )
    wave = np.where(side > 0, high, low) * np.exp(-phase * (2.2 - voice.timbre))
    return _peak(wave.astype(np.float32)) * _hull(len(t), rate, 0.02, 0.12)


def _drum(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    hits = []
    for _ in range(rng.integers(3, 6)):
        t = _time(rate, 0.24)
        f0 = 125 * voice.pitch * rng.uniform(0.97, 1.03)
        curve = f0 * (1 + 1.2 * np.exp(-t * 45))
        head = _harmonics(curve.astype(np.float32), rate, [1, 0.35, 0.2]) * np.exp(-t * 13)
        stick = rng.standard_normal(len(t), dtype=np.float32) * np.exp(-t * 90)
        hits.append(_peak(head + (0.3 + 0.3 * voice.timbre) * stick) * rng.uniform(0.6, 1.0))
    beat = rng.choice([0.16, 0.2]) / voice.pace
    return _repeat(hits, [beat * rng.choice([1, 1, 2]) for _ in hits], rate).astype(np.float32)


def _frog(rate: int, voice: Voice, rng: np.random.Generator) -> Wave:
    croaks = []
    for k in range(2):
        t = _time(rate, (0.24 if k else 0.16) / voice.pace)
        pulses = (t * rng.uniform(34, 42)) % 1.0
        centre = 900 * voice.pitch * (1.25 if k else 0.95)
        wave = np.sin(2 * np.pi * centre * t) + 0.6 * np.sin(2 * np.pi * 2.1 * centre * t)
        rough = 1 + 0.3 * rng.standard_normal(len(t), dtype=np.float32)
        croaks.append(_peak(wave * rough * np.exp(-pulses * (5 - 2 * voice.timbre)))
                      * _hull(len(t), rate, 0.02, 0.05))  # fmt: skip
    count = int(rng.integers(1, 3))
    gaps = [0.2 / voice.pace, 0.45 / voice.pace] * count
    return _repeat((croaks * count), gaps, rate).astype(np.float32)


VOICES: dict[str, Callable[[int, Voice, np.random.Generator], Wave]] = {
    "bell": _bell,
    "bird": _bird,
    "car": _car,
    "cat": _cat,
    "clock": _clock,
    "dog": _dog,
    "drum": _drum,
    "frog": _frog,
    "phone": _phone,
    "train": _train,
}
