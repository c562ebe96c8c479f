"""Scenes -> soundtrack: ambience of the place, events of the object, and what disturbs them."""

from dataclasses import dataclass

import numpy as np

from mmray.toyworld.sound_objects import VOICES, Voice
from mmray.toyworld.sound_places import AMBIENCES, coloured_noise
from mmray.toyworld.world import INDOORS, Scene

# Levels as amplitudes where 1 is full scale.
_AMBIENCE_RMS = 0.045
_EVENT_PEAK = 0.4
_QUIET_GAIN = 0.1  # -20 dB
_OFFSCREEN_GAIN = 0.3
_FADE_S = 0.02
_TILT = 0.3


@dataclass(frozen=True)
class Disturbance:
    """What makes a soundtrack harder: -20 dB (`quiet`), hiss over everything (`noisy`), and an
    object that sounds now and then, not so loud, but is not in the picture (`offscreen`)."""

    quiet: bool = False
    noisy: bool = False
    offscreen: str | None = None


@dataclass(frozen=True)
class Soundtrack:
    """`wave` float32[channels, n] within [-1, 1]; `events` are the seconds from the start of the
    soundtrack at which the visible object starts and stops sounding."""

    wave: np.ndarray
    events: list[tuple[float, float]]


def soundtrack(
    parts: list[tuple[Scene, float]],
    rate: int,
    channels: int,
    disturbance: Disturbance,
    rng: np.random.Generator,
) -> Soundtrack:
    """Synthesise the sound of scenes that follow one another.

    Args:
        parts: scenes with the second at which each ends; a cut that only changes the viewpoint
            is no new part, since sound does not stop at it.
        rate: sample rate in Hz.
        channels: 1, or 2 for events at a place in the stereo picture.
        disturbance: what makes it harder.
        rng: everything that is left to chance.
    """
    total = round(parts[-1][1] * rate)
    ambience = np.zeros(total, dtype=np.float32)
    left_right = np.zeros((channels, total), dtype=np.float32)
    events: list[tuple[float, float]] = []
    event_gain = _EVENT_PEAK * _decibels(rng.uniform(-5, 3))
    start = 0
    for scene, end_s in parts:
        end = min(round(end_s * rate), total)
        ambience[start:end] = _ambience(scene, end - start, rate, rng)
        foreground, times = _events(scene.object, end - start, rate, rng, pause=(0.15, 0.8))
        if scene.place == "station":
            foreground = _hall(foreground, rate)
        left_right[:, start:end] += event_gain * _pan(foreground, channels, rng)
        events += [(start / rate + on, start / rate + off) for on, off in times]
        start = end
    if disturbance.noisy:
        hiss = coloured_noise(total, rate, rng, [(10, 0), (rate / 2, -20)])
        ambience += _AMBIENCE_RMS * _decibels(rng.uniform(-8, 0)) * hiss
    if disturbance.offscreen:
        stray, _ = _events(disturbance.offscreen, total, rate, rng, pause=(1.5, 4.0))
        left_right += _OFFSCREEN_GAIN * event_gain * _pan(stray, channels, rng)
    left_right += ambience
    if channels == 2:
        # Ambience comes from all around: its two sides are not the same.
        left_right[1] += np.roll(ambience, int(0.013 * rate)) - ambience
    # The microphone: a first-order filter makes the whole recording duller or brighter.
    left_right[:, 1:] -= np.float32(rng.uniform(-_TILT, _TILT)) * left_right[:, :-1]
    peak = float(np.abs(left_right).max())
    gain = (_QUIET_GAIN if disturbance.quiet else 1.0) * min(1.0, 0.95 / max(peak, 1e-9))
    return Soundtrack(left_right * np.float32(gain), events)


def _decibels(value: float) -> np.float32:
    return np.float32(10 ** (value / 20))


def _fade(wave: np.ndarray, rate: int) -> np.ndarray:
    n = min(int(_FADE_S * rate), len(wave) // 2)
    if n:
        ramp = np.linspace(0, 1, n, dtype=np.float32)
        wave[:n] *= ramp
        wave[-n:] *= ramp[::-1]
    return wave


def _ambience(scene: Scene, n: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    wave = AMBIENCES[scene.place](n, rate, rng)
    wave *= _AMBIENCE_RMS * _decibels(rng.uniform(-8, 4))
    if scene.weather == "rain" and scene.place not in INDOORS:
        rain = coloured_noise(n, rate, rng, [(10, -30), (1000, -8), (4000, 0), (10000, -4)])
        wave += 0.4 * _AMBIENCE_RMS * rain
    return _fade(wave, rate)


def _events(
    name: str, n: int, rate: int, rng: np.random.Generator, pause: tuple[float, float]
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Events of one individual with pauses between them, and when each starts and stops."""
    out = np.zeros(n, dtype=np.float32)
    voice = Voice.sample(rng)
    times = []
    clock = rng.uniform(0.05, 0.5)
    while clock < n / rate - 0.25:
        wave = VOICES[name](rate, voice, rng) * _decibels(rng.uniform(-4, 0))
        begin = int(clock * rate)
        piece = wave[: n - begin]
        out[begin : begin + len(piece)] += piece
        times.append((clock, clock + len(piece) / rate))
        clock += max(len(wave) / rate, 0.5) + rng.uniform(*pause)
    return _fade(out, rate), times


def _hall(wave: np.ndarray, rate: int) -> np.ndarray:
    """A few echoes, as in a large hall."""
    out = wave.copy()
    for delay_s, gain in ((0.06, 0.4), (0.11, 0.3), (0.19, 0.22), (0.28, 0.14)):
        delay = int(delay_s * rate)
        if delay < len(wave):
            out[delay:] += np.float32(gain) * wave[:-delay]
    return out


def _pan(wave: np.ndarray, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Put a mono sound at a place between left and right: float32[channels, n]."""
    angle = rng.uniform(0.15, 0.85) * np.pi / 2
    if channels == 1:
        return wave[None]
    gains = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32) * np.float32(2**0.5)
    return gains[:, None] * wave
