"""Crops stay tied to their frames, and augmentation does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.media import sound
from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.data import SoundExamples, heads_of

RATE = 100
PLAIN = AugmentConfig(gain_db=(0, 0), mix=0, flip=0)


def row(seconds: float = 20.0, frames: int = 4, wave: np.ndarray | None = None) -> dict[str, Any]:
    """A clip whose sample at time t is t / 100, and whose frame i has all weight on class i."""
    if wave is None:
        wave = np.arange(round(seconds * RATE), dtype=np.float32) / RATE / 100
    seconds = len(wave) / RATE
    return {
        "id": "clip",
        "sample_rate": RATE,
        "duration_s": seconds,
        "audio": sound.to_pcm16(wave),
        "frame_times": (np.arange(frames, dtype=np.float32) + 0.5) * np.float32(seconds / frames),
        "objects": np.eye(frames, 8, dtype=np.float16),
    }


def examples(crop_s: float = 5.0, **kwargs: Any) -> SoundExamples:
    return SoundExamples(heads=("objects",), crop_s=crop_s, sample_rate=RATE, **kwargs)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=50, deadline=None)
@given(seconds=st.floats(1.0, 30.0), crop_s=st.floats(0.5, 25.0), seed=st.integers(0, 1000))
def test_frames_stay_where_they_are_in_the_sound(seconds: float, crop_s: float, seed: int) -> None:
    clip = row(seconds)
    batch = examples(crop_s)([clip], [clip], [rng(seed)])
    wave, times, weights = (batch[k][0].numpy() for k in ("wave", "frame_times", "weights"))
    assert wave.shape == (round(crop_s * RATE),)
    assert weights.any()
    inside = (times >= 0) & (times < crop_s)
    if inside.any():
        np.testing.assert_array_equal(weights, inside)
    for time, frame_time in zip(times, clip["frame_times"], strict=True):
        at = round(float(time) * RATE)
        if 0 <= at < len(wave):  # the sample says which second of the clip it is from
            assert abs(wave[at] * 100 - frame_time) < 0.02


def test_evaluation_takes_the_middle_and_is_always_the_same() -> None:
    batch = examples(10.0, augment=AugmentConfig())([row()], [row()], [])
    again = examples(10.0, augment=AugmentConfig())([row()], [row()], [])
    assert batch["wave"][0, 0] * 100 == pytest.approx(5.0, abs=0.01)
    assert batch["frame_times"][0].tolist() == [-2.5, 2.5, 7.5, 12.5]
    assert batch["weights"][0].tolist() == [0, 1, 1, 0]
    assert batch["window_s"].tolist() == [5.0]
    assert batch["wave"].equal(again["wave"])


def test_short_clips_are_repeated() -> None:
    clip = row(3.0, frames=2)
    batch = examples(5.0)([clip], [clip], [])
    wave = batch["wave"][0].numpy() * 100
    assert wave[[0, 299, 300, 499]] == pytest.approx([0.0, 2.99, 0.0, 1.99], abs=0.01)
    assert batch["frame_times"][0].tolist() == [0.75, 2.25]
    assert batch["weights"][0].tolist() == [1, 1]


def test_a_crop_between_two_frames_takes_the_nearer_one() -> None:
    clip = row(20.0)
    for seed in range(20):
        batch = examples(1.0)([clip], [clip], [rng(seed)])
        weights, times = batch["weights"][0], batch["frame_times"][0]
        assert weights.sum() == 1
        assert abs(times[weights.argmax()] - 0.5) == abs(times - 0.5).min()


def test_unaligned_frames_are_tied_by_position() -> None:
    whole = examples(20.0, aligned=False)([row()], [row()], [])
    assert whole["objects"][0].argmax(-1).tolist() == [0, 1, 2, 3]
    assert whole["weights"][0].tolist() == [1, 1, 1, 1]
    part = examples(10.0, aligned=False)([row()], [row()], [])  # seconds 5 to 15
    assert part["objects"][0].argmax(-1).tolist() == [1, 2]


def test_gain_and_flip() -> None:
    clip = row(wave=np.full(2000, 0.1, np.float32))
    louder = AugmentConfig(gain_db=(6.0206, 6.0206), mix=0, flip=1)
    batch = examples(augment=louder)([clip], [clip], [rng()])
    np.testing.assert_allclose(batch["wave"], -0.2, atol=1e-3)
    batch = examples(augment=PLAIN)([clip], [clip], [rng()])
    np.testing.assert_allclose(batch["wave"], 0.1, atol=1e-3)


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_other_sound_is_mixed_in_at_the_ratio_asked_for(snr: float) -> None:
    noise = np.random.default_rng(1).normal(size=(2, 2000)).astype(np.float32)
    clip, other = row(wave=noise[0] * 0.01), row(wave=noise[1] * 0.2)
    mixing = AugmentConfig(gain_db=(0, 0), mix=1, mix_snr_db=(snr, snr), flip=0)
    mixed = examples(augment=mixing)([clip], [other], [rng(3)])
    alone = examples(augment=PLAIN)([clip], [other], [rng(3)])
    added = mixed["wave"] - alone["wave"]
    ratio = 20 * np.log10(float(alone["wave"].std() / added.std()))
    assert ratio == pytest.approx(snr, abs=0.5)
    assert mixed["objects"].equal(alone["objects"])


def test_silence_can_be_mixed() -> None:
    silent = row(wave=np.zeros(2000, np.float32))
    mixing = AugmentConfig(mix=1)
    for pair in ((silent, row()), (row(), silent), (silent, silent)):
        wave = examples(augment=mixing)([pair[0]], [pair[1]], [rng()])["wave"]
        assert bool(wave.isfinite().all())


def test_flac_clips_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = row()
    packed = {**clip, "audio": sound.to_flac(sound.from_pcm16(clip["audio"]), RATE * 100)}
    for seed in range(3):
        plain = examples()([clip], [clip], [rng(seed)])
        flac = examples(encoding="flac")([packed], [packed], [rng(seed)])
        np.testing.assert_allclose(plain["wave"], flac["wave"], atol=1e-4)
        assert plain["frame_times"].equal(flac["frame_times"])


def test_other_sample_rates_are_refused() -> None:
    clip = {**row(), "sample_rate": 44100}
    with pytest.raises(UserError, match="clip clip: has 44100"):
        examples()([clip], [clip], [])


@pytest.mark.parametrize(
    ("values", "flag"),
    [({"mix": 1.5}, "--mix"), ({"gain_db": (3.0, -3.0)}, "--gain-db"), ({"flip": -1}, "--flip")],
)
def test_augment_config_names_the_flag(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        AugmentConfig(**values).check()


def test_heads_are_those_with_classes() -> None:
    assert heads_of({"scenes": ["a"], "objects": ["b"], "other": ["c"]}) == ("objects", "scenes")
    assert heads_of({"scenes": ["a"]}) == ("scenes",)


def test_frames_that_met_the_same_picture_keep_their_windows() -> None:
    clip = row(20.0) | {"frame_times": np.zeros(4, np.float32)}
    batch = examples(5.0)([clip], [clip], [rng()])
    assert batch["window_s"].tolist() == [5.0]
