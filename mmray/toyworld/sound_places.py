"""How each place sounds: procedural ambience, continuous through a shot.

Every function takes a number of samples, the sample rate in Hz and a random generator, and
returns float32[n] of about unit RMS.
"""

from collections.abc import Callable

import numpy as np
from scipy.fft import irfft, next_fast_len

from mmray.toyworld.sound_objects import overtones, running_phase

Wave = np.ndarray


def coloured_noise(
    n: int, rate: int, rng: np.random.Generator, curve: list[tuple[float, float]]
) -> Wave:
    """Gaussian noise float32[n] of unit RMS.

    `curve` gives the spectrum as (frequency in Hz, level in dB) points, joined by straight lines
    over log frequency.
    """
    size = next_fast_len(n, real=True)
    bins = size // 2 + 1
    spectrum = rng.standard_normal((bins, 2), dtype=np.float32).view(np.complex64)[:, 0]
    # The curve is evaluated on a coarse grid: it is smooth and there are very many bins.
    grid = np.geomspace(10, rate / 2, 200)
    hertz, decibel = zip(*curve, strict=True)
    gain = 10 ** (np.interp(np.log(grid), np.log(hertz), decibel) / 20)
    gains = np.interp(np.linspace(0, rate / 2, bins), grid, gain, left=0.0)
    return unit_rms(irfft(spectrum * gains.astype(np.float32), size)[:n])


def unit_rms(wave: Wave) -> Wave:
    """Scale to RMS 1 (silence stays silence)."""
    return (wave / np.float32(np.sqrt(np.mean(wave**2)) + 1e-9)).astype(np.float32)


