"""Small pictures, checkpoints and a cache of their own for the tests of teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from mmray.teachers.nets import new_net
from mmray.teachers.train import save


@pytest.fixture(scope="session")
def teacher_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache_of_the_tests(teacher_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAY_CACHE", str(teacher_cache))


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """uint8 [12, 224, 224, 3]: smooth random colours with edges and texture, unlike noise."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        image = coarse.resize((224, 224), Image.Resampling.BICUBIC)
        patch = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        image.paste(patch.resize((90, 90), Image.Resampling.NEAREST), (60, 70))
        images.append(np.asarray(image.filter(ImageFilter.GaussianBlur(1))))
    return np.stack(images)


@pytest.fixture
def own_teacher(tmp_path: Path) -> Path:
    """The folder of an untrained net of our own: 3 classes, 32 pixels."""
    torch.manual_seed(0)
    net = new_net("shapes", ["disc", "square", "stripes"], 32, [4, 8])
    training = {
        "what": "objects",
        "num_train": 1,
        "num_test": 1,
        "accuracy": 0.5,
        "nll": 1.0,
        "ece": 0.1,
        "options": {"source": "folder:x"},
    }
    save(net, str(tmp_path / "teacher"), training)
    return tmp_path / "teacher"


@pytest.fixture
def shapes_folder(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder with one folder a class and so many pictures in each."""

    def make(number: int) -> Path:
        root = tmp_path / "shapes"
        rng = np.random.default_rng(1)
        for label in ("disc", "square", "stripes"):
            (root / label).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                Image.fromarray(_shape(label, rng)).save(root / label / f"{i:03d}.png")
        return root

    return make


def _shape(label: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [40, 48, 3]: a figure in one colour on another."""
    y, x = np.mgrid[:40, :48]
    cy, cx, r = rng.uniform(16, 24), rng.uniform(20, 28), rng.uniform(8, 13)
    inside = {
        "disc": (y - cy) ** 2 + (x - cx) ** 2 < r**2,
        "square": (abs(y - cy) < r) & (abs(x - cx) < r),
        "stripes": (y + x + int(r)) % 8 < 4,
    }[label]
    ground, figure = rng.integers(0, 100, 3), rng.integers(150, 256, 3)
    return np.where(inside[..., None], figure, ground).astype(np.uint8)
