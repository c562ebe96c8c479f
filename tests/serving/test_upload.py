"""Uploads in their child processes: what hangs or crashes there harms nobody."""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import HTTPException, UploadFile
from scipy.io import wavfile

from mmray.media.sound import SAMPLE_RATE
from mmray.serving import upload
from mmray.serving.upload import SoundDecoder


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    tone = np.sin(np.arange(int(seconds * SAMPLE_RATE)) * 0.1) * 9000
    wavfile.write(out, SAMPLE_RATE, tone.astype(np.int16))
    return out.getvalue()


def uploaded(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), size=len(data), filename="../../../etc/passwd")


@pytest.fixture
def decoder() -> Iterator[SoundDecoder]:
    decoder = SoundDecoder(max_duration_s=2, timeout_s=1, num_workers=1)
    yield decoder
    decoder.close()


def refused(decoder: SoundDecoder, data: bytes) -> HTTPException:
    with pytest.raises(HTTPException) as error:
        asyncio.run(decoder(uploaded(data)))
    return error.value


def hang(path: str, max_duration_s: float) -> None:
    time.sleep(60)


def crash(path: str, max_duration_s: float) -> None:
    os.abort()


def test_a_sound_is_decoded_and_its_copy_removed(decoder: SoundDecoder) -> None:
    wave = asyncio.run(decoder(uploaded(wav(2))))
    assert (wave.dtype, wave.shape) == (np.float32, (2 * SAMPLE_RATE,))
    assert np.abs(wave).max() == pytest.approx(9000 / 32768, abs=1e-3)
    assert not list(Path(tempfile.gettempdir()).glob("mmray-upload-*"))


def test_the_longest_sound_passes_and_a_longer_one_does_not(decoder: SoundDecoder) -> None:
    assert len(asyncio.run(decoder(uploaded(wav(2))))) == 2 * SAMPLE_RATE
    error = refused(decoder, wav(2.01))
    assert (error.status_code, error.detail) == (
        422,
        "the uploaded file: its sound lasts longer than 2 s",
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"no media at all" * 99, 415), (wav(0), 422)],
    ids=["empty", "text", "header"],
)
def test_what_is_no_sound_is_refused_without_a_path(
    decoder: SoundDecoder, data: bytes, status: int
) -> None:
    error = refused(decoder, data)
    assert error.status_code == status
    assert tempfile.gettempdir() not in error.detail


@pytest.mark.parametrize(("what", "words"), [(hang, "longer than 1 s"), (crash, "crashed")])
def test_after_a_hang_or_a_crash_the_next_upload_is_decoded(
    decoder: SoundDecoder, monkeypatch: pytest.MonkeyPatch, what: object, words: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(upload, "decode_sound", what)
        error = refused(decoder, wav(1))
    assert error.status_code == 422
    assert words in error.detail
    assert len(asyncio.run(decoder(uploaded(wav(1))))) == SAMPLE_RATE


def test_a_client_that_goes_away_leaves_the_decoder_to_others(decoder: SoundDecoder) -> None:
    async def scenario() -> int:
        await decoder.start()
        gone = asyncio.create_task(decoder(uploaded(wav(2))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone.cancel()
        return len(await asyncio.wait_for(decoder(uploaded(wav(1))), 30))

    assert asyncio.run(scenario()) == SAMPLE_RATE
