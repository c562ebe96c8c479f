"""A bucket that speaks the protocol of S3, behind a proxy that can fail as real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from pyarrow import fs

HOST, NAME = "127.0.0.1", "bucket"
Way = Literal["refuse", "busy", "stall"]
BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 65\r\n"
    b"Connection: close\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Reduce it.</Message></Error>"
)


class Bucket:
    """The bucket, from `__enter__` to `__exit__`; whoever is started meanwhile finds it."""

    def __enter__(self) -> Bucket:
        own = _free_port()
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(own)]
        quiet = subprocess.DEVNULL
        self._server = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        _wait_for(own)
        self._proxy = _Proxy(own)
        self._proxy.start()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self._proxy.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        # The harness looks past the proxy.
        self.files = fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            endpoint_override=f"http://{HOST}:{own}",
            allow_bucket_creation=True,
        )
        self.files.create_dir(NAME)
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.stop()
        self._server.kill()
        self._server.wait()

    def uri(self, path: str) -> str:
        """Address of a file or folder in the bucket."""
        return f"s3://{NAME}/{path}"

    def put(self, folder: Path, path: str) -> None:
        """Copy a local folder into the bucket."""
        fs.copy_files(str(folder), f"{NAME}/{path}", fs.LocalFileSystem(), self.files)

    def get(self, path: str, folder: Path) -> None:
        """Copy a folder of the bucket to a local one."""
        folder.mkdir(parents=True)
        fs.copy_files(f"{NAME}/{path}", str(folder), self.files, fs.LocalFileSystem())

    def names(self, path: str) -> list[str]:
        """Files below a folder."""
        root = f"{NAME}/{path}".rstrip("/")
        where = fs.FileSelector(root, recursive=True, allow_not_found=True)
        return [info.path.removeprefix(f"{root}/") for info in self.files.get_file_info(where)]

    def fail(self, way: Way, seconds: float) -> bool:
        """Fail for so long, then answer again; whether anybody was let down."""
        return self._proxy.fail(way, seconds)


class _Proxy(threading.Thread):
    """Passes bytes on, until told to fail."""

    def __init__(self, target: int) -> None:
        super().__init__(name="chaos-proxy", daemon=True)
        self.port, self._target = _free_port(), target
        self._way: Way | None = None
        self._let_down = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()

    def run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._up.set()
        self._loop.run_forever()

    def start(self) -> None:
        super().start()
        self._up.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    def fail(self, way: Way, seconds: float) -> bool:
        self._let_down = 0
        asyncio.run_coroutine_threadsafe(self._begin(way), self._loop).result()
        time.sleep(seconds)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        return self._let_down > 0

    async def _listen(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _begin(self, way: Way) -> None:
        self._way = way
        if way == "stall":
            self._flows.clear()
            return
        if way == "refuse":
            self._server.close()
        # In both cases what was under way breaks.
        self._let_down += len(self._open)
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        if self._way == "refuse":
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self._way = None
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self._way == "busy":
                await self._answer_busy(reader, writer)
            else:
                there = await asyncio.open_connection(HOST, self._target)
                self._open |= {writer, there[1]}
                try:
                    await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
                finally:
                    self._open -= {writer, there[1]}
                    there[1].close()
        writer.close()

    async def _answer_busy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._let_down += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(BUSY)
        await writer.drain()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if not self._flows.is_set():
                self._let_down += 1
                await self._flows.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def _wait_for(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.1)
