"""Uploads: telling what they are, and decoding them where a bad one can do no harm."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from typing import BinaryIO

import numpy as np
from fastapi import HTTPException, UploadFile

from mmray.errors import MediaError
from mmray.media import sound
from mmray.media.sandbox import Sandbox

# First bytes -> file suffix. FFmpeg opens far more, playlists among it that name other files or
# addresses; an upload must begin like one of these, whatever its name or declared type.
SIGNATURES = {
    (0, b"fLaC"): ".flac",
    (0, b"OggS"): ".ogg",
    (0, b"\x1aE\xdf\xa3"): ".mkv",  # Matroska and WebM
    (4, b"ftyp"): ".mp4",  # MP4, M4A, MOV, 3GP
    (8, b"WAVE"): ".wav",  # inside RIFF or RF64
    (8, b"AVI "): ".avi",
    (0, b"FLV\x01"): ".flv",
    (0, b"\x00\x00\x01\xba"): ".mpg",
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"): ".wmv",
}
ACCEPTED = "WAV, FLAC, Ogg, MP3, or a video as MP4, MOV, WebM, MKV, AVI, MPEG, FLV or WMV"
HEADER_BYTES = 64


def sniff(file: BinaryIO) -> str | None:
    """The file suffix (`.wav`) of what an upload begins like; None when nothing accepted."""
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if head[8:12] in (b"WAVE", b"AVI ") and head[:4] not in (b"RIFF", b"RF64"):
        return None
    for (at, signature), suffix in SIGNATURES.items():
        if head[at : at + len(signature)] == signature:
            return suffix
    return ".mp3" if _is_mp3(file) else None


def _is_mp3(file: BinaryIO) -> bool:
    """Whether MPEG audio frames follow the ID3v2 tags, if any.

    FFmpeg guesses the format from what follows the tags, so a playlist may hide behind one.
    """
    position = 0
    while True:
        file.seek(position)
        head = file.read(HEADER_BYTES)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        size = (head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9]
        position += 10 + size + (10 if head[5] & 0x10 else 0)  # header, tag, optional footer
    head = head.lstrip(b"\0")
    # Eleven set bits, then two of version and 01 for layer III.
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def decode_sound(path: str, max_duration_s: float) -> np.ndarray:
    """Decode a file's sound.

    Args:
        path: a local file.
        max_duration_s: sound that lasts longer is refused.

    Returns:
        float32[n] mono at `mmray.media.sound.SAMPLE_RATE`, in [-1, 1].

    Raises:
        MediaError: the file cannot be decoded, has no sound or lasts longer.
    """
    too_long = MediaError("sound", f"the sound lasts longer than {max_duration_s:g} s")
    info = sound.probe(path)
    if not info.has_sound:
        raise MediaError("sound", "the file has no sound")
    if info.duration_s > max_duration_s + 1:
        raise too_long
    # Headers may lie, so decode a bit more than is allowed and look.
    waveform = sound.read_sound(path, duration_s=max_duration_s + 1)
    if len(waveform) == 0:
        raise MediaError("sound", "the sound is empty")
    if len(waveform) > max_duration_s * sound.SAMPLE_RATE:
        raise too_long
    return waveform


class SoundDecoder:
    """Decodes uploads in child processes, so that no upload can crash or hang the service.

    Args:
        max_duration_s: longest sound accepted.
        timeout_s: a child that takes longer is killed.
        num_workers: uploads decoded at the same time.
    """

    def __init__(
        self, *, max_duration_s: float, timeout_s: float = 20.0, num_workers: int = 2
    ) -> None:
        self.max_duration_s = max_duration_s
        self._idle: asyncio.Queue[Sandbox] = asyncio.Queue()
        for _ in range(num_workers):
            self._idle.put_nowait(Sandbox(timeout_s=timeout_s))

    async def __call__(self, upload: UploadFile) -> np.ndarray:
        """The sound of an upload as float32[n] mono at `mmray.media.sound.SAMPLE_RATE`.

        Raises:
            HTTPException: 400 when it is empty, 415 when it is no accepted kind of file.
            MediaError: it cannot be decoded, has no sound or lasts too long.
        """
        if not upload.size:
            raise HTTPException(400, "the uploaded file is empty")
        suffix = await asyncio.to_thread(sniff, upload.file)
        if suffix is None:
            raise HTTPException(415, f"the upload is not a file that can be heard: send {ACCEPTED}")
        sandbox = await self._idle.get()
        work = asyncio.ensure_future(
            asyncio.to_thread(self._decode, sandbox, upload.file, suffix)
        )
        # When the client goes away the thread still has the sandbox: it is idle when that ends.
        work.add_done_callback(lambda _: self._idle.put_nowait(sandbox))
        return await asyncio.shield(work)

    def _decode(self, sandbox: Sandbox, file: BinaryIO, suffix: str) -> np.ndarray:
        # A name of our own: what the client calls its file never becomes a path.
        with tempfile.NamedTemporaryFile(prefix="mmray-upload-", suffix=suffix) as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            return sandbox.call(decode_sound, copy.name, self.max_duration_s)

    def close(self) -> None:
        """End the child processes."""
        while not self._idle.empty():
            self._idle.get_nowait().close()
