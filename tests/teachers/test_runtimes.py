from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmray.errors import UserError
from mmray.teachers import runtimes
from mmray.teachers.nets import PictureNet, own_net
from mmray.teachers.recipes import recipe_of


@pytest.fixture(scope="module")
def efficientnet(
    teacher_cache: Path, pictures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, PictureNet]:
    """Probabilities and all vectors of the pictures in ONNX Runtime, and the net."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRAY_CACHE", str(teacher_cache))
        recipe = recipe_of("efficientnet_lite0")
        graph, _ = runtimes.exported(recipe)
    probabilities, *vectors = runtimes.OnnxRuntime(graph).run(pictures, runtimes.OUTPUTS)
    return probabilities, np.concatenate(vectors, axis=1), recipe.build()


def test_onnx_runtime_agrees_with_torch_in_float32(
    efficientnet: tuple[np.ndarray, np.ndarray, PictureNet], pictures: np.ndarray
) -> None:
    probabilities, features, net = efficientnet
    own, *vectors = runtimes.TorchRuntime(net, "cpu", torch.float32).run(pictures, runtimes.OUTPUTS)
    own_features = np.concatenate(vectors, axis=1)
    assert probabilities.shape == (12, 1000)
    assert probabilities.max() > 0.1  # the net is sure of something, so agreement means something
    np.testing.assert_allclose(probabilities, own, atol=1e-5)
    np.testing.assert_allclose(features, own_features, atol=1e-4)


def test_onnx_runtime_agrees_with_torch_in_bfloat16(
    efficientnet: tuple[np.ndarray, np.ndarray, PictureNet], pictures: np.ndarray
) -> None:
    probabilities, _, net = efficientnet
    (reduced,) = runtimes.TorchRuntime(net, "cpu", torch.bfloat16).run(pictures, ["probabilities"])
    difference = np.abs(probabilities - reduced)
    assert reduced.dtype == np.float32
    assert difference.mean(axis=1).max() < 1e-3
    # bfloat16 keeps 8 bits, so the probability of a likely class moves by hundredths.
    assert 1e-5 < difference.max() < 0.1
    np.testing.assert_allclose(reduced.sum(axis=1), 1.0, atol=1e-5)


def test_one_thread_and_two_agree(own_teacher: Path) -> None:
    graph, _ = runtimes.exported(recipe_of(f"mmray:{own_teacher}"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    one, two = (runtimes.OnnxRuntime(graph, n).run(images, ["probabilities"])[0] for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_pictures_do_not_disturb_each_other(own_teacher: Path) -> None:
    graph, _ = runtimes.exported(recipe_of(f"mmray:{own_teacher}"))
    runtime = runtimes.OnnxRuntime(graph)
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    (together,) = runtime.run(images, ["probabilities"])
    alone = [runtime.run(images[i : i + 1], ["probabilities"])[0] for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_the_graph_is_exported_once(own_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(f"mmray:{own_teacher}")
    graph, info = runtimes.exported(recipe)
    written = graph.stat().st_mtime_ns
    monkeypatch.setattr(runtimes, "export", lambda *_: pytest.fail("exported again"))
    assert runtimes.exported(recipe) == (graph, info)
    assert graph.stat().st_mtime_ns == written
    found = sorted(graph.parent.glob(f"*{recipe.key}*"))
    assert [p.suffix for p in found if "-grid" not in p.name] == [".json", ".onnx"]


def _export(folder: str) -> float:
    graph, _ = runtimes.exported(recipe_of(f"mmray:{folder}"))
    pixels = np.full((1, 32, 32, 3), 200, np.uint8)
    return float(runtimes.OnnxRuntime(graph).run(pixels, ["probabilities"])[0][0, 0])


def test_processes_may_export_at_the_same_time(
    own_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "fresh"))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(_export, [str(own_teacher)] * 2)
    assert first == second
    names = sorted(p.suffix for p in (tmp_path / "fresh" / "teachers").iterdir())
    assert names == [".json", ".onnx"]


def test_a_net_too_large_for_a_graph(
    own_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "_MAX_ONNX_BYTES", 100)
    with pytest.raises(UserError, match=r"too many for ONNX Runtime on a CPU; run it on a GPU"):
        runtimes.export(own_net(str(own_teacher)), tmp_path / "a.onnx", tmp_path / "a.json")
    assert list(tmp_path.glob("a.*")) == []


def test_bfloat16_leaves_the_head_and_the_norms_in_float32(own_teacher: Path) -> None:
    net = own_net(str(own_teacher))
    runtimes.TorchRuntime(net, "cpu", torch.bfloat16)
    dtypes = {type(m): p.dtype for m in net.modules() for p in m.parameters(recurse=False)}
    assert dtypes == {
        nn.Conv2d: torch.bfloat16,
        nn.BatchNorm2d: torch.float32,
        nn.Linear: torch.float32,
    }


def test_the_grid_has_a_graph_of_its_own(
    efficientnet: tuple[np.ndarray, np.ndarray, PictureNet], pictures: np.ndarray
) -> None:
    probabilities, vectors, _ = efficientnet
    recipe = recipe_of("efficientnet_lite0")
    plain, info = runtimes.exported(recipe)
    graph, same = runtimes.exported(recipe, grid=True)
    assert graph != plain
    assert info == same
    assert info.grid == (7, 7, 1280)
    outputs = (*runtimes.OUTPUTS, runtimes.GRID)
    found, *found_vectors, grid = runtimes.OnnxRuntime(graph).run(pictures, outputs)
    assert (grid.shape, grid.dtype) == ((12, 7, 7, 1280), np.float32)
    np.testing.assert_allclose(found, probabilities, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(found_vectors, axis=1), vectors, atol=1e-5)
    np.testing.assert_allclose(grid.mean(axis=(1, 2)), found_vectors[0], atol=1e-5)
    torch_runtime = runtimes.TorchRuntime(recipe.build(), "cpu", torch.float32)
    (own,) = torch_runtime.run(pictures, [runtimes.GRID])
    np.testing.assert_allclose(grid, own, atol=2e-4)
    (features,) = torch_runtime.run(pictures, ["features"])
    np.testing.assert_allclose(features, found_vectors[0], atol=1e-4)


def test_the_grid_is_float32_in_bfloat16_too(own_teacher: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    grids = {}
    for dtype in (torch.float32, torch.bfloat16):
        runtime = runtimes.TorchRuntime(own_net(str(own_teacher)), "cpu", dtype)
        features, grids[dtype] = runtime.run(images, ["features", runtimes.GRID])
        pooled = [grids[dtype].mean(axis=(1, 2)), grids[dtype].max(axis=(1, 2))]
        np.testing.assert_allclose(np.concatenate(pooled, axis=1), features, atol=0.02)
    assert grids[torch.bfloat16].dtype == np.float32
    np.testing.assert_allclose(*grids.values(), atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_onnx_runtime(
    efficientnet: tuple[np.ndarray, np.ndarray, PictureNet], pictures: np.ndarray
) -> None:
    probabilities, _, _ = efficientnet
    net = recipe_of("efficientnet_lite0").build()
    (reduced,) = runtimes.TorchRuntime(net, "cuda", torch.bfloat16).run(pictures, ["probabilities"])
    assert np.abs(probabilities - reduced).mean(axis=1).max() < 1e-3
    assert np.abs(probabilities - reduced).max() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_grid(pictures: np.ndarray) -> None:
    recipe = recipe_of("efficientnet_lite0")
    runtime = runtimes.TorchRuntime(recipe.build(), "cuda", torch.bfloat16)
    features, grid = runtime.run(pictures, ["features", runtimes.GRID])
    assert (grid.shape, grid.dtype) == ((12, 7, 7, 1280), np.float32)
    np.testing.assert_allclose(grid.mean(axis=(1, 2)), features, atol=0.02)
