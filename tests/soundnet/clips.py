"""A clip dataset of tones, for tests that look into nets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mmray import storage
from mmray.media.image import thumbnail
from mmray.media.sound import to_pcm16
from mmray.pipeline.dataset import Dataset, tensor_column, write_table
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model

RATE = 22050
OBJECTS, SCENES = ["bell", "dog", "train"], ["beach", "office"]
FRAMES = 2


def write_clips(folder: Path, clips: int = 24, per_shard: int = 5, truth: bool = True) -> Dataset:
    """Noise and tones of 2 to 6 s; two clips of each video, every third clip held out."""
    rng = np.random.default_rng(0)
    for shard, first in enumerate(range(0, clips, per_shard)):
        numbers = range(first, min(clips, first + per_shard))
        rows = [_row(i, rng, truth) for i in numbers]
        write_table(f"{folder}/part-{shard:05d}.parquet", _table(rows), row_group_size=2)
    manifest = {
        "kind": "clips",
        "schema_version": 1,
        "options": {"audio": "pcm16", "frame_s": 2.0, "clip_s": 6.0},
        "teachers": {"objects": {"classes": OBJECTS}, "scenes": {"classes": SCENES}},
        "counts": {"rows": clips, "errors": 0},
    }
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset(str(folder))


def _row(i: int, rng: np.random.Generator, truth: bool) -> dict:
    seconds = float(2 + i % 5)
    kind = i % len(OBJECTS)
    t = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 300 * 2**kind * t) + 0.05 * rng.normal(size=len(t))
    posterior = np.full((FRAMES, len(OBJECTS)), 0.1)
    posterior[:, kind] = 1
    picture = np.full((48, 64, 3), 60 * (kind + 1), np.uint8)
    return {
        "id": f"clip-{i}",
        "uri": f"/videos/{i // 2}.mp4",
        "split": "test" if i % 3 == 0 else "train",
        "start_s": 10.0 * (i % 2),
        "duration_s": seconds,
        "sample_rate": RATE,
        "audio": to_pcm16(wave),
        "thumbnail": thumbnail(picture),
        "frame_times": (np.arange(FRAMES) + 0.5) * seconds / FRAMES,
        "objects": posterior / posterior.sum(-1, keepdims=True),
        "scenes": np.tile([0.75, 0.25], (FRAMES, 1)),
        "frame_labels": [[f"object:{OBJECTS[kind]}"] if truth else []] * FRAMES,
    }


def _table(rows: list[dict]) -> pa.Table:
    tensors = {"frame_times": "float32", "objects": "float16", "scenes": "float16"}
    kinds = {
        "start_s": pa.float64(),
        "duration_s": pa.float64(),
        "sample_rate": pa.int32(),
        "audio": pa.large_binary(),
        "thumbnail": pa.binary(),
        "frame_labels": pa.list_(pa.list_(pa.string())),
    }
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in tensors:
            columns[name] = tensor_column(values, np.shape(values[0]), tensors[name])
        else:
            columns[name] = pa.array(values, kinds.get(name, pa.string()))
    return pa.table(columns)


def write_net(folder: Path, seed: int = 0, arch: str = "soundnet8") -> str:
    """A net with random weights that knows the dataset's classes."""
    torch.manual_seed(seed)
    model = SoundNetModel(SoundNetConfig(arch, OBJECTS, SCENES, frame_s=2.0))
    save_model(folder, model)
    return str(folder)
