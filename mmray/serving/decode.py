"""What runs in the child processes that decode uploads; it imports little."""

from __future__ import annotations

import numpy as np

from mmray.errors import MediaError
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


def ready() -> None:
    """Do nothing; a child that answers has imported this module."""
