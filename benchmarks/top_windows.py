"""The top windows of all 1,024 units of conv7 over many clips, in one streaming pass.

    python benchmarks/top_windows.py --clips 10000

Clips of 2 s of tones and noise, written first (0.9 GB for 10,000) and removed in the end. Prints
clips a second, how the memory of the driver grows, and whether the result equals brute force on
the first 200 clips. What is kept is units x k windows: 1,024 x 9.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch

import mmray
from mmray import storage
from mmray.cli import console
from mmray.media.sound import to_pcm16
from mmray.models import load_predictor
from mmray.pipeline.dataset import Dataset, tensor_column, waveform, write_table
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.soundnet.predict import repeat
from mmray.soundnet.survey import SurveyOptions, survey_clips
from mmray.soundnet.windows import SHORTEST_S

RATE, SECONDS, SHARD, LAYER = 22050, 2.0, 100, "conv7"


def write_clips(folder: Path, clips: int) -> Dataset:
    """Tones of random pitch in noise."""
    rng = np.random.default_rng(0)
    t = np.arange(round(SECONDS * RATE)) / RATE
    for shard, first in enumerate(range(0, clips, SHARD)):
        numbers = range(first, min(clips, first + SHARD))
        waves = (
            0.3 * np.sin(2 * np.pi * rng.uniform(80, 8000) * t)
            + rng.uniform(0, 0.2) * rng.normal(size=len(t))
            for _ in numbers
        )
        count = len(numbers)
        table = pa.table(
            {
                "id": [f"clip-{i}" for i in numbers],
                "uri": [f"/videos/{i}.mp4" for i in numbers],
                "split": ["train"] * count,
                "start_s": [0.0] * count,
                "duration_s": [SECONDS] * count,
                "sample_rate": pa.array([RATE] * count, pa.int32()),
                "audio": pa.array([to_pcm16(wave) for wave in waves], pa.large_binary()),
                "frame_times": tensor_column([np.array([1.0])] * count, [1], "float32"),
            }
        )
        write_table(f"{folder}/part-{shard:05d}.parquet", table, 16)
    manifest = {
        "kind": "clips",
        "schema_version": 1,
        "options": {"audio": "pcm16"},
        "counts": {"rows": clips, "errors": 0},
    }
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset(str(folder))


class Memory(threading.Thread):
    """The driver's resident memory in MB, four times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[float] = []
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        process = psutil.Process()
        while True:
            self.seen.append(process.memory_info().rss / 1e6)
            time.sleep(0.25)


def brute_force(model: str, data: Dataset, clips: int, k: int) -> np.ndarray:
    """The `k` highest activations of each unit over the first clips, [U, k]."""
    net = load_predictor(model, device="cpu")
    g = net.config.geometry(LAYER)
    best = []
    for value in data.read(["audio"], limit=clips)["audio"]:
        wave = repeat(waveform(value.as_buffer(), "pcm16"), round(SHORTEST_S * RATE))
        (x,) = net.features([wave], RATE, LAYER)
        starts = g.start + g.stride * np.arange(x.shape[1])
        best.append(x[:, (starts >= 0) & (starts + g.field <= len(wave))].max(axis=1))
    return -np.sort(-np.stack(best, axis=1), axis=1)[:, :k]


def main() -> None:
    """Write, watch, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=10_000)
    args = parser.parse_args()
    mmray.init()
    options = SurveyOptions((LAYER,), k=9, sample=0, others=())
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        torch.manual_seed(0)
        save_model(f"{folder}/model", SoundNetModel(SoundNetConfig("soundnet8", ["a"], ["b"])))
        model = f"{folder}/model"
        net = load_predictor(model, device="cpu")
        small = write_clips(Path(folder) / "small", 200)
        found = survey_clips(model, net, small, options).top[LAYER].values
        wanted = brute_force(model, small, 200, options.k)
        console.print(
            f"200 clips, largest difference to brute force: {abs(found - wanted).max():g}"
        )
        data = write_clips(Path(folder) / "data", args.clips)
        memory, start = Memory(), time.monotonic()
        survey = survey_clips(model, net, data, options)
        seconds = time.monotonic() - start
        grown = max(memory.seen) - np.median(memory.seen[: max(1, len(memory.seen) // 10)])
        console.print(
            f"{args.clips:,} clips in {seconds:.0f} s, {args.clips / seconds:.0f} a second; "
            f"{survey.top[LAYER].values.size:,} windows kept, of {len(survey.rows):,} clips; "
            f"driver {memory.seen[0]:.0f} MB at first, {grown:+.0f} MB at most after a tenth"
        )


if __name__ == "__main__":
    main()
