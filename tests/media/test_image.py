import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmray.errors import MediaError
from mmray.media.image import decode_image, square, thumbnail

QUARTERS = (
    np.array(
        [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [128, 128, 128]]],
        np.uint8,
    )
    .repeat(16, 0)
    .repeat(16, 1)
)  # 32 high, 48 wide


def encode(image, format: str = "PNG", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reason(data: bytes, **options) -> str:
    with pytest.raises(MediaError) as error:
        decode_image(data, **options)
    assert error.value.stage == "image"
    return error.value.reason


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "TGA", "PCX"])
def test_lossless_formats(format):
    np.testing.assert_array_equal(decode_image(encode(QUARTERS, format)), QUARTERS)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_formats(format):
    got = decode_image(encode(QUARTERS, format, quality=95)).astype(int)
    assert np.abs(got - QUARTERS).mean() < 12


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, QUARTERS),
        (2, QUARTERS[:, ::-1]),
        (3, QUARTERS[::-1, ::-1]),
        (4, QUARTERS[::-1]),
        (5, QUARTERS.transpose(1, 0, 2)),
        (6, np.rot90(QUARTERS)),
        (7, np.rot90(QUARTERS, 2).transpose(1, 0, 2)),
        (8, np.rot90(QUARTERS, -1)),
    ],
)
def test_exif_turns_the_picture_upright(format, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(stored), format, exif=exif)
    got = decode_image(data).astype(int)
    assert got.shape == QUARTERS.shape
    assert np.abs(got - QUARTERS).mean() < 15


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage"]
)
def test_broken_exif_spoils_no_pixel(exif):
    data = encode(QUARTERS, "JPEG", quality=95, exif=exif)
    assert decode_image(data).shape == QUARTERS.shape


def test_transparent_parts_are_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:2, :, 3] = 255
    rgba[2, :, 3] = 128
    got = decode_image(encode(rgba))
    assert got[0, 0].tolist() == [200, 0, 0]
    np.testing.assert_allclose(got[2, 0], [227, 127, 127], atol=1)
    assert got[3, 0].tolist() == [255, 255, 255]


def test_all_ways_to_be_transparent():
    grey = np.array([[0, 80], [160, 255]], np.uint8)
    image = Image.fromarray(grey)
    assert decode_image(encode(image, transparency=0))[0, 0].tolist() == [255, 255, 255]
    rgb = Image.fromarray(np.dstack([grey] * 3))
    assert decode_image(encode(rgb, transparency=(80, 80, 80)))[0, 1].tolist() == [255] * 3
    palette = rgb.quantize(4)
    index = palette.getpixel((0, 0))
    assert decode_image(encode(palette, transparency=index))[0, 0].tolist() == [255] * 3
    la = Image.fromarray(np.dstack([grey, np.full_like(grey, 0)]), "LA")
    assert decode_image(encode(la)).min() == 255


def test_palette_grey_and_one_bit():
    image = Image.fromarray(QUARTERS)
    np.testing.assert_array_equal(decode_image(encode(image.quantize(8))), QUARTERS)
    for mode in ("L", "1"):
        got = decode_image(encode(image.convert(mode)))
        np.testing.assert_array_equal(got, np.array(image.convert(mode).convert("RGB")))


def test_cmyk_has_the_colours_it_shows():
    image = Image.fromarray(QUARTERS).convert("CMYK")
    got = decode_image(encode(image, "JPEG", quality=95, subsampling=0)).astype(int)
    assert np.abs(got - QUARTERS).mean() < 10


def test_sixteen_bits_and_floats():
    deep = (np.arange(256, dtype=np.uint32) * 257).astype(np.uint16).reshape(16, 16)
    want = np.arange(256).reshape(16, 16)
    for format in ("PNG", "TIFF"):
        got = decode_image(encode(Image.fromarray(deep), format))
        np.testing.assert_array_equal(got[..., 0], want)
    unit = (want / 255).astype(np.float32)
    np.testing.assert_array_equal(decode_image(encode(unit, "TIFF"))[..., 1], want)
    unit[0, 0] = np.nan
    assert "not finite" in reason(encode(unit, "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(format):
    first, second = Image.fromarray(QUARTERS), Image.new("RGB", (48, 32), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(first, format, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decode_image(data), QUARTERS)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded(recwarn):
    assert "10500x10500 pixels, more than 100000000" in reason(bomb(10_500, 10_500))
    assert "more than 100000000 pixels" in reason(bomb(100_000, 100_000))
    assert "48x32 pixels, more than 1000" in reason(encode(QUARTERS), max_pixels=1000)
    assert not recwarn.list


def test_a_jpeg_of_more_pixels_than_its_bytes_can_hold():
    data = bytearray(encode(QUARTERS, "JPEG"))
    struct.pack_into(">HH", data, data.find(b"\xff\xc0") + 5, 9000, 9000)
    assert "impossible size: 9000x9000 pixels in" in reason(bytes(data))
    plain = encode(Image.new("L", (2000, 2000)), "JPEG", quality=1, optimize=True)
    assert decode_image(plain).shape == (2000, 2000, 3)


def test_what_is_no_picture_says_so():
    assert reason(b"") == "is empty (0 bytes)"
    for data in (b"x", b"<html></html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        assert reason(data) == "is not a picture of a known format"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_picture_cut_off_is_refused(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(noise, format)
    assert "is not a picture" in (text := reason(data[: len(data) // 2])) or "decoded" in text


def test_square_crops_the_centre_or_pads_with_white():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    np.testing.assert_allclose(square(picture, 20)[:, 2:-2], 200, atol=3)
    padded = square(picture, 80, "pad")
    assert padded.shape == (80, 80, 3)
    assert padded[:18].min() == padded[62:].min() == 255
    np.testing.assert_array_equal(padded[40, 40], [200, 200, 200])
    assert padded[40, 5].max() < 10


def test_square_is_antialiased():
    checks = np.indices((400, 400)).sum(0) % 2 * 255
    picture = np.dstack([checks] * 3).astype(np.uint8)
    for fit in ("crop", "pad"):
        np.testing.assert_allclose(square(picture, 40, fit), 127.5, atol=8)


def test_square_of_tiny_and_large_pictures():
    for shape in ((1, 1, 3), (1, 500, 3), (3, 2, 3)):
        for fit in ("crop", "pad"):
            assert square(np.zeros(shape, np.uint8), 32, fit).shape == (32, 32, 3)


def test_thumbnail_is_a_small_jpeg():
    data = thumbnail(np.full((100, 300, 3), 90, np.uint8), size=60)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (60, 20))
    assert abs(int(np.array(image).mean()) - 90) <= 2
    assert Image.open(io.BytesIO(thumbnail(np.zeros((8, 8, 3), np.uint8)))).size == (8, 8)
