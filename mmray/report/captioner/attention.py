"""Where a captioner looked for each word, drawn over the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import zoom

from mmray.captioner.data import as_places
from mmray.captioner.predict import Captioner
from mmray.errors import MediaError
from mmray.media.image import Fit, decode_image, square
from mmray.report.page import Media

SIDE = 144
"""Pixels of a picture with a map; shown smaller, so that paper has them sharp."""
# From little to much attention: red, green, blue and how much of them covers the picture. Ever
# lighter, so that it can also be read without colour.
_SCALE = np.array(
    [
        [16, 12, 44, 0.72],
        [74, 26, 108, 0.66],
        [158, 44, 112, 0.54],
        [226, 92, 68, 0.42],
        [250, 174, 74, 0.32],
        [255, 240, 178, 0.26],
    ]
)


def overlay(pixels: np.ndarray, looked: np.ndarray) -> bytes:
    """A map over the picture: a JPEG of `SIDE` pixels a side.

    Args:
        pixels: uint8 [SIDE, SIDE, 3], the square that the nets saw.
        looked: float [rows, columns], 0 or more; what has the most is the lightest.
    """
    rows, columns = looked.shape
    # Without the filter the cubic spline does not overshoot: smooth, and never below 0.
    fine = zoom(
        looked.astype(np.float64),
        (SIDE / rows, SIDE / columns),
        order=3,
        mode="nearest",
        prefilter=False,
        grid_mode=True,
    )
    place = np.clip(fine / max(float(fine.max()), 1e-12), 0, 1) * (len(_SCALE) - 1)
    low = np.minimum(place.astype(int), len(_SCALE) - 2)
    part = (place - low)[..., None]
    colours = _SCALE[low] * (1 - part) + _SCALE[low + 1] * part
    cover = colours[..., 3:]
    return _jpeg(pixels * (1 - cover) + colours[..., :3] * cover)


def looked_at(looked: np.ndarray) -> str:
    """Where on a map [rows, columns] the most attention is, in words: "top left", "centre"."""
    row, column = np.unravel_index(int(looked.argmax()), looked.shape)
    across = ["left", "", "right"][int(column) * 3 // looked.shape[1]]
    down = ["top", "", "bottom"][int(row) * 3 // looked.shape[0]]
    return " ".join(filter(None, (down, across))) or "centre"


def attended(
    captioner: Captioner,
    places: np.ndarray,
    thumbnails: Sequence[bytes | None],
    media: Media,
) -> list[dict[str, Any]]:
    """The likeliest caption of each picture, and where each of its words was looked for.

    Args:
        captioner: one that sees places.
        places: of the pictures, float [B, N, D].
        thumbnails: of the same; those that cannot be decoded are left out.
        media: of the page.

    Returns:
        Of each picture `caption`; `picture`, a name in `media`, or None; and `words`, each with
        `word`, `picture`, and `where` as `looked_at` says it.

    Raises:
        UserError: the captioner has no attention.
    """
    fit: Fit = captioner.stored.backbone["fit"]
    found = []
    told = captioner.captions_of(places, beam=1, attention=True)
    for captions, thumbnail in zip(told, thumbnails, strict=True):
        pixels = _square(thumbnail, fit)
        caption = captions[0]
        maps = caption.attention
        assert maps is not None
        words = [
            {
                "word": word,
                "where": looked_at(looked),
                "picture": None if pixels is None else media.picture(overlay(pixels, looked)),
            }
            for word, looked in zip(caption.caption.split(), maps, strict=True)
        ]
        plain = None if pixels is None else media.picture(_jpeg(pixels))
        found.append({"caption": caption.caption, "picture": plain, "words": words})
    return found


def places_of_rows(rows: Sequence[dict[str, Any]], column: str) -> np.ndarray:
    """The places [B, N, D] of stored rows."""
    return as_places(np.stack([row[column] for row in rows]))


def _square(thumbnail: bytes | None, fit: Fit) -> np.ndarray | None:
    try:
        return square(decode_image(thumbnail or b""), SIDE, fit)
    except MediaError:
        return None


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()
