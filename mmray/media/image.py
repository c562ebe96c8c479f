"""Pictures: bytes to upright RGB arrays, squares and thumbnails."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from mmray.errors import MediaError
from mmray.media.container import DECODER_ERRORS, media_errors

# Left out on purpose: formats that start other programs (EPS) or that are lists of drawing
# commands.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF"),
    "WEBP",
)

Fit = Literal["crop", "pad"]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# A block of 8 x 8 pixels takes two bits at the least, which makes 256 pixels a byte.
_JPEG_PIXELS_PER_BYTE = 1000


def decode_image(data: bytes, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decode a picture as people see it.

    It is turned upright as its EXIF says, transparent parts are white, CMYK and palettes become
    RGB, 16-bit depth becomes 8, and of an animation the first frame is taken.

    Args:
        data: a file in one of `FORMATS`.
        max_pixels: a larger picture is refused before it is decoded.

    Returns:
        uint8 [height, width, 3] in RGB.

    Raises:
        MediaError: stage `image`: no picture of a known format, damaged, cut off or too large.
    """
    if not data:
        raise MediaError("image", "is empty (0 bytes)")
    # Pillow warns about half of what it refuses itself; the limit here is `max_pixels`.
    with warnings.catch_warnings(), media_errors("image", "", "the picture cannot be decoded"):
        warnings.simplefilter("ignore")
        Image.init()
        formats = [name for name in FORMATS if name in Image.OPEN]  # not all are in every build
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as e:
            raise MediaError("image", f"has more than {max_pixels} pixels") from e
        except OSError as e:
            raise MediaError("image", "is not a picture of a known format") from e
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise MediaError(
                    "image", f"has {width}x{height} pixels, more than {max_pixels} in all"
                )
            if image.format == "JPEG" and width * height > _JPEG_PIXELS_PER_BYTE * len(data):
                # Its decoder would fill what is not there with grey.
                raise MediaError(
                    "image", f"has an impossible size: {width}x{height} pixels in {len(data)} bytes"
                )
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            upright = image.transpose(turn) if turn is not None else image
            return np.array(_to_rgb(upright))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or EXIF is broken, which spoils no pixel."""
    with contextlib.suppress(*DECODER_ERRORS, TypeError):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, 32 bits or floats (0 to 1, else 0 to 255) as uint8."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MediaError("image", "has values that are not finite numbers")
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    # Pillow gives 16-bit pictures as 32-bit integers in some formats.
    return (np.clip(values, 0, 65535).astype(np.uint32) >> 8).astype(np.uint8)


def square(image: np.ndarray, size: int, fit: Fit = "crop") -> np.ndarray:
    """Resize a picture to a square, antialiased.

    Args:
        image: uint8 [H, W, 3].
        size: width and height of the result.
        fit: `crop` keeps the centre square, `pad` the whole picture on white.

    Returns:
        uint8 [size, size, 3].
    """
    picture = Image.fromarray(image)
    bicubic = Image.Resampling.BICUBIC
    if fit == "crop":
        return np.array(ImageOps.fit(picture, (size, size), bicubic))
    return np.array(ImageOps.pad(picture, (size, size), bicubic, color=(255, 255, 255)))


def thumbnail(image: np.ndarray, size: int = 96, quality: int = 80) -> bytes:
    """A small JPEG of uint8 [H, W, 3]: at most `size` pixels wide and high, never enlarged."""
    picture = Image.fromarray(image)
    picture.thumbnail((size, size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(frozen=True)
class Picture:
    """A decoded picture as models take it.

    Attributes:
        pixels: uint8 [size, size, 3].
        thumbnail: a small JPEG.
        width: of the upright picture in pixels.
        height: of the upright picture in pixels.
    """

    pixels: np.ndarray
    thumbnail: bytes
    width: int
    height: int


def read_picture(path: str | os.PathLike[str], size: int, fit: Fit = "pad") -> Picture:
    """Read a file as a square of `size` pixels and a thumbnail.

    Raises:
        MediaError: as `decode_image`, or the file cannot be opened.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise MediaError("open", f"cannot be opened ({e.strerror})") from e
    image = decode_image(data)
    height, width = image.shape[:2]
    return Picture(square(image, size, fit), thumbnail(image), width, height)
