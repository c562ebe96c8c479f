"""The service beside the same models in plain FastAPI on uvicorn: throughput, tails, overhead.

    python benchmarks/serving.py [--requests 2000] [--clients 32]

Serves the models of `serve_config.yaml` (`make demo` makes them) twice, one after the other: by a
plain app of the few lines that one would write, one process without batching; and by
`python -m mmray.serving`. Clients send different toy pictures to /tags and different sounds to
/sound, as many at once as there are clients. Overhead: what a lone client waits longer.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tempfile
import time
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import uvicorn
import yaml
from fastapi import FastAPI, UploadFile
from PIL import Image
from rich.table import Table

from mmray import cli
from mmray.cli import console
from mmray.errors import UserError
from mmray.serving.examples import RATE, SEED
from mmray.toyworld.build import plan_image
from mmray.toyworld.draw import draw
from mmray.toyworld.sound import Disturbance, soundtrack

UPLOADS = 48
"""Different pictures, and different sounds."""
PLAIN_PORT, PORT = 8311, 8312
MULTIPART = {"Content-Type": "multipart/form-data; boundary=upload"}


@dataclass(kw_only=True)
class Args:
    """Flags of this benchmark."""

    requests: int = 2000
    """To each route, of many clients."""
    clients: int = 32
    """At once."""
    lone: int = 200
    """Requests of the lone client."""
    config: str = "serve_config.yaml"
    """Serve config file that names the models."""
    plain: bool = False
    """Be the plain server; the benchmark starts it like this."""


class Measured(NamedTuple):
    """What clients saw of one route."""

    failed: int
    per_second: float
    p50_ms: float
    p99_ms: float


def main(argv: list[str] | None = None) -> None:
    """Measure both servers and print the table."""
    args = cli.parse(Args, argv, __doc__)
    raw = yaml.safe_load(Path(args.config).read_text())
    where = raw["applications"][0]["args"]["models"]
    if args.plain:
        serve_plainly(where["tags"], where["sound"])
        return
    for path in (where["tags"], where["sound"]):
        if not Path(path).exists():
            raise UserError(f"{args.config}: {path} is missing; `make demo` makes it")
    uploads = {"/tags": [upload(x) for x in pictures()], "/sound": [upload(x) for x in sounds()]}
    plain_command = [__file__, "--plain", "--config", args.config]
    with running(plain_command, PLAIN_PORT):
        plain = measured(PLAIN_PORT, uploads, args)
    with tempfile.TemporaryDirectory() as folder:
        raw["http_options"]["port"] = PORT
        config = Path(folder) / "serve.yaml"
        config.write_text(yaml.safe_dump(raw))
        with running(["-m", "mmray.serving", "--config", str(config)], PORT):
            service = measured(PORT, uploads, args)
    console.print(table(plain, service, args))


def serve_plainly(tags: str, sound: str) -> None:
    """The same models without Serve: one process, a thread a request, no batches."""
    import mmray
    from mmray.media.sound import SAMPLE_RATE, read_sound

    tagger, net = mmray.load(tags, device="cpu"), mmray.load(sound, device="cpu")
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    @app.post("/tags")
    def post_tags(file: UploadFile) -> dict[str, list[tuple[str, float]]]:
        return {"tags": tagger.tags([file.file.read()], k=10)[0]}

    @app.post("/sound")
    def post_sound(file: UploadFile) -> dict[str, list[tuple[str, float]]]:
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(file.file.read())
            copy.flush()
            heard = net.predict([read_sound(copy.name)], SAMPLE_RATE)[0]
        return {"objects": heard.top("objects"), "scenes": heard.top("scenes")}

    uvicorn.run(app, port=PLAIN_PORT, log_level="warning")


def pictures() -> Iterator[bytes]:
    """Toy pictures of the size of those on Flickr, as JPEG."""
    for i in range(UPLOADS):
        out = io.BytesIO()
        Image.fromarray(draw(plan_image(SEED, i).scene, (375, 500))).save(out, "JPEG", quality=90)
        yield out.getvalue()


def sounds() -> Iterator[bytes]:
    """Five seconds of toy scenes each, as WAV."""
    for i in range(UPLOADS):
        scene, rng = plan_image(SEED, i).scene, np.random.default_rng([SEED, i])
        heard = soundtrack([(scene, 5.0)], RATE, 1, Disturbance(), rng).wave[0]
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((np.clip(heard, -1, 1) * 32767).astype("<i2").tobytes())
        yield out.getvalue()


def upload(data: bytes) -> bytes:
    """The body of a request, made beforehand so that clients cost little."""
    head = b'--upload\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return head + data + b"\r\n--upload--\r\n"


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """A server in a process of its own, from when it answers."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not come up")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(90)


def measured(port: int, uploads: dict[str, list[bytes]], args: Args) -> dict[str, list[Measured]]:
    """By route: a lone client, and many at once."""
    found = {}
    for path, bodies in uploads.items():
        url = f"http://127.0.0.1:{port}{path}"
        asyncio.run(load(url, bodies, args.clients, args.requests // 20))  # warm
        lone = asyncio.run(load(url, bodies, 1, args.lone))
        found[path] = [lone, asyncio.run(load(url, bodies, args.clients, args.requests))]
        console.print(f"{url}: {found[path][1].per_second:.1f} requests/s")
    return found


async def load(url: str, bodies: list[bytes], clients: int, requests: int) -> Measured:
    """Send requests, `clients` at once, each when its client's last one is answered."""
    seconds: list[float] = []
    failed, numbers = 0, iter(range(requests))

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal failed
        for number in numbers:
            started = time.perf_counter()
            body = bodies[number % len(bodies)]
            async with http.post(url, data=body, headers=MULTIPART) as response:
                await response.read()
                failed += response.status != 200
            seconds.append(time.perf_counter() - started)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        started = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        took = time.perf_counter() - started
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return Measured(failed, requests / took, float(p50), float(p99))


def table(
    plain: dict[str, list[Measured]], service: dict[str, list[Measured]], args: Args
) -> Table:
    """Both beside each other."""
    told = Table(title=f"{args.requests} requests of {args.clients} clients, and one client alone")
    for column in ("route", "server", "failed", "requests/s", "p50 ms", "p99 ms", "alone p50 ms"):
        told.add_column(column, justify="left" if column in ("route", "server") else "right")
    for path in plain:
        for name, (lone, many) in (("plain", plain[path]), ("service", service[path])):
            figures = (many.per_second, many.p50_ms, many.p99_ms, lone.p50_ms)
            failed = str(many.failed + lone.failed)
            told.add_row(path, name, failed, *(f"{x:.1f}" for x in figures))
        (alone, many), (own_alone, own_many) = plain[path], service[path]
        ratios = (
            own_many.per_second / many.per_second,
            own_many.p50_ms / many.p50_ms,
            own_many.p99_ms / many.p99_ms,
        )
        more = f"{own_alone.p50_ms - alone.p50_ms:+.1f}"
        told.add_row(path, "service : plain", "", *(f"{x:.2f}x" for x in ratios), more)
    return told


if __name__ == "__main__":
    cli.run(main)
