"""Bad requests on a real Serve: the right status, a message that helps, and nothing is worse."""

from __future__ import annotations

import contextlib
import io
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from ray.serve.context import _get_global_client

from tests.serving.models import MAX_BYTES, MAX_REQUESTS, MAX_S, picture, wav
from tests.serving.test_app import mp4

pytestmark = pytest.mark.cluster


def replicas() -> dict[str, int]:
    """Process ids of all replicas, by id."""
    client: Any = _get_global_client()
    details = client.get_serve_details()["applications"]["mmray"]["deployments"]
    return {r["replica_id"]: r["pid"] for d in details.values() for r in d["replicas"]}


def megabytes() -> float:
    """Memory of all replicas and of the processes that decode for them."""
    total = 0.0
    for pid in replicas().values():
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss / 1e6
    return total


def copies() -> set[Path]:
    """Copies of uploads; those of killed processes stay."""
    return set(Path(tempfile.gettempdir()).glob("mmray-upload-*"))


def bomb(side: int = 20_000) -> bytes:
    """A PNG of few bytes and many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes((side + 1) * 8))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SOUNDS: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello, I am text\n" * 100, 415, ""),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, ""),
    "script": (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, ""),
    "zeros": (bytes(10_000), 415, ""),
    "truncated mp4": (mp4()[: len(mp4()) // 2], 415, ""),
    "header only": (wav(0), 422, ""),
    "not a number": (wav(dtype="float32", fill=np.nan), 422, "finite"),
    "too long": (wav(MAX_S + 1, rate=8000), 422, f"longer than {MAX_S} s"),
    "an hour": (wav(240, rate=4000), 422, f"longer than {MAX_S} s"),
    "no sound": (mp4(with_sound=False), 422, "sound"),
    "a picture": (picture(), 422, "sound"),
    "huge": (bytes(MAX_BYTES + 1), 413, f"{MAX_BYTES:,} bytes"),
}
PICTURES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello, I am text\n" * 100, 415, "known format"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n", 415, "known format"),
    "drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='x'/></svg>", 415, ""),
    "truncated": (picture("JPEG", (400, 300))[:2000], 422, ""),
    "header only": (picture()[:33], 415, ""),
    "bomb": (bomb(), 422, "pixels"),
    "too large": (picture("JPEG", (1200, 1000)), 422, "pixels"),
    "a sound": (wav(1), 415, "known format"),
    "a film": (mp4(1), 415, "known format"),
    "huge": (bytes(MAX_BYTES + 1), 413, f"{MAX_BYTES:,} bytes"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_bad_sounds_are_refused(service: httpx.Client, assert_problem: Any, name: str) -> None:
    data, status, words = SOUNDS[name]
    detail = assert_problem(service.post("/sound", files={"file": (name, data)}), status)
    assert words in detail
    assert "passwd" not in detail


@pytest.mark.parametrize("path", ["/tags", "/search", "/caption", "/story?style=old"])
def test_bad_pictures_are_refused(service: httpx.Client, assert_problem: Any, path: str) -> None:
    for name, (data, status, words) in PICTURES.items():
        detail = assert_problem(service.post(path, files={"file": (name, data)}), status)
        assert words in detail, name


def test_a_file_that_is_two_things_at_once_is_what_its_beginning_says(
    service: httpx.Client,
) -> None:
    script = b"<script>alert(1)</script>PK\x03\x04"
    assert service.post("/tags", files={"file": picture() + script}).status_code == 200
    response = service.post("/tags", files={"file": script + picture()})
    assert response.status_code == 415
    assert response.headers["x-content-type-options"] == "nosniff"


WRONG: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "no file": lambda http: http.post("/sound", data={"other": "x"}),
    "no body": lambda http: http.post("/tags"),
    "not multipart": lambda http: http.post("/caption", json={"file": "x"}),
    "text field": lambda http: http.post("/sound", data={"file": "x"}),
    "another field too": lambda http: http.post(
        "/tags", files={"file": picture()}, data={"given": "dog"}
    ),
    "two files": lambda http: http.post("/tags", files=[("file", picture()), ("file", picture())]),
    "k of zero": lambda http: http.post("/tags?k=0", files={"file": picture()}),
    "k of words": lambda http: http.post("/sound?k=many", files={"file": wav()}),
    "k of metres": lambda http: http.post("/sound?k=5m", files={"file": wav()}),
    "unknown option": lambda http: http.post("/tags?top=5", files={"file": picture()}),
    "unknown tag": lambda http: http.post("/tags?given=unicorn", files={"file": picture()}),
    "unknown plus": lambda http: http.post("/search?plus=unicorn"),
    "nothing to search": lambda http: http.post("/search"),
    "only minus": lambda http: http.post("/search?minus=dog"),
    "n above beam": lambda http: http.post("/caption?beam=1&n=2", files={"file": picture()}),
    "no style": lambda http: http.post("/story", files={"file": picture()}),
    "unknown style": lambda http: http.post("/story?style=pirate", files={"file": picture()}),
    "unknown style, streamed": lambda http: http.post(
        "/story?style=pirate&stream=true", files={"file": picture()}
    ),
    "strength in per cent": lambda http: http.post(
        "/story?style=old&strength=50", files={"file": picture()}
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused(service: httpx.Client, assert_problem: Any, name: str) -> None:
    detail = assert_problem(WRONG[name](service), 422)
    if "style" in name and "no" not in name.split():
        assert "memo, old" in detail, "known ones are named"


def test_what_http_itself_refuses(service: httpx.Client, assert_problem: Any) -> None:
    multipart = {"content-type": "multipart/form-data"}
    assert_problem(service.post("/sound", content=b"abc", headers=multipart), 400)
    assert_problem(service.get("/sound"), 405)
    assert_problem(service.delete("/tags"), 405)
    assert_problem(service.post("/sounds"), 404)
    assert_problem(service.get("/page/../../config.py"), 404)
    assert_problem(service.get("/tags", headers={"host": "evil.example"}), 421)
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert_problem(service.post("/tags", files={"file": picture()}, headers=foreign), 403)


def test_a_streamed_upload_without_a_length_stops_at_the_limit(
    service: httpx.Client, assert_problem: Any
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(3 * MAX_BYTES // 100_000):
            yield bytes(100_000)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_problem(service.post("/sound", content=body(), headers=headers), 413)


def test_300_bad_uploads_bring_no_5xx_no_new_process_and_leave_no_memory_behind(
    service: httpx.Client,
) -> None:
    rng = np.random.default_rng(0)
    good = [picture("JPEG"), picture("PNG"), picture("WEBP"), wav(1), mp4(1)]
    before, left_before, statuses = replicas(), copies(), []
    memory = 0.0
    for i in range(300):
        data = bytearray(good[i % len(good)])
        match i % 3:
            case 0:  # flipped bits
                for place in rng.integers(0, len(data), 1 + i % 40):
                    data[place] ^= 1 << int(rng.integers(8))
            case 1:  # cut off
                data = data[: rng.integers(0, len(data))]
            case _:  # noise, with the beginning of something
                data[12:] = rng.bytes(int(rng.integers(0, 20_000)))
        path = ("/tags", "/caption", "/search", "/sound", "/story?style=old")[i // 3 % 5]
        statuses.append(service.post(path, files={"file": bytes(data)}).status_code)
        if i == 60:
            memory = megabytes()
    assert max(statuses) < 500, sorted(set(statuses))
    assert len({*statuses} & {400, 415, 422}) >= 2
    assert replicas() == before
    assert megabytes() < memory + 150
    assert copies() <= left_before
    assert service.post("/tags", files={"file": picture()}).status_code == 200
    assert service.post("/sound", files={"file": wav()}).status_code == 200


def test_one_upload_too_many_is_told_to_come_back(
    service: httpx.Client, assert_problem: Any
) -> None:
    held: list[socket.socket] = []

    def hold_one_more_and_send() -> httpx.Response:
        held.append(begun_upload(service))
        return service.post("/sound", files={"file": wav()})

    try:
        response = wait_for(hold_one_more_and_send, 503)
        assert len(held) >= MAX_REQUESTS
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert service.get("/healthz").status_code == 200
    finally:
        for connection in held:
            connection.close()
    assert wait_for(lambda: service.post("/sound", files={"file": wav()}), 200).status_code == 200


def begun_upload(service: httpx.Client) -> socket.socket:
    """A connection with an upload that has begun and does not go on."""
    start = (
        f"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {MAX_BYTES}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    connection = socket.create_connection((service.base_url.host, service.base_url.port))
    connection.sendall(start.encode() + bytes(20_000))
    return connection


def wait_for(send: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """Send again until the status comes, for some seconds; give the last response."""
    deadline = time.monotonic() + 20
    while True:
        response = send()
        if response.status_code == status or time.monotonic() > deadline:
            return response
        time.sleep(0.1)


def test_clients_that_go_away_leave_nothing_behind(service: httpx.Client) -> None:
    before = replicas()
    body = io.BytesIO(picture("PNG", (300, 300))).getvalue()
    for i in range(30):
        if i % 2:
            begun_upload(service).close()
            continue
        with contextlib.suppress(httpx.TimeoutException):
            path, seconds = "/story?style=old&stream=true", 0.01 * (1 + i % 5)
            httpx.post(service.base_url.join(path), files={"file": body}, timeout=seconds)
    assert wait_for(lambda: service.post("/tags", files={"file": body}), 200).status_code == 200
    assert replicas() == before
