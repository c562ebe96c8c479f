"""The whole application on a real Serve, over HTTP, as `serve_config.yaml` sets it up."""

from __future__ import annotations

import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import mmray
from tests.serving.models import MAX_FILES, MAX_REQUESTS, REPORT, picture, wav

pytestmark = pytest.mark.cluster


def mp4(seconds: float = 3.0, with_sound: bool = True) -> bytes:
    """A film with a tone."""
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


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def test_tags_are_those_of_the_model(service: httpx.Client, served: Any) -> None:
    tagger = mmray.load(served["models"]["tags"], device="cpu")
    for given in ([], ["dog", "red"]):
        params = {"k": 3, "given": given}
        body = answer(service.post("/tags", params=params, files={"file": picture()}))
        ((first, *others),) = tagger.tags([pixels(picture())], 3, [given] if given else None)
        told = [(t["name"], t["probability"]) for t in body["tags"]]
        assert [name for name, _ in told] == [first[0], *(name for name, _ in others)]
        assert [p for _, p in told] == pytest.approx([first[1], *(p for _, p in others)], abs=1e-3)
    assert "nikon" not in str(answer(service.post("/tags", files={"file": picture()})))
    with_useless = service.post("/tags?useless=true", files={"file": picture()})
    assert "nikon" in str(answer(with_useless))


def test_the_vocabulary_is_told(service: httpx.Client) -> None:
    assert answer(service.get("/tags")) == {"tags": ["dog", "beach", "red", "plage", "nikon"]}
    assert answer(service.get("/tags?prefix=B")) == {"tags": ["beach"]}
    assert answer(service.get("/tags?k=2")) == {"tags": ["dog", "beach"]}


def test_search_finds_what_the_model_finds_and_shows_it(service: httpx.Client, served: Any) -> None:
    tagger = mmray.load(served["models"]["tags"], device="cpu", index=served["search"]["index"])
    for plus, minus, file in (
        (["dog"], [], None),
        (["red"], ["beach"], picture()),
        ([], [], picture()),
    ):
        params = {"plus": plus, "minus": minus, "k": 5, "thumbnails": True}
        files = {"file": file} if file else None
        body = answer(service.post("/search", params=params, files=files))
        images = [pixels(file)] if file else None
        expected = tagger.search_scored(images, plus, minus, 5)
        told = [(p["id"], p["similarity"]) for p in body["pictures"]]
        assert [name for name, _ in told] == [name for name, _ in expected]
        assert [s for _, s in told] == pytest.approx([s for _, s in expected], abs=1e-3)
        assert all(p["thumbnail"].startswith("/9j/") for p in body["pictures"]), "JPEG in base64"
        assert "/" not in "".join(p["id"] for p in body["pictures"]), "no place on the disk"
    plain = answer(service.post("/search?plus=dog"))
    assert all(p["thumbnail"] is None for p in plain["pictures"])


def test_captions_are_those_of_the_model(service: httpx.Client, served: Any) -> None:
    captioner = mmray.load(served["models"]["caption"], device="cpu")
    params = {"beam": 3, "n": 2, "attention": True}
    body = answer(service.post("/caption", params=params, files={"file": picture()}))
    (expected,) = captioner.captions([pixels(picture())], 3, 2, attention=True)
    assert [c["caption"] for c in body["captions"]] == [c.caption for c in expected]
    for told, wanted in zip(body["captions"], expected, strict=True):
        assert told["words"] == wanted.caption.split()
        assert told["log_probability"] == pytest.approx(wanted.log_probability, abs=1e-3)
        assert np.array(told["attention"]) == pytest.approx(wanted.attention, abs=1e-3)
    assert body["fit"] == "pad"
    plain = answer(service.post("/caption", files={"file": picture()}))
    assert len(plain["captions"]) == 1
    assert plain["captions"][0]["attention"] is None


def test_a_story_is_that_of_the_model(service: httpx.Client, served: Any) -> None:
    teller = mmray.load(served["models"]["story"], device="cpu")
    params = {"style": "old", "strength": 0.5, "n": 2, "seed": 3}
    body = answer(service.post("/story", params=params, files={"file": picture()}))
    (expected,) = teller.stories([pixels(picture())], "old", 0.5, 2, seed=3)
    assert [s["story"] for s in body["stories"]] == [s.story for s in expected]
    assert body["captions"] == expected[0].captions
    assert (body["style"], body["strength"]) == ("old", 0.5)


def test_a_story_is_told_while_it_is_written(service: httpx.Client) -> None:
    params = {"style": "old", "seed": 1}
    whole = answer(service.post("/story", params=params, files={"file": picture()}))
    events: list[tuple[str, Any]] = []
    told = service.stream(
        "POST", "/story", params={**params, "stream": True}, files={"file": picture()}
    )
    with told as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    names = [name for name, _ in events]
    assert names[0] == "captions"
    assert set(names[1:-1]) == {"drafts"}
    assert events[-1] == ("stories", whole)
    drafts = [data["drafts"] for name, data in events if name == "drafts"]
    assert all(b[0].startswith(a[0]) for a, b in itertools.pairwise(drafts))


