"""The application on a real Serve, over HTTP, as the shipped `serve_config.yaml` sets it up."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import torch
import yaml
from fastapi import HTTPException
from ray import serve
from ray.serve.context import _get_global_client
from scipy.io import wavfile

import mmray
from mmray import UserError
from mmray.cli import JobFailed
from mmray.serving import sound
from mmray.serving.app import Models, ServeArgs, build, calling, find_model
from mmray.serving.config import read_config
from mmray.serving.deploy import deploy, find_models
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model

ROOT = Path(__file__).parent.parent.parent
MAX_BYTES, MAX_S, MAX_REQUESTS = 2_000_000, 10, 4


def make_model(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SoundNetConfig("soundnet5", ["dog", "cat", "car"], ["beach", "street", "zoo"])
    save_model(folder, SoundNetModel(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def config_file(folder: Path, model: Path, port: int) -> Path:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    raw["http_options"]["port"] = port
    args = raw["applications"][0]["args"]
    args["models"]["sound"] = str(model)
    args["limits"].update(
        max_upload_bytes=MAX_BYTES, max_duration_s=MAX_S, max_requests=MAX_REQUESTS
    )
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def service(
    ray_cluster: None, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    port = free_port()
    config = read_config(config_file(tmp_path_factory.mktemp("serve"), model, port))
    find_models(config)
    deploy(config)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        yield http
    serve.shutdown()


def wav(seconds: float = 3.0, rate: int = 22050, dtype: str = "int16", fill: Any = None) -> bytes:
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    if fill is not None:
        wave[len(wave) // 2] = fill
    data = (wave * 32767).astype(np.int16) if dtype == "int16" else wave
    out = io.BytesIO()
    wavfile.write(out, rate, data)
    return out.getvalue()


def mp4(seconds: float = 3.0, with_sound: bool = True) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="stereo") if with_sound else None
        for i in range(int(seconds * 10)):
            image = np.full((48, 64, 3), i * 5 % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(int(seconds * 44100)) * 0.06).astype(np.float32) * 0.3
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            frame.sample_rate = 44100
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return out.getvalue()


def replicas() -> list[int]:
    """Process ids of all replicas."""
    details = _get_global_client().get_serve_details()["applications"]["mmray"]["deployments"]
    return sorted(r["pid"] for d in details.values() for r in d["replicas"])


pytestmark = pytest.mark.cluster


def test_a_sound_is_heard_as_the_model_hears_it(service: httpx.Client, model: Path) -> None:
    response = service.post("/sound?k=2", files={"file": ("../../etc/x.wav", wav())})
    assert response.status_code == 200, response.text
    body = response.json()
    _, samples = wavfile.read(io.BytesIO(wav()))
    expected = mmray.load(str(model), device="cpu").predict(
        [samples.astype(np.float32) / 32768], 22050
    )[0]
    assert body["duration_s"] == pytest.approx(3, abs=0.01)
    assert body["times_s"] == pytest.approx(expected.times_s, abs=0.001)
    for head in ("objects", "scenes"):
        heard = [(c["name"], c["probability"]) for c in body[head]["overall"]]
        top = expected.top(head, 2)
        assert [name for name, _ in heard] == [name for name, _ in top]
        assert [p for _, p in heard] == pytest.approx([p for _, p in top], abs=1e-4)
        assert len(body[head]["over_time"]) == len(body["times_s"])
    assert body["features"] is None


def test_a_video_is_heard_too(service: httpx.Client) -> None:
    response = service.post("/sound?features=true", files={"file": ("clip.mp4", mp4())})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["duration_s"] == pytest.approx(3, abs=0.1)
    assert body["features"]["layer"] == "pool3"
    assert len(body["features"]["values"]) == 128
    assert np.ptp(body["features"]["values"]) > 0


@pytest.mark.parametrize(
    ("kind", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame")]
)
def test_other_kinds_of_sound(service: httpx.Client, kind: str, codec: str) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        tone = (np.sin(np.arange(2 * 48000) * 0.06) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        frame.sample_rate = 48000
        for part in av.AudioResampler(stream.format, stream.layout, 48000).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    response = service.post("/sound", files={"file": out.getvalue()})
    assert response.status_code == 200, response.text
    assert response.json()["duration_s"] == pytest.approx(2, abs=0.1)


def test_bad_uploads_are_refused_and_harm_nothing(
    service: httpx.Client, assert_problem: Callable[..., str]
) -> None:
    before = replicas()
    half_mp4 = mp4()[: len(mp4()) // 2]
    uploads: dict[str, tuple[bytes, int, str]] = {
        "empty": (b"", 400, "empty"),
        "text": (b"hello, I am text\n" * 100, 415, ""),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, ""),
        "script": (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, ""),
        "zeros": (bytes(10_000), 415, ""),
        "truncated mp4": (half_mp4, 415, ""),
        "header only": (wav(0), 422, ""),
        "not a number": (wav(dtype="float32", fill=np.nan), 422, "finite"),
        "too long": (wav(MAX_S + 1, rate=8000), 422, f"longer than {MAX_S} s"),
        "no sound": (mp4(with_sound=False), 422, "sound"),
        "huge": (bytes(MAX_BYTES + 1), 413, f"{MAX_BYTES:,} bytes"),
    }
    for name, (data, status, words) in uploads.items():
        detail = assert_problem(service.post("/sound", files={"file": (name, data)}), status)
        assert words in detail, name
        assert "passwd" not in detail
    wrong_requests = {
        "no file": service.post("/sound", data={"other": "x"}),
        "no body": service.post("/sound"),
        "not multipart": service.post("/sound", json={"file": "x"}),
        "text field": service.post("/sound", data={"file": "x"}),
        "no boundary": service.post(
            "/sound", content=b"abc", headers={"content-type": "multipart/form-data"}
        ),
        "k of zero": service.post("/sound?k=0", files={"file": wav()}),
        "k of words": service.post("/sound?k=many", files={"file": wav()}),
    }
    for name, response in wrong_requests.items():
        assert_problem(response, 400 if name == "no boundary" else 422)
    assert_problem(service.get("/sound"), 405)
    assert_problem(service.post("/sounds"), 404)
    # Nothing is worse for it: same processes, a good answer, no file left.
    assert service.post("/sound", files={"file": wav()}).status_code == 200
    assert replicas() == before
    assert not list(Path(tempfile.gettempdir()).glob("mmray-upload-*"))


def test_a_streamed_upload_without_a_length_stops_at_the_limit(
    service: httpx.Client, assert_problem: Callable[..., str]
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(3 * MAX_BYTES // 100_000):
            yield bytes(100_000)
        yield b"\r\n--b--\r\n"

    response = service.post(
        "/sound", content=body(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_problem(response, 413)


def test_health_docs_and_schema(service: httpx.Client) -> None:
    assert service.get("/healthz").json() == {"status": "ok", "models": {"sound": "ok"}}
    assert service.get("/docs").status_code == 200
    operation = service.get("/openapi.json").json()["paths"]["/sound"]["post"]
    assert {"200", "400", "413", "415", "422", "503"} <= operation["responses"].keys()


def test_one_upload_too_many_is_told_to_come_back(
    service: httpx.Client, assert_problem: Callable[..., str]
) -> None:
    address = (service.base_url.host, service.base_url.port)
    start = (
        "POST /sound HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
    )
    held: list[socket.socket] = []

    def hold_one_more_and_send() -> httpx.Response:
        # An upload that has begun and does not go on holds a place.
        held.append(socket.create_connection(address))
        held[-1].sendall(start.encode())
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


def wait_for(send: Callable[[], httpx.Response], status: int) -> httpx.Response:
    """Send again until the status comes, for some seconds; give the last response."""
    deadline = time.monotonic() + 10
    while True:
        response = send()
        if response.status_code == status or time.monotonic() > deadline:
            return response
        time.sleep(0.1)


class Counting(sound.SoundModel.func_or_class):  # type: ignore[misc]
    """The model's deployment, which also tells how large its batches were."""

    def __init__(self, where: str) -> None:
        super().__init__(where, device="cpu")
        self.sizes: list[int] = []

    def predict_batch(self, requests: Any) -> Any:
        self.sizes.append(len(requests))
        return super().predict_batch(requests)

    def get_sizes(self) -> list[int]:
        return self.sizes


