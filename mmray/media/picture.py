"""Pictures as callers give them: pixels, the bytes of a file, or its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmray import storage
from mmray.errors import MediaError, UserError
from mmray.media.image import decode_image

Image = np.ndarray | bytes | str | Path
"""Pixels uint8 [height, width, 3], the bytes of a picture file, or its path."""


def read_pictures(images: Sequence[Image]) -> list[np.ndarray]:
    """Pixels of pictures, uint8 [height, width, 3] each.

    Raises:
        MediaError: a picture cannot be decoded.
        UserError: something is no picture, or not a list.
    """
    if isinstance(images, str | bytes | Path):
        raise UserError("images: expected a list of pictures, as in [picture]")
    return [_pixels(image) for image in images]


def _pixels(image: Image) -> np.ndarray:
    uri = ""
    if isinstance(image, str | Path):
        uri = str(image)
        with storage.open_file(uri) as f:
            image = f.read()
    if isinstance(image, bytes):
        try:
            return decode_image(image)
        except MediaError as e:
            raise MediaError(e.stage, e.reason, uri) from e
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"a picture is {pixels.dtype} {list(pixels.shape)}, expected uint8 [height, width, 3], "
            "the bytes of a picture file, or its path"
        )
    return pixels
