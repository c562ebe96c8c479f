"""Uploads in their child processes: what hangs or crashes there harms nobody."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException, UploadFile
from PIL import Image
from scipy.io import wavfile

from mmray.media.image import Fit
from mmray.media.sound import SAMPLE_RATE
from mmray.serving import upload
from mmray.serving.upload import Decoder, Square

SQUARE = Square(32, "crop")


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    tone = np.sin(np.arange(int(seconds * SAMPLE_RATE)) * 0.1) * 9000
    wavfile.write(out, SAMPLE_RATE, tone.astype(np.int16))
    return out.getvalue()


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20)) -> bytes:
    """Red on the left, green on the right."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 255, 0), (size[0] // 2, 0, *size))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def uploaded(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), size=len(data), filename="../../../etc/passwd")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of uploads go where nobody else's go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(max_duration_s=2, max_pixels=10_000, timeout_s=1, num_workers=1)
    yield decoder
    decoder.close()


def refused(decoding: Coroutine[Any, Any, np.ndarray]) -> HTTPException:
    with pytest.raises(HTTPException) as error:
        asyncio.run(decoding)
    assert tempfile.gettempdir() not in error.value.detail
    assert not copies()
    return error.value


def copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("mmray-upload-*"))


def hang(path: str, max_duration_s: float) -> None:
    time.sleep(60)


def crash(path: str, max_duration_s: float) -> None:
    os.abort()


def test_a_sound_is_decoded_and_its_copy_removed(decoder: Decoder) -> None:
    wave = asyncio.run(decoder.sound(uploaded(wav(2))))
    assert (wave.dtype, wave.shape) == (np.float32, (2 * SAMPLE_RATE,))
    assert np.abs(wave).max() == pytest.approx(9000 / 32768, abs=1e-3)
    assert not copies()


def test_the_longest_sound_passes_and_a_longer_one_does_not(decoder: Decoder) -> None:
    assert len(asyncio.run(decoder.sound(uploaded(wav(2))))) == 2 * SAMPLE_RATE
    error = refused(decoder.sound(uploaded(wav(2.01))))
    assert (error.status_code, error.detail) == (
        422,
        "the uploaded file: its sound lasts longer than 2 s",
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"no media at all" * 99, 415), (wav(0), 422), (picture(), 422)],
    ids=["empty", "text", "header", "picture"],
)
def test_what_is_no_sound_is_refused(decoder: Decoder, data: bytes, status: int) -> None:
    assert refused(decoder.sound(uploaded(data))).status_code == status


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_picture_is_decoded_in_the_form_that_is_asked_for(
    decoder: Decoder, kind: str, fit: Fit
) -> None:
    pixels = asyncio.run(decoder.picture(uploaded(picture(kind)), Square(32, fit)))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 32, 3))
    assert not copies()
    left, right, edge = pixels[16, 4].astype(int), pixels[16, 27].astype(int), pixels[1, 4]
    assert left[0] > left[1] + 150
    assert right[1] > right[0] + 150
    assert (edge.min() > 250) == (fit == "pad"), "what is kept whole stands on white"


def test_the_largest_picture_passes_and_a_larger_one_does_not(decoder: Decoder) -> None:
    largest = uploaded(picture(size=(100, 100)))
    assert asyncio.run(decoder.picture(largest, SQUARE)).shape == (32, 32, 3)
    error = refused(decoder.picture(uploaded(picture(size=(101, 100))), SQUARE))
    assert error.status_code == 422
    assert error.detail.startswith("the uploaded file: ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        *((b"", 400), (b"no media at all" * 99, 415), (wav(1), 415), (bytes(1000), 415)),
        *((picture()[:60], 422), (picture("JPEG", (100, 100))[:-300], 422)),
    ],
    ids=["empty", "text", "sound", "zeros", "start of a PNG", "start of a JPEG"],
)
def test_what_is_no_picture_is_refused(decoder: Decoder, data: bytes, status: int) -> None:
    assert refused(decoder.picture(uploaded(data), SQUARE)).status_code == status


@pytest.mark.parametrize(("what", "words"), [(hang, "longer than 1 s"), (crash, "crashed")])
def test_after_a_hang_or_a_crash_the_next_upload_is_decoded(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, what: object, words: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(upload, "decode_sound", what)
        error = refused(decoder.sound(uploaded(wav(1))))
    assert error.status_code == 422
    assert words in error.detail
    assert len(asyncio.run(decoder.sound(uploaded(wav(1))))) == SAMPLE_RATE


def test_a_client_that_goes_away_leaves_the_decoder_to_others(decoder: Decoder) -> None:
    async def scenario() -> int:
        await decoder.start()
        gone = asyncio.create_task(decoder.sound(uploaded(wav(2))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone.cancel()
        return len(await asyncio.wait_for(decoder.sound(uploaded(wav(1))), 30))

    assert asyncio.run(scenario()) == SAMPLE_RATE


def test_a_service_that_ends_meanwhile_ends_without_errors(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "decode_sound", hang)
    errors: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        gone = asyncio.create_task(decoder.sound(uploaded(wav(1))))
        await asyncio.sleep(0.01)
        gone.cancel()

    asyncio.run(scenario())
    assert errors == []


def test_as_many_are_decoded_at_once_as_there_are_workers() -> None:
    decoder = Decoder(max_duration_s=2, num_workers=2)

    async def scenario() -> list[np.ndarray]:
        await decoder.start()
        sounds = [decoder.sound(uploaded(wav(i / 4))) for i in range(1, 6)]
        return await asyncio.gather(*sounds)

    try:
        found = asyncio.run(scenario())
    finally:
        decoder.close()
    assert [len(wave) for wave in found] == [i * SAMPLE_RATE // 4 for i in range(1, 6)]