def test_requests_that_arrive_together_share_a_batch(service: httpx.Client, model: Path) -> None:
    deployment = serve.deployment(max_ongoing_requests=sound.SoundModel.max_ongoing_requests)(
        Counting
    )
    handle = serve.run(deployment.bind(str(model)), name="counting", route_prefix=None)
    wave = np.zeros(22050, np.float32)
    requests = [sound.SoundRequest(wave, 1, False) for _ in range(12)]
    responses = [handle.predict.remote(request) for request in requests]
    assert all(r.result(timeout_s=60).duration_s == 1 for r in responses)
    sizes = handle.get_sizes.remote().result(timeout_s=60)
    assert sum(sizes) == 12
    assert 1 < max(sizes) <= sound.MAX_BATCH_SIZE
    serve.delete("counting")


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Moody:
    """Does what it is told, as badly as models can."""

    async def predict(self, what: str) -> str:
        if what == "refuse":
            raise UserError("too quiet")
        if what == "die":
            os._exit(1)
        await asyncio.sleep(float(what))
        return "done"


def test_what_a_model_does_badly_becomes_an_error_for_the_client(service: httpx.Client) -> None:
    call: Any = calling(serve.run(Moody.bind(), name="moody", route_prefix=None))

    async def scenario() -> None:
        with pytest.raises(UserError) as refused:
            await call("refuse")
        assert str(refused.value) == "too quiet", "and nothing of the model's traceback"
        both = []
        for _ in range(2):  # one runs, one waits
            both.append(asyncio.create_task(call("3")))
            await asyncio.sleep(1)
        with pytest.raises(HTTPException, match="busy") as busy:
            await call("0")
        assert busy.value.status_code == 503
        assert busy.value.headers["Retry-After"] == "1"
        assert await asyncio.gather(*both) == ["done", "done"]
        with pytest.raises(HTTPException, match="not running") as dead:
            await call("die")
        assert dead.value.status_code == 503

    asyncio.run(scenario())
    serve.delete("moody")