def _slow(n: int, rate: int, rng: np.random.Generator, hertz: float, low: float) -> Wave:
    """A slowly wandering level between `low` and 1 that changes about `hertz` times a second."""
    stretch = max(2, int(rate / hertz))
    knots = rng.uniform(low, 1, n // stretch + 2).astype(np.float32)
    ramp = np.arange(stretch, dtype=np.float32) / np.float32(stretch)
    return (knots[:-1, None] + np.diff(knots)[:, None] * ramp).ravel()[:n]


def _sprinkle(
    out: Wave,
    rate: int,
    rng: np.random.Generator,
    per_second: float,
    make: Callable[[], Wave],
) -> None:
    """Add short sounds at random times (a Poisson process) in place."""
    n = len(out)
    for start in rng.integers(0, n, rng.poisson(per_second * n / rate)):
        piece = make()[: n - start]
        out[start : start + len(piece)] += piece


def _decaying(
    rate: int, rng: np.random.Generator, hertz: float, decay: float, noise: float
) -> Wave:
    t = np.arange(int(rate * min(4.0 / decay, 0.3)), dtype=np.float32) / np.float32(rate)
    wave = np.sin(2 * np.pi * hertz * t) * (1 - noise)
    if noise:
        wave = wave + noise * rng.standard_normal(len(t), dtype=np.float32)
    return (wave * np.exp(-np.float32(decay) * t)).astype(np.float32)


def _beach(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """Waves that swell and break every few seconds."""
    surf = coloured_noise(n, rate, rng, [(10, -6), (300, 0), (1500, -4), (8000, -18)])
    t = np.arange(n, dtype=np.float32) / rate
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (t * rng.uniform(0.18, 0.3) + rng.uniform()))
    return unit_rms(surf * (0.35 + swell.astype(np.float32) ** 2))


def _forest(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """Leaves in the wind, and an insect's steady trill."""
    leaves = coloured_noise(
        n, rate, rng, [(10, -40), (800, -14), (2500, 0), (5500, -2), (11000, -16)]
    )
    t = np.arange(n, dtype=np.float32) / rate
    trill = np.sin(2 * np.pi * rng.uniform(5200, 6200) * t)
    trill *= np.sin(2 * np.pi * rng.uniform(18, 26) * t) > 0
    return unit_rms(leaves * _slow(n, rate, rng, 1.2, 0.3) + np.float32(0.25) * trill)


def _kitchen(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """Something frying, over the hum of a refrigerator."""
    fat = coloured_noise(
        n, rate, rng, [(10, -50), (2000, -16), (5000, 0), (7500, -2), (20000, -12)]
    )
    _sprinkle(fat, rate, rng, 30, lambda: 6 * _decaying(rate, rng, 4000, 500, 1.0))
    t = np.arange(n, dtype=np.float32) / rate
    mains = float(rng.choice([100.0, 120.0]))
    hum = sum(np.sin(2 * np.pi * mains * k * t) / k for k in (1, 2, 3))
    return unit_rms(fat + np.float32(0.9) * np.asarray(hum, dtype=np.float32))


def _meadow(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """Crickets, each with its own pitch and beat, over a soft breeze."""
    wave = 0.35 * coloured_noise(n, rate, rng, [(10, -10), (200, 0), (800, -12), (8000, -40)])
    t = np.arange(n, dtype=np.float32) / rate
    for _ in range(3):
        pulse = np.sin(2 * np.pi * rng.uniform(24, 32) * t).clip(0)
        chirp = np.sin(2 * np.pi * (rng.uniform(1.6, 2.6) * t + rng.uniform())) > 0.2
        wave += np.sin(2 * np.pi * rng.uniform(4100, 4900) * t) * pulse * chirp
    return unit_rms(wave)


def _mountain(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """A whistling, gusty wind."""
    gust = _slow(n, rate, rng, 0.7, 0.15)
    # A band of noise around a wandering pitch: low-passed noise moved up by a carrier.
    narrow = coloured_noise(n, rate, rng, [(10, 0), (35, 0), (120, -30), (1000, -80)])
    pitch = rng.uniform(380, 620) * (0.75 + 0.6 * gust)
    whistle = narrow * np.sin(running_phase(pitch, rate))
    rumble = coloured_noise(n, rate, rng, [(10, 0), (120, 0), (500, -24), (4000, -50)])
    return unit_rms(whistle * gust * 1.5 + 0.8 * rumble * gust)


def _office(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """Air conditioning and somebody typing."""
    air = coloured_noise(n, rate, rng, [(10, -4), (150, 0), (600, -8), (1200, -24), (8000, -60)])

    def key() -> Wave:
        return rng.uniform(2, 5) * _decaying(rate, rng, rng.uniform(1100, 1600), 260, 0.5)

    _sprinkle(air, rate, rng, 7, key)
    return unit_rms(air)


def _station(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """The murmur of several voices in a hall."""
    wave = np.zeros(n, dtype=np.float32)
    for _ in range(4):
        pitch = rng.uniform(105, 240) * (0.8 + 0.4 * _slow(n, rate, rng, 4, 0.0))
        phase = running_phase(pitch, rate)
        vowel = _slow(n, rate, rng, 4, 0.0)
        voice = overtones(phase, (1, 0.7, 0.6)) + vowel * overtones(phase, (0, 0, 0, 0, 0.8, 0.7))
        wave += _slow(n, rate, rng, rng.uniform(5, 8), 0.0) ** 2 * voice
    hall = coloured_noise(n, rate, rng, [(10, -10), (400, 0), (1500, -10), (8000, -30)])
    return unit_rms(unit_rms(wave) + np.float32(0.5) * hall)


def _street(n: int, rate: int, rng: np.random.Generator) -> Wave:
    """The rumble of a road and tyres that pass."""
    rumble = coloured_noise(n, rate, rng, [(10, 0), (90, 2), (300, -10), (2000, -30), (8000, -50)])
    tyres = coloured_noise(n, rate, rng, [(10, -30), (500, -6), (1000, 0), (2000, -8), (8000, -28)])
    passing = np.zeros(n, dtype=np.float32)
    t = np.arange(n, dtype=np.float32) / rate
    for _ in range(max(1, round(n / rate / 3))):
        centre, width = rng.uniform(0, n / rate), rng.uniform(0.5, 1.0)
        passing += np.exp(-(((t - centre) / width) ** 2)).astype(np.float32)
    return unit_rms(rumble + 0.9 * tyres * passing)


AMBIENCES: dict[str, Callable[[int, int, np.random.Generator], Wave]] = {
    "beach": _beach,
    "forest": _forest,
    "kitchen": _kitchen,
    "meadow": _meadow,
    "mountain": _mountain,
    "office": _office,
    "station": _station,
    "street": _street,
}
