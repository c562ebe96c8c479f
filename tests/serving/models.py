"""Small models of every kind, an index and its pictures: what a whole service needs."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from scipy.io import wavfile

from jobs import predict, train_storyteller
from mmray import runtime, storage
from mmray.pipeline.images import ImageOptions, prepare_images
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.joint.taggers import write_tagger
from tests.storyteller.books import BOOKS, write_book

ROOT = Path(__file__).parent.parent.parent
MAX_BYTES, MAX_S, MAX_REQUESTS, MAX_FILES = 2_000_000, 10, 40, 8

REPORT = "<!doctype html><title>joint</title><script>document.title = eval('1 + 1')</script>"


def write_soundnet(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    config = SoundNetConfig("soundnet5", ["dog", "cat", "car"], ["beach", "street", "zoo"])
    save_model(folder, SoundNetModel(config))
    return str(folder)


def write_pictures(folder: Path, count: int = 24) -> str:
    """Pictures of coarse colours, in folders that name their labels."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        where = folder / ("dog", "beach")[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        coarse.resize((80, 60), Image.Resampling.BICUBIC).save(where / f"{i}.png")
    return str(folder)


def write_models(root: Path, teacher: Path) -> dict[str, dict[str, str]]:
    """Write a model of every kind; give `models` and `search` of the service's arguments."""
    data, net = str(root / "pictures"), f"mmray:{teacher}"
    runtime.set_local_mode(True)
    try:
        source = f"folder:{write_pictures(root / 'source')}"
        options = ImageOptions(source=source, backbone=(net,), objects=net, grid=True)
        prepare_images(options, data)
        tags = str(write_tagger(root / "tags", teacher))
        index = str(root / "answers")
        argv = ["tags", "--model", tags, "--input", data, "--index", "--local", "--out", index]
        predict.main(argv)
        captioner = write_captioner(root / "caption", data)
        captions = write_captioned(root / "captions", net, grid=False)
        story = write_storyteller(root, captions, captioner)
    finally:
        runtime.set_local_mode(False)
    sound = write_soundnet(root / "sound")
    storage.write_bytes(root / "reports" / "joint.html", REPORT.encode())
    return {
        "models": {"tags": tags, "caption": captioner, "story": story, "sound": sound},
        "search": {"index": f"{index}/index", "pictures": data},
        "reports": {"folder": str(root / "reports")},
    }


def write_storyteller(root: Path, captions: str, captioner: str) -> str:
    """A storyteller that has hardly learned anything."""
    books = [f"{name}={write_book(root / f'{name}.txt', name, 600)}" for name in BOOKS]
    styles = [part for book in books for part in ("--style", book)]
    sizes = ["--vocabulary", "150", "--dim", "32", "--layers", "1", "--max-length", "30"]
    steps = ["--steps", "10", "--batch-size", "16", "--warmup", "2"]
    argv = ["--captions", captions, "--captioner", captioner, *styles, *sizes, *steps, "--local"]
    train_storyteller.main([*argv, "--out", str(root / "story")])
    return str(root / "story/model")


def config_file(folder: Path, served: dict[str, dict[str, str]], port: int, **access: Any) -> Path:
    """The shipped config with other models and smaller limits."""
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    raw["http_options"]["port"] = port
    args = raw["applications"][0]["args"]
    args["models"], args["search"] = served["models"], served["search"]
    args["reports"] = served.get("reports", {}).get("folder")
    args["limits"].update(
        max_upload_bytes=MAX_BYTES,
        max_duration_s=MAX_S,
        max_requests=MAX_REQUESTS,
        max_files=MAX_FILES,
        max_pixels=1_000_000,
    )
    args["access"].update(access)
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wav(seconds: float = 3.0, rate: int = 22050, dtype: str = "int16", fill: Any = None) -> bytes:
    """Noise as a WAV file."""
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    if fill is not None:
        wave[len(wave) // 2] = fill
    out = io.BytesIO()
    wavfile.write(out, rate, (wave * 32767).astype(np.int16) if dtype == "int16" else wave)
    return out.getvalue()


def picture(kind: str = "PNG", size: tuple[int, int] = (80, 60), seed: int = 0) -> bytes:
    """A picture of coarse colours as a file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()
