"""What runs in the child processes that decode uploads; it imports little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from mmray.errors import MediaError
from mmray.media.image import Fit, decode_image, square
from mmray.media.sound import SAMPLE_RATE, read_sound


def decode_sound(path: str, max_duration_s: float) -> np.ndarray:
    """Decode the whole sound of a local file.

    Returns:
        float32[n] mono at `SAMPLE_RATE`, in [-1, 1].

    Raises:
        MediaError: as `read_sound` does, or the sound lasts longer than `max_duration_s`.
    """
    # Headers may lie about the length, so decode a bit more than is allowed and look.
    waveform = read_sound(path, duration_s=max_duration_s + 0.5)
    if len(waveform) > max_duration_s * SAMPLE_RATE:
        raise MediaError("sound", f"its sound lasts longer than {max_duration_s:g} s")
    return waveform


def decode_picture(path: str, max_pixels: int, size: int, fit: Fit) -> np.ndarray:
    """Decode a picture, as the square that a net wants to see.

    Fitting it here and not in the model spares the way of a large picture between processes.

    Returns:
        uint8[size, size, 3].

    Raises:
        MediaError: as `decode_image` does; stage `open` where it is no picture at all.
    """
    try:
        return square(decode_image(Path(path).read_bytes(), max_pixels=max_pixels), size, fit)
    except MediaError as e:
        if isinstance(e.__cause__, UnidentifiedImageError):
            raise MediaError("open", e.reason) from e.__cause__
        raise


def ready() -> None:
    """Do nothing; a child that answers has imported this module."""
