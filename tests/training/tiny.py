"""A small dataset and a small task for the tests of the loop; knows nothing of sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmray import storage
from mmray.pipeline import dataset
from mmray.training.config import TrainConfig
from mmray.training.loader import Batch, Row
from mmray.training.train import Job

FEATURES = 8


def write_dataset(
    folder: Path, rows: int = 96, val: int = 16, row_group: int = 8, bad: int | None = None
) -> str:
    """`rows` rows to train on and `val` to evaluate on, in two shards; `bad` gets a NaN."""
    rng = np.random.default_rng(0)
    count = rows + val
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    if bad is not None:
        x[bad, 0] = np.nan
    splits = ["train"] * rows + ["val"] * val
    table = pa.table(
        {
            "id": [f"row{i:03d}" for i in range(count)],
            "split": splits,
            "x": dataset.tensor_column(x, [FEATURES], "float32"),
            "label": (np.nan_to_num(x).sum(1) > 0).astype(np.int64),
        }
    )
    half = count // 2
    for part, rows_of_part in enumerate((table.slice(0, half), table.slice(half))):
        dataset.write_table(str(folder / dataset.PART.format(part)), rows_of_part, row_group)
    storage.write_json(
        folder / "manifest.json",
        {"kind": "clips", "schema_version": 1, "options": {}, "counts": {"rows": count}},
    )
    return str(folder)


@dataclass(frozen=True)
class TinyExamples:
    """The features, with noise while training."""

    noise: float = 0.1
    columns: tuple[str, ...] = ("x", "label")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        x = np.stack([row["x"] for row in rows])
        if rngs:
            noise = np.stack([rng.normal(size=FEATURES) for rng in rngs])
            x = x + self.noise * noise.astype(np.float32)
        return {"x": torch.from_numpy(x), "label": torch.tensor([row["label"] for row in rows])}


@dataclass(frozen=True)
class TinyTask:
    """A small net with BatchNorm.

    Args:
        dropout: probability.
        die_once: a file; when it is missing, it is made and the worker dies at step `die_at`.
        die_at: see there.
    """

    dropout: float = 0.0
    die_once: str = ""
    die_at: int = 0
    name: str = "tiny"
    leading: tuple[str, Literal["min", "max"]] = ("loss", "min")

    def settings(self) -> dict[str, Any]:
        return {"dropout": self.dropout}

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(FEATURES, 16, bias=False),  # BatchNorm takes a bias off again
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(16, 2),
        )

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self._perhaps_die(model)
        logits = model(batch["x"])
        right = (logits.argmax(-1) == batch["label"]).float().mean()
        return nn.functional.cross_entropy(logits, batch["label"]), {"accuracy": right}

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["x"])
        return {
            "loss": nn.functional.cross_entropy(logits, batch["label"], reduction="none"),
            "accuracy": (logits.argmax(-1) == batch["label"]).float(),
        }

    def save(self, model: nn.Module, where: str, training: dict[str, Any]) -> None:
        Path(where).mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), Path(where) / "model.safetensors")
        storage.write_json(Path(where) / "config.json", {"kind": "tiny", "training": training})

    def pictures(self, model: nn.Module) -> dict[str, bytes]:
        return {}

    def _perhaps_die(self, model: nn.Module) -> None:
        if not self.die_once or not model.training:
            return
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
        if int(norm.num_batches_tracked) == self.die_at and not Path(self.die_once).exists():
            Path(self.die_once).touch()
            os._exit(1)  # as kill -9 would: nothing is cleaned up


def job(data: str, out: Path | str, task: TinyTask | None = None, **config: Any) -> Job:
    """A training of the tiny task."""
    settings: dict[str, Any] = {
        "steps": 20,
        "batch_size": 16,
        "lr": 0.01,
        "log_every": 1,
        "eval_every": 10,
        "checkpoint_every": 5,
        **config,
    }
    examples = TinyExamples()
    return Job(
        task or TinyTask(), examples, examples, data, "clips", str(out), TrainConfig(**settings)
    )
