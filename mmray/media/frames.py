"""Frames of videos, decoded by decord: only those needed, at the size needed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mmray.errors import MediaError
from mmray.media.container import DECODER_ERRORS, MediaFile, media_errors
from mmray.media.cuts import Cut, exact_cuts, key_cuts

FrameMode = Literal["exact", "keyframe"]

MAX_PIXELS = 64_000_000
"""A larger picture is refused: decoding it takes gigabytes."""
MAX_ASPECT = 16
"""A picture that is this many times longer than wide is refused."""


def read_frames(
    path: str | os.PathLike[str],
    times_s: Sequence[float],
    size: int,
    mode: FrameMode = "exact",
    window_s: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a video as centre-cropped squares.

    Args:
        path: local file.
        times_s: wanted times in seconds from the start of the file, in any order.
        size: width and height of the result in pixels.
        mode: `exact` gives the frames shown at these times; `keyframe` the key frames nearest to
            them, which decode several times faster.
        window_s: in mode `keyframe`, start and end between which key frames must begin; where
            there is none, frames are exact.

    Returns:
        uint8 [T, size, size, 3] in RGB, and float32 [T]: the time in seconds from the start of
        the file at which each frame begins. A turned picture is upright, pixels are square.

    Raises:
        MediaError: stage `open`, or stage `frames`: no picture, a codec that decord does not
            have, damaged, or no frame at one of the times.
    """
    with MediaFile(path) as file:
        return frames_at(file, times_s, size, mode, window_s)


def frames_at(
    file: MediaFile,
    times_s: Sequence[float],
    size: int,
    mode: FrameMode = "exact",
    window_s: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`read_frames` of an open file."""
    from decord import DECORDError

    order = np.argsort(times_s, kind="stable")
    wanted = [float(times_s[i]) for i in order]
    errors = (*DECODER_ERRORS, DECORDError, AssertionError, StopIteration)
    frames: list[np.ndarray] = []
    times: list[float] = []
    with media_errors("frames", file.path, "the frames cannot be read"):
        width, height = _display_size(file)
        cuts = key_cuts(file, wanted, window_s) if mode == "keyframe" else []
        for cut in cuts or exact_cuts(file, wanted):
            what = f"decord cannot decode these {cut.codec} frames"
            with media_errors("frames", file.path, what, errors):
                frames += _decode(cut, width, height, size)
            times += cut.times
    back = np.argsort(order, kind="stable")
    return np.stack(frames)[back], np.array(times, np.float32)[back]


def _display_size(file: MediaFile) -> tuple[float, float]:
    """Width and height of the picture, not turned yet, with pixels made square."""
    stream = file.picture
    if stream is None:
        raise MediaError("frames", "has no picture")
    width, height = stream.width, stream.height
    if not 0 < width * height <= MAX_PIXELS:
        raise MediaError("frames", f"the picture's size of {width}x{height} is not supported")
    aspect = float(stream.sample_aspect_ratio or 0) or 1.0
    if not 1 / MAX_ASPECT <= aspect * width / height <= MAX_ASPECT:
        raise MediaError("frames", f"the picture is too narrow ({width}x{height})")
    return width * aspect, height


def _decode(cut: Cut, width: float, height: float, size: int) -> list[np.ndarray]:
    """The wanted frames of a cut, each [size, size, 3]."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    data = cut.data()
    if _is_on_its_side(data):
        width, height = height, width
    scale = size / min(width, height)
    columns, rows = max(size, round(width * scale)), max(size, round(height * scale))
    # A reader for each use and a single thread: what decord keeps between uses grows.
    reader = decord.VideoReader(io.BytesIO(data), width=columns, height=rows, num_threads=1)
    x, y = (columns - size) // 2, (rows - size) // 2
    frames: list[np.ndarray] = []
    position = 0
    for place in cut.places():
        if place >= position:
            if place > position:
                reader.skip_frames(place - position)
            # For some narrow pictures decord takes the padding of rows for further colours.
            padded = reader.next().asnumpy().reshape(rows, -1)
            picture = padded[:, : 3 * columns].reshape(rows, columns, 3)
            position = place + 1
        frames.append(picture[y : y + size, x : x + size].copy())
    return frames


def _is_on_its_side(data: bytes) -> bool:
    """Whether an MP4 file written by `Cut.data` says that its picture is turned by 90 degrees."""
    header = data.find(b"tkhd")
    if header < 0:
        return False
    # Version 0 of the box: 40 bytes of other fields, then the matrix a b u c d v x y w.
    matrix = np.frombuffer(data[header + 44 : header + 80], ">i4")
    return bool(len(matrix) == 9 and matrix[0] == 0 and matrix[4] == 0)
