"""Sounds and maps of pages."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from mmray.report import maps
from mmray.report.soundnet.soundmap import loudest
from mmray.report.sounds import mp3, spectrogram

RATE = 22050


@pytest.mark.parametrize("seconds", [0.05, 1.0, 4.0])
def test_an_mp3_file_holds_the_sound(seconds: float) -> None:
    t = np.arange(round(seconds * RATE)) / RATE
    data = mp3(0.1 * np.sin(2 * np.pi * 440 * t), RATE)
    with av.open(io.BytesIO(data)) as file:
        wave = np.concatenate([f.to_ndarray().ravel() for f in file.decode(audio=0)])
    assert len(wave) >= len(t)
    assert 0.6 < np.abs(wave).max() < 1.05, "quiet sounds are brought up"
    assert len(data) < 6000 * seconds + 2000


@pytest.mark.parametrize("rate", [20_000, 96_000])
def test_rates_that_mp3_lacks_are_resampled(rate: int) -> None:
    with av.open(io.BytesIO(mp3(np.ones(rate, np.float32) * 0.1, rate))) as file:
        assert file.streams.audio[0].rate in (22050, 48000)
    assert mp3(np.zeros(0, np.float32), rate)


def test_equal_things_have_a_map() -> None:
    assert np.isfinite(maps.plane(np.ones((6, 8)))).all()


def test_silence_stays_silent() -> None:
    with av.open(io.BytesIO(mp3(np.zeros(RATE), RATE))) as file:
        assert max(np.abs(f.to_ndarray()).max() for f in file.decode(audio=0)) < 1e-3


def test_a_spectrogram_shows_low_and_high() -> None:
    t = np.arange(2 * RATE) / RATE
    wave = np.where(t < 1, np.sin(2 * np.pi * 200 * t), np.sin(2 * np.pi * 6000 * t))
    pixels = np.asarray(Image.open(io.BytesIO(spectrogram(wave, RATE))), np.float32).sum(axis=2)
    assert pixels.shape == (48, 160)
    low, high = pixels[:, 20:60], pixels[:, 100:140]
    assert low.mean(axis=1).argmax() > 30 > 15 > high.mean(axis=1).argmax()


def test_the_shortest_sound_has_a_spectrogram() -> None:
    assert Image.open(io.BytesIO(spectrogram(np.ones(3, np.float32), RATE))).size == (160, 48)


def test_the_loudest_stretch() -> None:
    wave = np.zeros(5 * RATE, np.float32)
    wave[3 * RATE : 4 * RATE] = 0.5
    part = loudest(wave, RATE, 1.0)
    assert len(part) == RATE
    assert part.mean() > 0.45
    assert len(loudest(wave[:100], RATE, 1.0)) == 100


def test_a_map_keeps_neighbours() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 20))
    vectors = np.repeat(centres, 15, axis=0) + 0.05 * rng.normal(size=(45, 20))
    places = maps.plane(vectors)
    np.testing.assert_array_equal(places, maps.plane(vectors))
    near = maps.neighbours(vectors, 5)
    assert (near // 15 == np.arange(45)[:, None] // 15).all()
    assert np.abs(places).max() <= 1.0
    flat = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(flat, np.inf)
    assert (flat.argmin(axis=1) // 15 == np.arange(45) // 15).mean() > 0.95
    assert maps.shared(near, near) == 1.0


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_things_have_a_map(count: int) -> None:
    places = maps.plane(np.random.default_rng(0).normal(size=(count, 8)))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
