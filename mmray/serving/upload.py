"""Decoding uploads where a bad one can do no harm."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from fastapi import HTTPException, UploadFile

from mmray.errors import MediaError
from mmray.media.image import Fit
from mmray.media.sandbox import Sandbox
from mmray.serving.decode import decode_picture, decode_sound, ready


class Square(NamedTuple):
    """The form in which a net wants to see pictures."""

    size: int
    """Width and height in pixels."""
    fit: Fit
    """Whether a picture is cut (`crop`) or kept whole on white (`pad`)."""


class Decoder:
    """Decodes uploads in child processes, so that no upload can crash or hang the service.

    Args:
        max_duration_s: longest sound accepted.
        max_pixels: largest picture accepted.
        timeout_s: a child that takes longer is killed.
        num_workers: uploads decoded at the same time.
    """

    def __init__(
        self,
        *,
        max_duration_s: float,
        max_pixels: int = 50_000_000,
        timeout_s: float = 20.0,
        num_workers: int = 2,
    ) -> None:
        self.max_duration_s = max_duration_s
        self.max_pixels = max_pixels
        self._sandboxes = [Sandbox(timeout_s=timeout_s) for _ in range(num_workers)]
        self._idle: asyncio.Queue[Sandbox] = asyncio.Queue()
        for sandbox in self._sandboxes:
            self._idle.put_nowait(sandbox)

    async def sound(self, upload: UploadFile) -> np.ndarray:
        """The sound of an upload as float32[n] mono at `mmray.media.sound.SAMPLE_RATE`.

        Raises:
            HTTPException: 400 when it is empty, 415 when it is no media file, 422 when its sound
                cannot be used or lasts too long.
        """
        return await self._decoded(upload, "sound", decode_sound, self.max_duration_s)

    async def picture(self, upload: UploadFile, form: Square) -> np.ndarray:
        """The picture of an upload as uint8[size, size, 3].

        Raises:
            HTTPException: 400 when it is empty, 415 when it is no picture, 422 when it is damaged
                or too large.
        """
        return await self._decoded(upload, "image", decode_picture, self.max_pixels, *form)

    async def _decoded(
        self, upload: UploadFile, stage: str, decode: Callable[..., np.ndarray], *args: Any
    ) -> np.ndarray:
        if not upload.size:
            raise HTTPException(400, "the uploaded file is empty")
        sandbox = await self._idle.get()
        work = asyncio.ensure_future(
            asyncio.to_thread(_decode, sandbox, upload.file, stage, decode, args)
        )

        def free(done: asyncio.Future[np.ndarray]) -> None:
            self._idle.put_nowait(sandbox)
            if not done.cancelled():
                done.exception()  # seen, also when nobody waits for it any more

        # When the client goes away the thread still has the sandbox: it is idle when that ends.
        work.add_done_callback(free)
        try:
            return await asyncio.shield(work)
        except MediaError as error:
            # Without the error's `uri`, which is a path of this machine.
            status = 415 if error.stage == "open" else 422
            raise HTTPException(status, f"the uploaded file: {error.reason}") from error

    async def start(self) -> None:
        """Start the child processes, so that the first upload need not wait for that."""
        await asyncio.gather(*(asyncio.to_thread(s.call, ready) for s in self._sandboxes))

    def close(self) -> None:
        """End the child processes."""
        for sandbox in self._sandboxes:
            sandbox.close()


def _decode(
    sandbox: Sandbox, file: BinaryIO, stage: str, decode: Callable[..., Any], args: Any
) -> np.ndarray:
    # A name of our own: what the client calls its file never becomes a path.
    with tempfile.NamedTemporaryFile(prefix="mmray-upload-") as copy:
        file.seek(0)
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        result: np.ndarray = sandbox.call(decode, copy.name, *args, stage=stage)
        return result