def test_many_clients_at_once_all_get_an_answer(service: httpx.Client) -> None:
    def send(i: int) -> int:
        response = service.post("/sound", files={"file": wav(1 + i % 3)})
        return response.status_code

    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        assert set(pool.map(send, range(12))) == {200}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"cannot serve sound: .* \(no config"),
        (
            lambda folder: (folder / "config.json").write_text('{"kind": "joint"}'),
            "holds a joint model, not soundnet",
        ),
    ],
)
def test_a_wrong_model_is_told_before_anything_starts(
    tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(make_model(tmp_path))
    with pytest.raises(UserError, match=message):
        build(ServeArgs(models=Models(sound=str(tmp_path))))


@pytest.mark.parametrize("where", ["nowhere", "official:nowhere.npy"])
def test_a_missing_model_is_told(where: str) -> None:
    with pytest.raises(UserError, match=r"cannot serve sound: .*nowhere"):
        find_model("sound", where)


def test_places_become_absolute(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.npy").touch()
    monkeypatch.chdir(tmp_path)
    assert find_model("sound", "official:w.npy") == f"official:{tmp_path}/w.npy"
    (tmp_path / "m").symlink_to(model)
    assert find_model("sound", "m") == str(tmp_path / "m")


@pytest.mark.slow  # Serve tries three times
def test_a_model_that_cannot_be_loaded_ends_the_deployment_with_its_error(
    service: httpx.Client, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"damaged")
    config = read_config(config_file(tmp_path, folder, service.base_url.port or 0))
    config.applications[0].name = "damaged"
    config.applications[0].route_prefix = "/damaged"
    # Keep the good application: a config says all that is to run.
    good = read_config(config_file(tmp_path, make_model(tmp_path / "good"), 0))
    config.applications += good.applications
    with pytest.raises(JobFailed, match="not a whole safetensors file"):
        deploy(config)
