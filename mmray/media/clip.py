"""A clip of a video: its sound, a few frames and a thumbnail, in one go."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mmray.errors import MediaError
from mmray.media.container import MediaFile
from mmray.media.frames import FrameMode, frames_at
from mmray.media.image import thumbnail
from mmray.media.sound import SAMPLE_RATE, from_pcm16, read_window, to_pcm16

MIN_SOUND = 0.5
"""Part of a clip that sound must cover."""
MIN_DURATION_S = 0.2
"""A shorter sound tells nothing."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
        audio: int16 [n], mono at `SAMPLE_RATE`.
        frames: uint8 [T, size, size, 3]; T is 0 where frames were not wanted.
        frame_times: float32 [T]: where each frame begins, in seconds from the start of the clip,
            or 0 for one that was shown before already.
        thumbnail: JPEG of the middle frame; empty where frames were not wanted.
    """

    audio: np.ndarray
    frames: np.ndarray
    frame_times: np.ndarray
    thumbnail: bytes

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds."""
        return len(self.audio) / SAMPLE_RATE

    @property
    def waveform(self) -> np.ndarray:
        """The sound as float32 [n] in [-1, 1)."""
        return from_pcm16(self.audio.astype("<i2").tobytes())


def decode_clip(
    path: str | os.PathLike[str],
    start_s: float,
    duration_s: float,
    num_frames: int,
    size: int,
    mode: FrameMode = "exact",
    want_frames: bool = True,
) -> Clip:
    """Decode the sound of a clip and `num_frames` frames spread over it.

    Frame i is wanted at `(i + 0.5) / num_frames` of the clip's length, which is that of its sound:
    shorter than `duration_s` where the file ends earlier.

    Args:
        path: local file.
        start_s: start of the clip in seconds from the start of the file.
        duration_s: its length.
        num_frames: T.
        size: width and height of the frames in pixels.
        mode: `exact` frames, or the nearest `keyframe` within the clip.
        want_frames: whether to decode frames at all.

    Raises:
        MediaError: stage `open`, `sound` or `frames`; sound comes first.
    """
    with MediaFile(path) as file:
        # The cheaper half first: a file without sound never costs the decoding of frames.
        wave = read_window(file, start_s, duration_s)
        audio = np.frombuffer(to_pcm16(wave), "<i2").astype(np.int16)
        length = len(audio) / SAMPLE_RATE
        if length < max(MIN_SOUND * duration_s, MIN_DURATION_S):
            raise MediaError(
                "sound",
                f"there are {length:.2f} s of sound in this clip of {duration_s:.2f} s",
                file.path,
            )
        if not want_frames:
            return Clip(audio, np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.float32), b"")
        if file.is_still:
            raise MediaError("frames", "the picture is a single frame", file.path)
        offsets = (np.arange(num_frames) + 0.5) * length / num_frames
        window = (start_s, start_s + length)
        frames, times = frames_at(file, (start_s + offsets).tolist(), size, mode, window)
    relative = np.clip(times - np.float32(start_s), 0.0, length).astype(np.float32)
    return Clip(audio, frames, relative, thumbnail(frames[num_frames // 2]))
