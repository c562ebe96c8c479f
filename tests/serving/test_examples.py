"""Pictures and sounds to try the page with."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from PIL import Image

from mmray.serving import examples
from mmray.serving.examples import PICTURES, RATE, SECONDS, SOUNDS


def test_all_that_is_listed_is_there_and_different() -> None:
    listed = examples.listed()
    assert (len(listed.pictures), len(listed.sounds)) == (PICTURES, SOUNDS)
    files = [examples.read(example.name) for example in (*listed.pictures, *listed.sounds)]
    assert None not in files
    assert len({data for data, _ in files}) == PICTURES + SOUNDS
    assert all(example.title for example in (*listed.pictures, *listed.sounds))


def test_a_picture_is_one() -> None:
    data, media_type = examples.read("picture-0.jpg") or (b"", "")
    assert media_type == "image/jpeg"
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (480, 360))


def test_a_sound_is_one_and_is_to_be_heard() -> None:
    data, media_type = examples.read("sound-0.wav") or (b"", "")
    assert media_type == "audio/wav"
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(samples) == SECONDS * RATE
    assert samples.std() > 300
    assert np.abs(samples.astype(int)).max() <= 32767


def test_an_example_is_the_same_every_time() -> None:
    for name in ("picture-1.jpg", "sound-1.wav"):
        first = examples.read(name)
        examples._picture.cache_clear()
        examples._sound.cache_clear()
        assert examples.read(name) == first


@pytest.mark.parametrize(
    "name",
    [
        *(f"picture-{PICTURES}.jpg", f"sound-{SOUNDS}.wav", "picture--1.jpg", "picture-.jpg"),
        *("picture-0.wav", "sound-0.jpg", "picture-0.jpg\n", "xpicture-0.jpg", "", "../gate.py"),
        *("picture-9999.jpg", "picture-0.jpg.jpg"),
    ],
)
def test_there_are_no_others(name: str) -> None:
    assert examples.read(name) is None