def test_a_sound_is_heard_as_the_model_hears_it(service: httpx.Client, served: Any) -> None:
    body = answer(service.post("/sound?k=2", files={"file": ("../../etc/x.wav", wav())}))
    _, samples = wavfile.read(io.BytesIO(wav()))
    net = mmray.load(served["models"]["sound"], device="cpu")
    (expected,) = net.predict([samples.astype(np.float32) / 32768], 22050)
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
    body = answer(service.post("/sound?features=true", files={"file": ("clip.mp4", mp4())}))
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
    body = answer(service.post("/sound", files={"file": out.getvalue()}))
    assert body["duration_s"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_kinds_of_pictures(service: httpx.Client, kind: str) -> None:
    assert answer(service.post("/caption", files={"file": picture(kind)}))["captions"]


BATCHES = [
    ("/tags", {}, [picture(seed=i) for i in range(3)]),
    ("/search", {"k": 3}, [picture(seed=i) for i in range(3)]),
    ("/caption", {"beam": 2}, [picture(seed=i) for i in range(3)]),
    ("/story", {"style": "memo"}, [picture(seed=i) for i in range(2)]),
    ("/sound", {"k": 1}, [wav(1), wav(2)]),
]


@pytest.mark.parametrize(("path", "params", "uploads"), BATCHES, ids=[b[0] for b in BATCHES])
def test_a_batch_answers_as_one_by_one_and_a_bad_file_spoils_no_other(
    service: httpx.Client, path: str, params: dict[str, Any], uploads: list[bytes]
) -> None:
    single = [answer(service.post(path, params=params, files={"file": u})) for u in uploads]
    files = [("files", (f"{i}.bin", u)) for i, u in enumerate([*uploads, b"no media", b""])]
    results = answer(service.post(f"{path}/batch", params=params, files=files))["results"]
    assert [r["filename"] for r in results] == [f"{i}.bin" for i in range(len(uploads) + 2)]
    for one, item in zip(single, results, strict=False):
        assert item["problem"] is None
        assert _close(item["result"], one)
    assert [r["problem"]["status"] for r in results[-2:]] == [415, 400]
    assert all(r["result"] is None for r in results[-2:])


def _close(a: Any, b: Any) -> bool:
    """Equal but for the last digits, which sizes of batches change."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_close, a, b))
    return a == pytest.approx(b, abs=2e-3) if isinstance(a, float) else bool(a == b)


def test_models_tells_what_is_served(service: httpx.Client) -> None:
    answer(service.post("/tags", files={"file": picture()}))
    models = {m["name"]: m for m in answer(service.get("/models"))["models"]}
    assert {name: m["kind"] for name, m in models.items()} == {
        "tags": "joint",
        "caption": "captioner",
        "story": "storyteller",
        "sound": "soundnet",
    }
    assert all(m["state"] == "ok" and m["replicas"] == 1 for m in models.values())
    assert all(len(m["version"]) == 12 and m["loaded_s"] > 0 for m in models.values())
    assert models["tags"]["requests"] >= 1
    assert models["tags"]["latency_ms"]["p99"] >= models["tags"]["latency_ms"]["p50"] > 0
    assert models["tags"]["batch_size"] >= 1
    assert models["tags"]["details"] == {"tags": 5, "pictures": 24}
    assert models["story"]["details"] == {"styles": ["memo", "old"]}
    assert models["story"]["metrics"]["loss"] > 0
    assert models["tags"]["source"].count("/") == 1, "not the whole path"
    assert (models["tags"]["report"], models["sound"]["report"]) == ("/reports/joint", None)
    page = service.get("/reports/joint")
    assert page.text == REPORT
    assert "sandbox" in page.headers["content-security-policy"]
    assert service.get("/reports/soundnet").status_code == 404


def test_health_page_docs_and_schema(service: httpx.Client) -> None:
    health = answer(service.get("/healthz"))
    assert health["status"] == "ok"
    assert set(health["models"].values()) == {"ok"}
    assert "<main" in service.get("/").text
    assert service.get("/docs").status_code == 200
    paths = service.get("/openapi.json").json()["paths"]
    for path in ("/tags", "/search", "/caption", "/story", "/sound"):
        for route in (path, f"{path}/batch"):
            responses = paths[route]["post"]["responses"]
            assert {"200", "400", "401", "413", "415", "422", "429", "503"} <= responses.keys()


def test_many_clients_with_many_wishes_share_batches(service: httpx.Client) -> None:
    def ask(i: int) -> int:
        beam = 1 + i % 3
        response = service.post(f"/caption?beam={beam}", files={"file": picture(seed=i)})
        return response.status_code

    with ThreadPoolExecutor(MAX_REQUESTS // 2) as pool:
        assert set(pool.map(ask, range(100))) == {200}
    (caption,) = (m for m in answer(service.get("/models"))["models"] if m["name"] == "caption")
    assert caption["requests"] >= 100


def test_a_batch_of_too_many_files_is_refused(service: httpx.Client, assert_problem: Any) -> None:
    files = [("files", picture()) for _ in range(MAX_FILES + 1)]
    detail = assert_problem(service.post("/tags/batch", files=files), 422)
    assert f"at most {MAX_FILES}" in detail
