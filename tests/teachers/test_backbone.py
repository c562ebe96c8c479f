"""Several frozen nets as one: what they see, and how they are told from others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmray.errors import UserError
from mmray.media.image import square
from mmray.teachers import load_teacher
from mmray.teachers.backbone import Backbone
from tests.joint.worlds import described, write_teacher

IMAGES = [
    np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)
    for i, (h, w) in enumerate([(16, 16), (20, 40), (1, 9)])
]


def test_vectors_of_all_nets_are_joined(tiny_teacher: str, own_teacher: Path) -> None:
    small, large = tiny_teacher, f"mmray:{own_teacher}"  # 16 and 32 pixels
    backbone = Backbone([small, large], "crop", "cpu")
    assert backbone.size == 32
    assert backbone.dim == 48 + load_teacher(large).depths_dim + 16
    vectors, answers = backbone.describe(IMAGES)
    squares = np.stack([square(image, 32, "crop") for image in IMAGES])
    for spec, columns in ((small, slice(48)), (large, slice(48, None))):
        probabilities, expected = load_teacher(spec, "cpu").describe(squares)
        np.testing.assert_allclose(vectors[:, columns], expected, atol=1e-5)
        np.testing.assert_allclose(answers[spec], probabilities, atol=1e-6)
    assert vectors.shape == (3, backbone.dim)
    assert vectors.dtype == np.float32
    assert backbone([]).shape == (0, backbone.dim)


def test_a_picture_is_seen_the_same_in_any_batch(tiny_teacher: str) -> None:
    backbone = Backbone([tiny_teacher])
    whole = backbone(IMAGES)
    for image, expected in zip(IMAGES, whole, strict=True):
        np.testing.assert_allclose(backbone([image])[0], expected, atol=1e-5)
    padded = [square(image, 16, "pad") for image in IMAGES]
    np.testing.assert_allclose(backbone(np.stack(padded)), whole, atol=1e-5)
    assert not np.allclose(Backbone([tiny_teacher], "crop")(IMAGES)[1], whole[1], atol=1e-3)


def test_the_grid_is_that_of_the_first_net(tiny_teacher: str, own_teacher: Path) -> None:
    large = f"mmray:{own_teacher}"
    squares = np.stack([square(image, 32, "crop") for image in IMAGES])
    for nets, shape in (((tiny_teacher, large), (4, 4, 8)), ((large, tiny_teacher), (16, 16, 8))):
        backbone = Backbone(nets, "crop", "cpu")
        grids = backbone.grids(IMAGES)
        assert (grids.shape, grids.dtype) == ((3, *shape), np.float32)
        np.testing.assert_allclose(grids, load_teacher(nets[0], "cpu").grid(squares), atol=1e-6)
        vectors, answers, together = backbone.describe_with_grids(IMAGES)
        expected, posteriors = Backbone(nets, "crop", "cpu").describe(IMAGES)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        np.testing.assert_allclose(together, grids, atol=1e-6)
        assert list(answers) == list(nets)
        for spec in nets:
            np.testing.assert_allclose(answers[spec], posteriors[spec], atol=1e-6)
        assert backbone.grids([]).shape == (0, *shape)


def test_its_description_is_of_its_weights(tiny_teacher: str, tmp_path: Path) -> None:
    here = described(tiny_teacher)
    assert here["dim"] == Backbone([tiny_teacher]).dim == 48
    moved = described(write_teacher(tmp_path / "moved"))
    assert moved["weights_sha256"] == here["weights_sha256"]
    other = described(write_teacher(tmp_path / "other", seed=1))
    assert other["weights_sha256"] != here["weights_sha256"]


def test_unknown_nets_are_user_errors() -> None:
    with pytest.raises(UserError, match="nowhere"):
        Backbone(["mmray:nowhere"])
