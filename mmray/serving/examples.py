"""Pictures and sounds to try the page with, drawn from the toy world when they are looked at."""

from __future__ import annotations

import io
import re
import wave
from functools import lru_cache

import numpy as np
from PIL import Image
from pydantic import BaseModel

from mmray.toyworld.build import plan_image
from mmray.toyworld.draw import draw
from mmray.toyworld.sound import Disturbance, soundtrack

SEED = 1  # another world than the one that models are trained on by default
PICTURES, SOUNDS = 12, 6
SECONDS, RATE = 6.0, 22050


class Example(BaseModel):
    """One file to try."""

    name: str
    title: str


class Examples(BaseModel):
    """Files to try, at `/examples/NAME`."""

    pictures: list[Example]
    sounds: list[Example]


def listed() -> Examples:
    """All examples."""
    return Examples(
        pictures=[Example(name=f"picture-{i}.jpg", title=_title(i)) for i in range(PICTURES)],
        sounds=[Example(name=f"sound-{i}.wav", title=_sound_title(i)) for i in range(SOUNDS)],
    )


def read(name: str) -> tuple[bytes, str] | None:
    """Content and media type of an example, or None."""
    if match := re.fullmatch(r"picture-(\d{1,3})\.jpg", name):
        number = int(match[1])
        return (_picture(number), "image/jpeg") if number < PICTURES else None
    if match := re.fullmatch(r"sound-(\d{1,3})\.wav", name):
        number = int(match[1])
        return (_sound(number), "audio/wav") if number < SOUNDS else None
    return None


def _title(number: int) -> str:
    return plan_image(SEED, number).captions[0]


def _sound_title(number: int) -> str:
    scene = plan_image(SEED, PICTURES + number).scene
    return f"a {scene.object}, {scene.place}"


@lru_cache(PICTURES)
def _picture(number: int) -> bytes:
    out = io.BytesIO()
    pixels = draw(plan_image(SEED, number).scene, (360, 480))
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return out.getvalue()


@lru_cache(SOUNDS)
def _sound(number: int) -> bytes:
    scene = plan_image(SEED, PICTURES + number).scene
    rng = np.random.default_rng([SEED, number])
    sound = soundtrack([(scene, SECONDS)], RATE, 1, Disturbance(), rng)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(sound.wave[0], -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()
