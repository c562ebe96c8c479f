"""Ambience, events and what disturbs them."""

import numpy as np
import pytest

from mmray.toyworld.sound import Disturbance, soundtrack
from mmray.toyworld.sound_objects import VOICES, Voice
from mmray.toyworld.sound_places import AMBIENCES, coloured_noise
from mmray.toyworld.world import OBJECTS, PLACES, Scene

RATE = 22_050


def scene(place="office", name="bell", weather="sunny"):
    return Scene(place, name, "red", "large", 1, weather, (), 0)


def make(parts, disturbance=None, rate=RATE, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return soundtrack(parts, rate, channels, disturbance or Disturbance(), rng)


def rms(wave):
    return float(np.sqrt(np.mean(wave**2)))


def centroid(wave, rate=RATE):
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / rate)).sum() / power.sum())


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", OBJECTS)
def test_events(name, rate):
    rng = np.random.default_rng(3)
    waves = [VOICES[name](rate, Voice.sample(rng), rng) for _ in range(3)]
    for wave in waves:
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert 0.4 < np.abs(wave).max() < 2
        assert 0.1 < len(wave) / rate < 3
    assert len({len(w) for w in waves}) > 1 or not np.array_equal(waves[0], waves[1])


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("place", PLACES)
def test_ambience(place, rate):
    wave = AMBIENCES[place](3 * rate + 17, rate, np.random.default_rng(0))
    assert wave.dtype == np.float32
    assert wave.shape == (3 * rate + 17,)
    assert rms(wave) == pytest.approx(1, rel=1e-3)
    half_seconds = wave[: 3 * rate].reshape(6, -1)
    assert min(rms(part) for part in half_seconds) > 0.05  # continuous


def test_all_classes_sound():
    assert set(VOICES) == set(OBJECTS)
    assert set(AMBIENCES) == set(PLACES)


def test_coloured_noise_follows_its_curve():
    wave = coloured_noise(40_000, RATE, np.random.default_rng(0), [(10, 0), (500, 0), (900, -60)])
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    assert power[hertz > 900].sum() < 1e-3 * power[hertz < 500].sum()


def test_pitch_of_a_voice_is_heard():
    low, high = (
        centroid(VOICES["bird"](RATE, Voice(pitch, 1.0, 0.5), np.random.default_rng(0)))
        for pitch in (0.75, 1.3)
    )
    assert high > 1.4 * low


def test_soundtrack_is_deterministic():
    parts = [(scene(), 4.0), (scene("beach", "dog"), 9.0)]
    np.testing.assert_array_equal(make(parts).wave, make(parts).wave)
    assert not np.array_equal(make(parts).wave, make(parts, seed=1).wave)


@pytest.mark.parametrize("channels", [1, 2])
def test_soundtrack_shape_and_range(channels):
    wave = make([(scene(), 5.5)], channels=channels).wave
    assert wave.shape == (channels, round(5.5 * RATE))
    assert wave.dtype == np.float32
    assert np.abs(wave).max() <= 1
    assert channels == 1 or not np.array_equal(wave[0], wave[1])


@pytest.mark.parametrize("name", OBJECTS)
def test_events_repeat(name):
    """At least two events in any five seconds, and one in any three."""
    for seed in range(3):
        events = make([(scene(name=name), 15.0)], seed=seed).events
        starts = [on for on, _ in events]
        for t in np.arange(0, 10, 0.5):
            assert sum(t <= on < t + 5 for on in starts) >= 2
        assert all(off > on for on, off in events)
        assert np.diff([0, *starts, 15]).max() < 3.5


def test_events_are_heard_above_the_ambience():
    track = make([(scene("street", "bird"), 12.0)])
    wave = np.diff(track.wave[0])  # birds are high, streets are low
    on = np.zeros(len(wave), dtype=bool)
    for start, stop in track.events:
        on[int(start * RATE) : int(stop * RATE)] = True
    assert rms(wave[on]) > 3 * rms(wave[~on])


def test_each_scene_sounds_in_its_own_part():
    wave = make([(scene("street", "drum"), 6.0), (scene("meadow", "bird"), 12.0)]).wave[0]
    assert centroid(wave[7 * RATE :]) > 5 * centroid(wave[: 5 * RATE])


def test_quiet_is_twenty_decibels_less():
    parts = [(scene(), 6.0)]
    assert rms(make(parts, Disturbance(quiet=True)).wave) == pytest.approx(
        rms(make(parts).wave) / 10, rel=1e-4
    )


def test_disturbances_are_heard():
    parts = [(scene(), 10.0)]
    plain = make(parts).wave
    noisy = make(parts, Disturbance(noisy=True)).wave
    offscreen = make(parts, Disturbance(offscreen="bird"))
    assert rms(np.diff(noisy)) > 1.2 * rms(np.diff(plain))
    assert centroid(offscreen.wave[0]) > centroid(plain[0])
    # What cannot be seen is no event of the picture.
    assert offscreen.events == make(parts).events
