from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmray import storage
from mmray.errors import UserError
from mmray.media.image import decode_image, square
from mmray.teachers import describe_teacher, load_teacher
from mmray.teachers import teacher as module
from tests.teachers.worlds import write_mapless

STAMPS = Path("/usr/share/tuxpaint/stamps/animals")


def test_probabilities_and_features(own_teacher: Path) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    probabilities, features = teacher(images), teacher.features(images)
    assert probabilities.shape == (5, len(teacher.classes)) == (5, 3)
    assert features.shape == (5, teacher.feature_dim)
    assert probabilities.dtype == features.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    described, vectors = teacher.describe(images)
    np.testing.assert_array_equal(described, probabilities)
    assert vectors.shape == (5, teacher.depths_dim + teacher.feature_dim)
    np.testing.assert_array_equal(vectors[:, teacher.depths_dim :], features)


def test_the_grid_comes_with_the_rest_in_one_pass(own_teacher: Path) -> None:
    spec = f"mmray:{own_teacher}"
    teacher = load_teacher(spec, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    expected = teacher.describe(images)
    *found, grid = teacher.describe_with_grid(images)
    assert (grid.shape, grid.dtype) == ((5, 16, 16, 8), np.float32)
    np.testing.assert_array_equal(load_teacher(spec, device="cpu").grid(images), grid)
    assert teacher.grid(images[:0]).shape == (0, 16, 16, 8)
    for before, with_grid, after in zip(expected, found, teacher.describe(images), strict=True):
        np.testing.assert_allclose(with_grid, before, atol=1e-6)
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_net_without_a_map_has_no_grid(tmp_path: Path) -> None:
    spec = write_mapless(tmp_path / "mapless")
    teacher = load_teacher(spec, device="cpu")
    pixel = np.zeros((1, 1, 1, 3), np.uint8)
    assert teacher(pixel).shape == (1, 2)
    for wrong in (
        lambda: teacher.grid(pixel),
        lambda: teacher.describe_with_grid(pixel),
        lambda: describe_teacher(spec, grid=True),
    ):
        with pytest.raises(UserError, match=f"--grid: the net {spec} has no convolutional map"):
            wrong()


def test_many_pictures_go_through_in_batches(
    own_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    whole = teacher(images)
    monkeypatch.setattr(module, "_CPU_BATCH", 4)
    np.testing.assert_allclose(teacher(images), whole, atol=1e-6)


def test_no_pictures(own_teacher: Path) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    nothing = np.zeros((0, 50, 50, 3), np.uint8)
    assert teacher(nothing).shape == (0, 3)
    assert teacher.features(nothing).shape == (0, teacher.feature_dim)


def test_pictures_of_another_size_are_resized(own_teacher: Path) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    large = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
    small = np.stack([square(image, 32) for image in large])
    np.testing.assert_array_equal(teacher(large), teacher(small))


def test_a_view_is_as_good_as_an_array(own_teacher: Path) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        teacher(images[::2, :, ::-1]), teacher(images[::2, :, ::-1].copy())
    )


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 32, 48, 3), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((2, 32, 32, 4), np.uint8),
    ],
)
def test_other_arrays_are_refused(own_teacher: Path, images: np.ndarray) -> None:
    teacher = load_teacher(f"mmray:{own_teacher}", device="cpu")
    with pytest.raises(UserError, match=r"expected square pictures as uint8 \[N, S, S, 3\], got"):
        teacher(images)


def test_description_fits_the_teacher(own_teacher: Path) -> None:
    spec = f"mmray:{own_teacher}"
    teacher = load_teacher(spec, device="cpu")
    assert describe_teacher(spec) == {
        "spec": spec,
        "name": "shapes",
        "classes": ["disc", "square", "stripes"],
        "size": 32,
        "feature_dim": 16,
        "depths_dim": teacher.depths_dim,
        "weights_sha256": storage.sha256(own_teacher / "model.safetensors"),
    }
    assert describe_teacher(spec, grid=True) == {**describe_teacher(spec), "grid": [16, 16, 8]}
    assert teacher.weights_sha256 == storage.sha256(own_teacher / "model.safetensors")
    assert (teacher.name, teacher.size, teacher.device) == ("shapes", 32, "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "tpu:0", ""])
def test_unknown_device(own_teacher: Path, device: str) -> None:
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N"):
        load_teacher(f"mmray:{own_teacher}", device=device)


def test_a_gpu_that_is_not_there(own_teacher: Path) -> None:
    with pytest.raises(UserError, match=r"'cuda:77': torch sees \d+ GPUs here"):
        load_teacher(f"mmray:{own_teacher}", device="cuda:77")


def test_a_worker_starts_without_torch(own_teacher: Path) -> None:
    describe_teacher(f"mmray:{own_teacher}")
    code = (
        "import sys, numpy as np; from mmray.teachers import load_teacher\n"
        f"t = load_teacher('mmray:{own_teacher}', device='cpu')\n"
        "assert t(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 3)\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real
@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's tuxpaint-stamps-default")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("birds/rooster", "cock"), ("mammals/pig", "hog"), ("mammals/equines/horse", "sorrel")],
)
def test_efficientnet_knows_drawn_animals(name: str, expected: str) -> None:
    image = decode_image((STAMPS / f"{name}.png").read_bytes())
    teacher = load_teacher("efficientnet_lite0", device="cpu")
    (probabilities,) = teacher(square(image, 224, "pad")[None])
    assert teacher.classes[int(probabilities.argmax())] == expected
    assert probabilities.max() > 0.5
