"""Small image datasets, written by hand: what each picture shows and is called is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmray import storage
from mmray.joint.config import LossWeights
from mmray.joint.data import JointExamples
from mmray.joint.model import JointConfig, JointModel
from mmray.joint.predict import Tagger
from mmray.joint.scorer import Scorer
from mmray.joint.task import JointTask
from mmray.joint.vocabulary import Vocabulary, build_vocabulary
from mmray.media.image import Fit
from mmray.pipeline import dataset
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.statistics import feature_statistics
from mmray.teachers import describe_teacher, nets
from mmray.teachers import train as teachers
from mmray.teachers.backbone import describe_backbone
from mmray.training.checkpoint import Checkpoints, State
from mmray.training.config import TrainConfig
from mmray.training.loader import Loader, Share, rows_of
from mmray.training.loop import Progress, fit

COLOURS = {"red": "rojo", "green": "verde", "blue": "azul"}
THINGS = {"dog": "perro", "car": "coche", "tree": "arbol"}
SIZES = {"train": 240, "val": 60, "test": 60}


def write_teacher(folder: Path, seed: int = 0) -> str:
    """The spec of an untrained net of 16 pixels, whose descriptions have 48 numbers."""
    torch.manual_seed(seed)
    net = nets.new_net("tiny", ["a", "b", "c"], 16, [4, 8, 8])
    training: dict[str, Any] = {"options": {"source": "nothing"}, "what": "objects"}
    training |= {"num_train": 0, "num_test": 0, "accuracy": 0.3, "nll": 1.1, "ece": 0.0}
    teachers.save(net.eval(), str(folder), training)
    return f"mmray:{folder}"


def write_rows(
    folder: Path, rows: list[dict[str, Any]], teacher: str, fit: str = "pad", row_group: int = 16
) -> str:
    """An image dataset of rows with `tags`, and where wanted more of its columns."""
    has_grid = bool(rows) and "grid" in rows[0]
    net = describe_teacher(teacher, grid=has_grid)
    dim = net["depths_dim"] + net["feature_dim"]
    usual = {"split": "train", "labels": [], "captions": [], "features": np.zeros(dim)}
    rows = [{"id": f"pic{i:03d}", **usual, **row} for i, row in enumerate(rows)]
    texts = pa.list_(pa.string())
    count = len(rows)
    table = pa.table(
        {
            "id": [row["id"] for row in rows],
            "uri": [f"/pictures/{row['id']}.jpg" for row in rows],
            "split": [row["split"] for row in rows],
            "width": pa.array([16] * count, pa.int32()),
            "height": pa.array([16] * count, pa.int32()),
            "tags": pa.array([row["tags"] for row in rows], texts),
            "captions": pa.array([row["captions"] for row in rows], texts),
            "labels": pa.array([row["labels"] for row in rows], texts),
            "features": dataset.tensor_column([row["features"] for row in rows], [dim], "float16"),
            "objects": dataset.tensor_column(np.full((count, 3), 1 / 3), [3], "float16"),
            "thumbnail": pa.array([b"\xff\xd8"] * count, pa.binary()),
        }
    )
    if has_grid:
        grids = dataset.tensor_column([row["grid"] for row in rows], net["grid"], "float16")
        table = table.append_column("grid", grids)
    dataset.write_table(str(folder / dataset.PART.format(0)), table, row_group)
    manifest = {
        "kind": "images",
        "schema_version": dataset.SCHEMA_VERSION,
        "source": "test",
        "options": {"source": "test", "backbone": [teacher], "objects": teacher, "fit": fit},
        "teachers": {"objects": net, "features_0": net},
        "counts": {"pictures": count, "rows": count, "shards": 1, "errors": 0},
    }
    storage.write_json(folder / "manifest.json", manifest)
    return str(folder)


def write_world(
    folder: Path, teacher: str, sizes: dict[str, int] | None = None, seed: int = 0, **how: Any
) -> str:
    """Pictures of a thing of one colour; the features say both, the tags often, in two languages.

    `nikon` says nothing of the picture, `unicorn` occurs in the split test alone, and a quarter of
    the pictures has no tags.
    """
    rng = np.random.default_rng(seed)
    dim = 48
    directions = np.random.default_rng(99).normal(size=(6, dim))
    meanings = dict(zip([*COLOURS, *THINGS], directions, strict=True))
    rows = []
    for split, size in (sizes or SIZES).items():
        for i in range(size):
            colour, thing = rng.choice(list(COLOURS)), rng.choice(list(THINGS))
            words = [colour, COLOURS[colour], thing, THINGS[thing]]
            tags: list[str] | None = [w.upper() for w in words if rng.random() < 0.6]
            assert tags is not None
            tags += ["nikon"] * (rng.random() < 0.4) + ["unicorn"] * (split == "test")
            if i % 4 == 3:
                tags = None if i % 8 == 7 else []
            features = meanings[colour] + meanings[thing] + 2 * rng.normal(size=dim)
            labels = [f"colour:{colour}", f"object:{thing}"]
            rows.append({"split": split, "tags": tags, "labels": labels, "features": features})
    return write_rows(folder, rows, teacher, **how)


def small_task(data: str, **choices: Any) -> JointTask:
    """The task of a joint model with short vectors."""
    vocabulary = build_vocabulary(Dataset(data, "images"))
    sizes = JointConfig(feature_dim=48, num_tags=len(vocabulary), hidden=16, dim=8, dropout=0.1)
    usual: dict[str, Any] = {"weights": LossWeights(), "towers": {}, "mixup": 0.4}
    statistics = feature_statistics(Dataset(data, "images"))
    return JointTask(sizes, vocabulary, statistics, data=data, **{**usual, **choices})


def hand_made(words: dict[str, Sequence[float]]) -> Tagger:
    """A model whose tags have given embeddings, and whose pictures' features are their vectors."""
    vectors = np.array(list(words.values()), np.float32)
    dim = vectors.shape[1]
    sizes = JointConfig(feature_dim=dim, num_tags=len(words), hidden=4, dim=dim)
    scorer = Scorer(JointModel(sizes), Vocabulary(list(words), [1] * len(words), 1))
    scorer.looks, scorer.centre = vectors, np.zeros(dim, np.float32)
    scorer.picture_vectors = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return Tagger(scorer, device="cpu")


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def train_small(
    data: str,
    out: Path,
    task: JointTask | None = None,
    *,
    share: Share | None = None,
    steps: int = 60,
    kill_at: int | None = None,
) -> State:
    """Train in this process, or one worker's share of the training, by the real loop."""
    task, share = task or small_task(data), share or Share()
    config = TrainConfig(
        steps=steps, batch_size=32, lr=5e-3, log_every=4, eval_every=20, checkpoint_every=8
    )
    train_rows = JointExamples(task.vocabulary, task.config.noise, task.mixup)
    train, val = (
        Loader(Dataset(data, "images"), examples, split=split, batch_size=32, share=share)
        if len(rows_of(Dataset(data, "images"), split))
        else None
        for split, examples in (("train", train_rows), ("val", JointExamples(task.vocabulary)))
    )
    assert train is not None

    def report(progress: Progress) -> None:
        if kill_at is not None and progress.step >= kill_at:
            raise Killed

    return fit(
        *(task, train, val, config, Checkpoints(str(out))),
        rank=share.rank,
        world_size=share.world_size,
        report=report,
        settings=task.settings(),
    )


def save_small(task: JointTask, out: Path) -> str:
    """The model folder of a training by `train_small`."""
    checkpoints = Checkpoints(str(out))
    state = checkpoints.newest()
    assert state is not None
    model = task.build()
    checkpoints.load_model(state.step, model)
    task.save(model, str(out / "model"), {"steps": state.step})
    return str(out / "model")


def described(spec: str, fit: Fit = "pad") -> dict[str, Any]:
    """A backbone of one net, as models describe it."""
    return describe_backbone([spec], fit, [describe_teacher(spec)])
