"""Sound of audio and video files, decoded by PyAV: only the window needed, mono, resampled."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from mmray.errors import MediaError
from mmray.media.container import MediaFile, media_errors
from mmray.media.probe import MediaInfo, probe

__all__ = [
    "SAMPLE_RATE",
    "MediaInfo",
    "from_flac",
    "from_pcm16",
    "probe",
    "read_sound",
    "read_window",
    "to_flac",
    "to_pcm16",
]

SAMPLE_RATE = 22050
MAX_SOUND_S = 4 * 3600
"""The longest window that is read at once."""

# Decoders need some packets before the first right sample: MP3 about ten (its bit reservoir),
# Opus 80 ms, AAC and Vorbis one or two packets.
_PREROLL_S = 0.4
# The resampler's filter reaches less far than this.
_MARGIN_S = 0.05
# These have no index and no time stamps: seeking in them guesses from the bit rate.
_UNSEEKABLE = frozenset({"aac", "ac3", "amr", "dts", "eac3", "mp3", "truehd"})
# In these the header says how long the sound is, so that a shorter one shows a broken download.
# WAV files from pipes claim any length.
_KNOW_THEIR_LENGTH = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "avi", "flac"})
_CUT_OFF_S = 1.0
_MAX_DAMAGED = 0.05
_RATES = (1000, 768_000)
_BLOCK = 16384


def read_sound(
    path: str | os.PathLike[str],
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """A window of a file's sound as mono.

    The samples are those of the whole file's sound from `round(start_s * sample_rate)` on:
    neighbouring windows join without a seam. Silence stands where the file has a gap.

    Args:
        path: local file, anything FFmpeg decodes.
        start_s: start of the window in seconds from the start of the file.
        duration_s: its length; None reads to the end.
        sample_rate: samples per second of the result.

    Returns:
        float32 [n] in [-1, 1]: the average of all channels. Shorter than the window where the
        file ends earlier; never empty.

    Raises:
        MediaError: stage `open`, or stage `sound`: no sound, damaged, cut off within the window,
            not finite numbers, or the window begins after the end.
    """
    with MediaFile(path) as file:
        return read_window(file, start_s, duration_s, sample_rate)


def read_window(
    file: MediaFile,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """`read_sound` of an open file."""
    if start_s < 0 or (duration_s is not None and duration_s <= 0) or sample_rate <= 0:
        raise ValueError(f"no such window: {start_s} s, {duration_s} s at {sample_rate} Hz")
    end_s = None if duration_s is None else start_s + duration_s
    with media_errors("sound", file.path, "the sound cannot be decoded"):
        if file.sound is None:
            raise MediaError("sound", "has no sound")
        if file.container.format.name not in _UNSEEKABLE and start_s > 1:
            try:
                return _read(file, start_s, end_s, sample_rate, seek=True)
            except (_SeekError, av.FFmpegError):
                file.restart()
        return _read(file, start_s, end_s, sample_rate, seek=False)


class _SeekError(Exception):
    """Seeking led to a place behind the one asked for."""


def _read(
    file: MediaFile, start_s: float, end_s: float | None, sample_rate: int, seek: bool
) -> np.ndarray:
    window: _Window | None = None
    for time, frame in _frames(file, max(0.0, start_s - _PREROLL_S), seek):
        if window is None:
            window = _Window(frame.sample_rate, sample_rate, start_s, end_s)
        elif frame.sample_rate != window.rate:
            raise MediaError(
                "sound", f"changes its rate from {window.rate} to {frame.sample_rate} Hz"
            )
        window.add(time, _mono(frame), must_precede=seek)
        if window.is_complete:
            break
    else:
        if window is not None:
            _check_end(file, window.end_s)
    if window is None:
        if seek:
            raise _SeekError
        raise MediaError("sound", "not one sample of the sound can be decoded")
    return window.finish()


def _check_end(file: MediaFile, end_s: float) -> None:
    """At the end of the file: raise a `MediaError` if the sound was to go on."""
    stream = file.sound
    assert stream is not None
    if file.container.format.name not in _KNOW_THEIR_LENGTH or not file.container.duration:
        return
    # The container's duration is after cuts by an edit list, the stream's may be before.
    promised = min(file.seconds(stream.duration, stream), file.container.duration / av.time_base)
    if end_s < promised - _CUT_OFF_S:
        raise MediaError(
            "sound", f"is cut off: the sound ends at {end_s:.2f} s instead of {promised:.2f} s"
        )


def _frames(
    file: MediaFile, from_s: float, seek: bool
) -> Iterator[tuple[float | None, AudioFrame]]:
    """Decoded frames from about `from_s` on, each with its time in the file."""
    stream = file.sound
    assert stream is not None
    packets = damaged = 0
    end = 0.0
    for time, packet in file.packets(stream, from_s if seek else None):
        if time is not None:
            end = max(end, time + file.seconds(packet.duration, stream))
            if time + 1 < from_s:
                continue
        packets += 1
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            damaged += 1
            # The first packet after seeking is often cut; a file full of them is no sound.
            if damaged > 2 + _MAX_DAMAGED * packets:
                raise MediaError(
                    "sound", f"more than {_MAX_DAMAGED:.0%} of the sound's packets are damaged"
                ) from None
            continue
        for frame in frames:
            yield file.time_of(frame.pts, stream), frame
    if not packets and end:
        raise MediaError("sound", f"the sound ends at {end:.2f} s, before this window")
    for frame in stream.decode(None):
        yield file.time_of(frame.pts, stream), frame


def _mono(frame: AudioFrame) -> np.ndarray:
    """The average of all channels of a decoded frame: float32 [n]."""
    dtype, wide, zero, scale = _SAMPLE_TYPES[frame.format.name.removesuffix("p")]
    num_channels = frame.layout.nb_channels
    # Not `to_ndarray`: in PyAV 18.1 it reads past the planes of eight and more channels.
    if frame.format.is_planar:
        planes = frame.planes[:num_channels]
        channels = [np.frombuffer(memoryview(plane), dtype, frame.samples) for plane in planes]
    else:
        plane = memoryview(frame.planes[0])
        packed = np.frombuffer(plane, dtype, frame.samples * num_channels)
        channels = list(packed.reshape(-1, num_channels).T)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is found, and told, later on
        total = channels[0].astype(wide)
        for channel in channels[1:]:
            total += channel
        return ((total - zero * num_channels) / (scale * num_channels)).astype(np.float32)


# By FFmpeg's name: type, type to add up in, value of silence, full scale.
_SAMPLE_TYPES: dict[str, tuple[Any, Any, int, float]] = {
    "u8": (np.uint8, np.float32, 128, 128.0),
    "s16": (np.int16, np.float32, 0, 2.0**15),
    "s32": (np.int32, np.float64, 0, 2.0**31),
    "s64": (np.int64, np.float64, 0, 2.0**63),
    "flt": (np.float32, np.float32, 0, 1.0),
    "dbl": (np.float64, np.float64, 0, 1.0),
}


class _Window:
    """Puts decoded frames on the file's time line and resamples from a common grid.

    Resampling starts at an input sample that falls together with an output sample of the whole
    file, so that any window holds the same samples as that part of the whole.
    """

    def __init__(self, rate: int, out_rate: int, start_s: float, end_s: float | None) -> None:
        if not _RATES[0] <= rate <= _RATES[1]:
            raise MediaError("sound", f"has an impossible sample rate of {rate} Hz")
        self.rate, self.out_rate, self.start_s = rate, out_rate, start_s
        step = rate // math.gcd(rate, out_rate)
        self._cursor = self._origin = int(max(0.0, start_s - _MARGIN_S) * rate) // step * step
        self._first = round(start_s * out_rate)
        self._last = None if end_s is None else round(end_s * out_rate)
        self._bounded = end_s is not None and end_s - start_s <= MAX_SOUND_S
        until_s = end_s if end_s is not None and self._bounded else start_s + MAX_SOUND_S
        self._limit = int((until_s + _MARGIN_S) * rate)
        self._expected: int | None = None
        self._blocks: list[np.ndarray] = []
        self._pending = 0
        self._out: list[np.ndarray] = []
        self._resampler = AudioResampler(format="fltp", layout="mono", rate=out_rate)

    @property
    def end_s(self) -> float:
        """End of the last frame so far, in seconds of the file."""
        return (self._expected or 0) / self.rate

    @property
    def is_complete(self) -> bool:
        """Whether all samples of the window are there."""
        return self._bounded and self._cursor >= self._limit

    def add(self, time: float | None, samples: np.ndarray, must_precede: bool) -> None:
        """Take the next decoded frame, presented at `time` seconds of the file."""
        index = self._expected or 0 if time is None else round(time * self.rate)
        tolerance = self.rate // 500  # time stamps of Matroska are rounded to 1 ms
        if self._expected is None:
            if must_precede and (time is None or index > self._origin + tolerance):
                raise _SeekError
        elif abs(index - self._expected) <= tolerance:
            index = self._expected
        self._expected = index + len(samples)
        samples = samples[max(0, self._cursor - index) :]
        if not len(samples):
            return
        gap = min(max(0, index - self._cursor), self._limit - self._cursor)
        if gap > 0:
            self._push(np.zeros(gap, np.float32))
        self._push(samples[: max(0, self._limit - self._cursor)])
        if self._cursor >= self._limit and not self._bounded:
            raise MediaError(
                "sound", f"is longer than {MAX_SOUND_S / 3600:g} hours; read it in windows"
            )

    def _push(self, samples: np.ndarray) -> None:
        self._cursor += len(samples)
        self._blocks.append(samples)
        self._pending += len(samples)
        if self._pending >= _BLOCK:
            self._resample()

    def _resample(self) -> None:
        block = np.concatenate(self._blocks)
        self._blocks, self._pending = [], 0
        if not np.isfinite(block).all():
            raise MediaError("sound", "has samples that are not finite numbers (NaN or infinite)")
        frame = AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
        frame.sample_rate = self.rate
        self._out += [f.to_ndarray()[0] for f in self._resampler.resample(frame)]

    def finish(self) -> np.ndarray:
        """The window's samples."""
        if self._pending:
            self._resample()
        self._out += [f.to_ndarray()[0] for f in self._resampler.resample(None)]
        start = self._origin * self.out_rate // self.rate
        end = self._cursor * self.out_rate // self.rate - start
        if self._last is not None:
            end = min(end, self._last - start)
        wave = np.concatenate(self._out or [np.zeros(0, np.float32)])[self._first - start : end]
        if not len(wave):
            raise MediaError("sound", f"the sound ends at {self.end_s:.2f} s, before this window")
        return np.clip(wave, -1.0, 1.0)


def to_pcm16(wave: np.ndarray) -> bytes:
    """float [n] in [-1, 1] as 16-bit little-endian PCM; louder samples are clipped."""
    scaled = np.rint(np.asarray(wave, np.float32) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def from_pcm16(data: bytes) -> np.ndarray:
    """16-bit little-endian PCM as float32 [n] in [-1, 1)."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768.0)


def to_flac(wave: np.ndarray, rate: int) -> bytes:
    """float [n] in [-1, 1] as a 16-bit mono FLAC file."""
    samples = np.frombuffer(to_pcm16(wave), "<i2").astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=rate, layout="mono")
        for start in range(0, len(samples), _BLOCK):
            block = samples[None, start : start + _BLOCK]
            frame = AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def from_flac(data: bytes) -> np.ndarray:
    """The samples of a FLAC file as float32 [n] in [-1, 1), at the file's own rate.

    Raises:
        MediaError: stage `sound`; not a FLAC file with samples.
    """
    with (
        media_errors("sound", "", "is not a FLAC file"),
        av.open(io.BytesIO(data), "r", format="flac") as container,
    ):
        blocks = [_mono(frame) for frame in container.decode(audio=0)]
        return np.concatenate(blocks)
