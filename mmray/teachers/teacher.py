"""Teachers: frozen nets that say what is in a picture, for nets that learn from them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmray.errors import UserError
from mmray.teachers import runtimes
from mmray.teachers.recipes import NetInfo, Recipe, grid_shape, recipe_of

# Pictures that go through the net at once. On a CPU the layers of a few stay in its cache: 4 take
# 8.4 ms each, 16 take 10.2; on a GPU more gain nothing and only take memory.
_CPU_BATCH, _GPU_BATCH = 4, 256
# Where the drivers of NVIDIA (also under WSL) and AMD show themselves.
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


class Teacher:
    """A frozen net; `load_teacher` makes one.

    Attributes:
        spec: as it was given.
        name: of the net.
        classes: names of the K classes.
        size: side S of the square pictures that the net takes, in pixels.
        feature_dim: length D of its feature vectors.
        depths_dim: length P of the vectors pooled at several depths.
        weights_sha256: of the file with its weights.
        device: `cpu`, or the GPU it runs on.
    """

    def __init__(
        self,
        recipe: Recipe,
        info: NetInfo,
        runtime: runtimes.Runtime,
        device: str,
        with_grid: Callable[[], runtimes.Runtime] | None = None,
    ) -> None:
        self._info, self._with_grid = info, with_grid
        self.spec, self.weights_sha256 = recipe.spec, recipe.weights_sha256
        self.name, self.classes, self.size = info.name, info.classes, info.size
        self.feature_dim, self.depths_dim = info.feature_dim, info.depths_dim
        self.device = device
        self._runtime = runtime

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """What is in each picture.

        Args:
            images: uint8 [N, S, S, 3], RGB. Squares of another size are resized.

        Returns:
            float32 [N, K]: probabilities of the classes, each row summing to 1.

        Raises:
            UserError: not an array of square colour pictures.
        """
        return self._run(images, ["probabilities"])[0]

    def features(self, images: np.ndarray) -> np.ndarray:
        """The input of the net's last layer: uint8 [N, S, S, 3] -> float32 [N, D]."""
        return self._run(images, ["features"])[0]

    def describe(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What models of pictures learn from.

        Args:
            images: uint8 [N, S, S, 3], RGB.

        Returns:
            Probabilities float32 [N, K], and float32 [N, P + D]: what was pooled at several
            depths, then the features. Drawings need the middle of a net made for photographs.
        """
        probabilities, features, depths = self._run(images, runtimes.OUTPUTS)
        return probabilities, np.concatenate([depths, features], axis=1)

    def grid(self, images: np.ndarray) -> np.ndarray:
        """The last convolutional map, before it is pooled: what the net sees where.

        Args:
            images: uint8 [N, S, S, 3], RGB.

        Returns:
            float32 [N, h, w, C]: rows from the top, columns from the left, channels.

        Raises:
            UserError: the net has no such map.
        """
        return self._run(images, [runtimes.GRID])[0]

    def describe_with_grid(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `describe` and `grid`, in one pass."""
        probabilities, features, depths, grid = self._run(
            images, (*runtimes.OUTPUTS, runtimes.GRID)
        )
        return probabilities, np.concatenate([depths, features], axis=1), grid

    def _run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        images = np.asarray(images)
        shape = images.shape
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or images.dtype != np.uint8:
            raise UserError(
                f"teacher {self.name}: expected square pictures as uint8 [N, S, S, 3], got "
                f"{images.dtype} {list(shape)}"
            )
        sizes = ((len(self.classes),), (self.feature_dim,), (self.depths_dim,))
        shapes: dict[str, tuple[int, ...]] = dict(zip(runtimes.OUTPUTS, sizes, strict=True))
        if runtimes.GRID in outputs:
            shapes[runtimes.GRID] = grid_shape(self.spec, self._info)
            if make := self._with_grid:
                # It stays, and gives everything else too: both would hold the weights twice.
                self._runtime = make()
                self._with_grid = None
        batch = _CPU_BATCH if self.device == "cpu" else _GPU_BATCH
        parts = [
            self._runtime.run(_resized(images[i : i + batch], self.size), outputs)
            for i in range(0, len(images), batch)
        ]
        parts.insert(0, [np.empty((0, *shapes[name]), np.float32) for name in outputs])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def load_teacher(spec: str, device: str = "auto", threads: int = 1) -> Teacher:
    """Load a teacher.

    Args:
        spec: `efficientnet_lite0`, `torchvision:NAME`, `torchvision:NAME=FILE`,
            `places365:FILE` or `mmray:DIR`; paths may be URIs.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads it may use; without effect on a GPU.

    Returns:
        The teacher. On the CPU it runs in ONNX Runtime in float32, on a GPU in torch in bfloat16.

    Raises:
        UserError: an unknown spec or device, or files that are not what the spec says.
    """
    recipe = recipe_of(spec)
    device = _device(device)
    if device == "cpu":
        graph, info = runtimes.exported(recipe)

        def with_grid() -> runtimes.Runtime:
            return runtimes.OnnxRuntime(runtimes.exported(recipe, grid=True)[0], threads)

        return Teacher(recipe, info, runtimes.OnnxRuntime(graph, threads), device, with_grid)
    import torch

    net = recipe.build()
    return Teacher(recipe, net.info, runtimes.TorchRuntime(net, device, torch.bfloat16), device)


def describe_teacher(spec: str, grid: bool = False) -> dict[str, Any]:
    """What a dataset's manifest says of a teacher; the net is checked but not started.

    Args:
        spec: as `load_teacher` takes it.
        grid: whether the dataset has its grid too.

    Returns:
        `spec`, `name`, `classes`, `size`, `feature_dim`, `depths_dim` and `weights_sha256`; where
        asked `grid`, the shape [h, w, C].

    Raises:
        UserError: as `load_teacher`; or the net has no grid.
    """
    recipe = recipe_of(spec)
    # On a CPU the graph is needed next: exported here, once, all workers of this machine find it.
    cpu = _device("auto") == "cpu"
    info = runtimes.exported(recipe)[1] if cpu else recipe.build().info
    shape = {"grid": list(grid_shape(spec, info))} if grid else {}
    if grid and cpu:
        runtimes.exported(recipe, grid)
    return shape | {
        "spec": spec,
        "name": info.name,
        "classes": info.classes,
        "size": info.size,
        "feature_dim": info.feature_dim,
        "depths_dim": info.depths_dim,
        "weights_sha256": recipe.weights_sha256,
    }


def _device(device: str) -> str:
    """The device meant by `device`; torch is imported only where there may be a GPU."""
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu") and (kind != "cuda" or (number and not number.isdigit())):
        raise UserError(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    if device == "cpu":
        return device
    may_have_gpu = "torch" in sys.modules or any(Path(path).exists() for path in _GPU_FILES)
    if device == "auto" and not may_have_gpu:
        return "cpu"
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if found else "cpu"
    if int(number or 0) >= found:
        raise UserError(f"device {device!r}: torch sees {found} GPUs here; use cpu or auto")
    return device


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """Squares of `size` pixels, antialiased."""
    if images.shape[1] == size:
        return np.ascontiguousarray(images)
    from mmray.media.image import square

    return np.stack([square(image, size) for image in images])
