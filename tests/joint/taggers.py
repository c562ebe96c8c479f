"""What tests of tagging share: a joint model with random weights, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmray.joint.finish import save
from mmray.joint.memory import Memory
from mmray.joint.model import JointConfig, JointModel
from mmray.joint.regression import KINDS, Regression
from mmray.joint.scorer import Scorer
from mmray.joint.vocabulary import Vocabulary
from tests.joint.worlds import described

DIM = 8
TAGS = ["dog", "beach", "red", "plage", "nikon"]
"""Of these, pictures do not tell the last."""


def write_tagger(folder: Path, teacher: Path) -> Path:
    """A joint model that sees through a teacher of our own."""
    backbone = described(f"mmray:{teacher}")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = JointModel(JointConfig(backbone["dim"], len(TAGS), hidden=16, dim=DIM)).eval()
    scorer = Scorer(model, Vocabulary(TAGS, [9, 8, 7, 6, 5], 20), backbone=backbone)
    scorer.visual = np.array([0.9, 0.8, 0.7, 0.65, 0.5], np.float32)
    scorer.calibration = {name: [0.5, 0.5, 0.0, 0.5, 0.0] for name in ("picture", "both", "tags")}
    features = rng.random((20, backbone["dim"]), np.float32)
    scorer.memory = Memory(scorer.vectors(features, None), rng.random((20, len(TAGS))) < 0.3)
    sizes = {"picture": backbone["dim"], "both": backbone["dim"] + len(TAGS), "tags": len(TAGS)}
    weights = {kind: np.zeros((size + 1, len(TAGS)), np.float32) for kind, size in sizes.items()}
    scorer.regressions = {kind: Regression(weights[kind][1:], weights[kind][0]) for kind in KINDS}
    scorer.centre = scorer.picture_vectors(features).mean(axis=0)
    scorer.looks = rng.random((len(TAGS), DIM), np.float32)
    save(scorer, str(folder), {})
    return folder


def write_pictures(folder: Path) -> Path:
    """Ten small pictures, and one file that is none."""
    rng = np.random.default_rng(0)
    for i in range(10):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 30)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder
