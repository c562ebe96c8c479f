"""Small media files whose content is known to the sample and to the frame."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

BITS = 10  # a frame shows its number in this many columns, black or white


def draw_number(number: int, width: int, height: int) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            picture[:, bit * width // BITS : (bit + 1) * width // BITS] = 255
    return picture


def read_number(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    columns = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(columns) if frame[height // 2, x].mean() > 128)


def write_sound(output, wave: np.ndarray, codec: str, rate: int, **options) -> None:
    """Add wave[channels, n] as a stream that is complete at once."""
    layout = options.pop("layout", {1: "mono", 2: "stereo", 6: "5.1"}.get(len(wave)))
    stream = output.add_stream(codec, rate=rate, layout=layout, options=options.pop("options", {}))
    packed = np.ascontiguousarray(wave.T, np.float32).reshape(1, -1)
    for start in range(0, wave.shape[1], 8192):
        block = packed[:, start * len(wave) : (start + 8192) * len(wave)]
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def make_sound(
    path: Path,
    wave: np.ndarray,
    codec: str = "pcm_s16le",
    rate: int = 44100,
    exact: bool = False,
    **options,
) -> Path:
    """A file of wave[channels, n]; `exact`: the same bytes each time."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"} if exact else {}) as output:
        write_sound(output, np.atleast_2d(wave), codec, rate, **options)
    return path


def make_video(
    path: Path,
    num_frames: int = 100,
    codec: str = "libx264",
    *,
    size: tuple[int, int] = (120, 120),
    times: Callable[[int], int] = lambda i: i,
    clock: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    rate: int = 44100,
    rotation: int | None = None,
    pixel_aspect: Fraction | None = None,
    draw: Callable[[int, int, int], np.ndarray] = draw_number,
    group: int | None = None,
    b_frames: int | None = None,
) -> Path:
    """A video of numbered frames, `times(i)` ticks of `clock` after the start.

    `group` frames at most go from one key frame to the next.
    """
    with av.open(str(path), "w", options=container_options or {}) as output:
        # Without it x264 takes a change of the highest bit for a change of scene.
        scene_cuts = {"sc_threshold": "0"} if codec == "libx264" else {}
        video = output.add_stream(codec, rate=25, options={**scene_cuts, **(options or {})})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = clock
        if group is not None:
            video.codec_context.gop_size = group
        if b_frames is not None:
            video.codec_context.max_b_frames = b_frames
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            video.set_display_rotation(rotation)
        packets = []
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(i, *size), format="rgb24")
            frame.pts, frame.time_base = times(i), clock
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound is not None:
            # Streams must all be there before the first packet is written.
            write_sound_later = output.add_stream(sound_codec, rate=rate, layout="mono")
            for packet in packets:
                output.mux(packet)
            for start in range(0, len(sound), 8192):
                block = np.ascontiguousarray(sound[None, start : start + 8192], np.float32)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                output.mux(write_sound_later.encode(frame))
            output.mux(write_sound_later.encode(None))
        else:
            for packet in packets:
                output.mux(packet)
    return path


def make_clicks(seconds: float, times: list[float], rate: int = 44100) -> np.ndarray:
    """A soft varying tone with a loud short click at each of the times."""
    t = np.arange(int(seconds * rate)) / rate
    wave = 0.05 * np.sin(2 * np.pi * (300 + 10 * t) * t)
    for time in times:
        start = round(time * rate)
        wave[start : start + rate // 2000] += 0.8
    return wave.astype(np.float32)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Writers of media files."""
    return SimpleNamespace(
        sound=make_sound,
        add_sound=write_sound,
        video=make_video,
        clicks=make_clicks,
        number=draw_number,
        read_number=read_number,
    )


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s of numbered frames at 25 a second with a click at 3 s."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    return make_video(path, 150, sound=make_clicks(6, [3.0]), group=50)
