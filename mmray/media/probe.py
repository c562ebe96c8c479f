"""What is in an audio or video file, from its headers."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Stream

from mmray.errors import MediaError
from mmray.media.container import MediaFile, media_errors

MAX_DURATION_S = 30 * 24 * 3600.0
"""A longer file is taken for a broken header."""
MIN_BYTES_PER_S = 25.0
"""So is one with less than that: 200 bit/s, a quarter of what the thriftiest speech codec takes."""
SCANTY_BYTES_PER_S = 1000.0
"""Of one with less than that the packets are asked too, whatever its header says."""


@dataclass(frozen=True)
class MediaInfo:
    """What the headers of a file say.

    Attributes:
        duration_s: length in seconds; 0 for a still picture.
        has_video: whether there is a picture stream; cover art does not count.
        has_sound: whether there is an audio stream that can be decoded.
        width: pixels of the coded picture, before turning; 0 without one.
        height: as `width`.
        fps: frames per second as the header says; 0 where unknown.
        sample_rate: samples per second as the header says; 0 without sound.
        channels: channels of the sound; 0 without sound.
        is_still: the picture is known to be a single frame.
    """

    duration_s: float
    has_video: bool
    has_sound: bool
    width: int
    height: int
    fps: float
    sample_rate: int
    channels: int
    is_still: bool


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """Look into the headers of a local file.

    Packets are read only where headers lack a duration, or claim one that is long for the file.

    Raises:
        MediaError: stage `open` (missing, empty, unreadable, unknown format) or `probe` (neither
            picture nor sound, a duration of zero, below zero or over 30 days).
    """
    with MediaFile(path) as file, media_errors("probe", file.path, "cannot be probed"):
        picture, sound = file.picture, file.sound
        if picture is None and sound is None:
            raise MediaError("probe", "holds neither a picture nor a sound that can be decoded")
        return MediaInfo(
            duration_s=0.0 if file.is_still and sound is None else _duration(file),
            has_video=picture is not None,
            has_sound=sound is not None,
            width=picture.width if picture else 0,
            height=picture.height if picture else 0,
            fps=float(picture.average_rate or 0) if picture else 0.0,
            sample_rate=sound.rate or 0 if sound else 0,
            channels=sound.channels if sound else 0,
            is_still=file.is_still,
        )


def _duration(file: MediaFile) -> float:
    claimed = (file.container.duration or 0) / av.time_base
    seconds = claimed or _packet_duration(file)
    if not math.isfinite(seconds) or not 0 < seconds <= MAX_DURATION_S:
        raise MediaError(
            "probe", f"has an impossible duration: {seconds:g} s (expected 0 to 30 days)"
        )
    size = Path(file.path).stat().st_size
    if size < seconds * MIN_BYTES_PER_S:
        raise MediaError("probe", f"has an impossible duration: {seconds:g} s in {size} bytes")
    if claimed and size < seconds * SCANTY_BYTES_PER_S:
        # Speech can be that thrifty. But of a false claim would come any number of clips that all
        # fail, and so few bytes are read in no time.
        with contextlib.suppress(av.FFmpegError):
            found = _packet_duration(file)
            if 0 < found < seconds / 2:
                return found
    return seconds


def _packet_duration(file: MediaFile) -> float:
    """The end of the last packet, for formats whose headers do not say."""
    streams: list[Stream] = [s for s in (file.picture, file.sound) if s is not None]
    end = 0.0
    for packet in file.container.demux(streams):
        time = file.time_of(packet.pts, packet.stream)
        if time is not None:
            end = max(end, time + file.seconds(packet.duration, packet.stream))
    return end
