"""Running a net: ONNX Runtime on the CPU, torch in bfloat16 on a GPU.

On a CPU, ONNX Runtime runs these nets several times as fast as eager torch. The graph is exported
once per net into the cache folder, where all later workers find it.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmray import storage
from mmray.errors import UserError
from mmray.teachers.recipes import NetInfo, Recipe

if TYPE_CHECKING:
    import torch

    from mmray.teachers.nets import PictureNet

OUTPUTS = ("probabilities", "features", "depths")
GRID = "grid"
"""An output of its own graph, so that a net costs no more where nobody wants its grid."""
# Protocol buffers, which ONNX files are, cannot hold more.
_MAX_ONNX_BYTES = 2**31 - 2**20
# torch's exporter keeps global state.
_export_lock = threading.Lock()


class Runtime(Protocol):
    """A net that is ready to run."""

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """uint8 [N, S, S, 3] -> the outputs asked for (of `OUTPUTS`, `GRID`), float32 [N, ...]."""


class OnnxRuntime:
    """A net in ONNX Runtime on the CPU.

    Args:
        path: of the graph that `exported` wrote, with the grid where that is asked for.
        threads: CPU threads it may use.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Threads that wait by spinning would take the cores from the decoders beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """See `Runtime.run`."""
        return list(self._session.run(list(outputs), {"images": images}))


class TorchRuntime:
    """A net in torch.

    Args:
        net: the net; it is changed in place.
        device: for example `cuda:0`.
        dtype: of the body's arithmetic. In bfloat16, probabilities differ from float32 by some
            hundredths at worst and by less than 1e-4 on average over the classes.
    """

    def __init__(self, net: PictureNet, device: str, dtype: torch.dtype) -> None:
        import torch

        self._device, self._dtype = torch.device(device), dtype
        # Only the layers that gain by it; normalisations keep their float32 statistics.
        for layer in net.body.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.to(dtype)
        self._net = net.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """See `Runtime.run`."""
        import torch

        kind, reduced = self._device.type, self._dtype != torch.float32
        grid = GRID in outputs
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        with torch.inference_mode(), torch.autocast(kind, self._dtype, enabled=reduced):
            results = dict(zip(_outputs(grid), self._net(pixels, grid), strict=True))
        return [results[name].cpu().numpy() for name in outputs]


def exported(recipe: Recipe, grid: bool = False) -> tuple[Path, NetInfo]:
    """The cached ONNX graph of a teacher (the one with its grid), exported when it is missing.

    Any number of workers may ask at the same time: each writes a file of its own, and the last
    rename wins with the same content.

    Raises:
        UserError: the teacher's files are not what the spec says, or the net is too large.
    """
    graph, info = _cache_paths(recipe, grid)
    if not (graph.exists() and info.exists()):
        export(recipe.build(), graph, info, grid)
    return graph, read_info(info)


def export(net: PictureNet, graph: Path, info: Path, grid: bool = False) -> None:
    """Write a net as an ONNX graph, and what is known of it as JSON, each atomically."""
    import torch

    size = sum(p.numel() * p.element_size() for p in net.parameters())
    if size > _MAX_ONNX_BYTES:
        raise UserError(
            f"teacher {net.info.name}: its {size / 1e9:.1f} GB of weights are too many for ONNX "
            "Runtime on a CPU; run it on a GPU or choose a smaller net"
        )
    storage.write_json(info, asdict(net.info))
    pixels = torch.zeros(2, net.info.size, net.info.size, 3, dtype=torch.uint8)
    outputs = _outputs(grid)
    with _export_lock, storage.atomic_path(graph) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The exporter by tracing: ten times as fast as the one by torch.export, and as exact.
        torch.onnx.export(
            net.eval(),
            (pixels, grid) if grid else (pixels,),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in ("images", *outputs)},
        )


def read_info(path: Path) -> NetInfo:
    """Read what `export` noted of a net."""
    values: dict[str, Any] = json.loads(path.read_text())
    grid = values.pop("grid")
    return NetInfo(**values, grid=grid and tuple(grid))


def _outputs(grid: bool) -> tuple[str, ...]:
    return (*OUTPUTS, GRID) if grid else OUTPUTS


def _cache_paths(recipe: Recipe, grid: bool) -> tuple[Path, Path]:
    folder = storage.cache_dir() / "teachers"
    graph = f"{recipe.key}-grid.onnx" if grid else f"{recipe.key}.onnx"
    return folder / graph, folder / f"{recipe.key}.json"
