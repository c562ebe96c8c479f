"""Runs a function in several processes that `torch.distributed` joins."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function: Callable[..., None], folder: Path, *args: Any, processes: int = 2) -> None:
    """Call `function(rank, world_size, folder, *args)` in each process; its errors are raised."""
    mp.spawn(_joined, (processes, str(folder), function, args), nprocs=processes)


def _joined(
    rank: int, processes: int, folder: str, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    try:
        function(rank, processes, Path(folder), *args)
    finally:
        # DistributedDataParallel is a cycle that holds the group. Gloo's threads would outlive it
        # and abort the process, if its end found them with a tensor of Python's in hand.
        gc.collect()
        dist.destroy_process_group()
