"""A cluster of several raylets on this machine, and a training in a process of its own there."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmray import runtime
from mmray.training.loader import Batch
from mmray.training.train import train
from tests.training.tiny import TinyTask, job

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class PacedTask(TinyTask):
    """Takes its time, and notes which steps were run by how many workers.

    Args:
        notes: a file; each step of rank 0 is a line with its number (from 1) and the world size.
        pace_s: seconds of a step.
    """

    notes: str = ""
    pace_s: float = 0.2

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        import torch.distributed as dist

        time.sleep(self.pace_s)
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
        step = int(norm.num_batches_tracked) + 1
        joined = dist.is_initialized()
        if not joined or dist.get_rank() == 0:
            with Path(self.notes).open("a") as f:
                f.write(f"{step} {dist.get_world_size() if joined else 1}\n")
        return super().loss(model, batch)


class Raylets:
    """A head without CPUs, where the driver is, and nodes of one CPU; use as a context manager."""

    def __init__(self, nodes: int) -> None:
        if "ray" not in sys.modules:  # else it has the token of the other tests
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._add(0)
        self.nodes = [self.add() for _ in range(nodes)]

    def __enter__(self) -> Raylets:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Of the cluster."""
        return str(self._cluster.address)

    def add(self) -> Any:
        """A node joins."""
        return self._add(1)

    def kill(self, node: Any) -> None:
        """A node is gone from one moment to the next."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """What a cloud's notice becomes: the node will be taken away in so many seconds."""
        options = {
            "address": self.address,
            "node-id": node.node_id,
            "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "spot",
            "deadline-remaining-seconds": str(seconds),
        }
        flags = [word for k, v in options.items() for word in (f"--{k}", v)]
        code = "from ray.scripts.scripts import main; main()"
        subprocess.run([sys.executable, "-c", code, "drain-node", *flags], check=True, env=env())

    def _add(self, num_cpus: int) -> Any:
        return self._cluster.add_node(
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=100_000_000,
        )


def env() -> dict[str, str]:
    """The environment of a process that talks to the raylets that this process has started."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


class Training:
    """A training as a job of a cluster; use as a context manager.

    Args:
        address: of the cluster.
        data: the dataset.
        out: folder of the run.
        config: of the training.
    """

    def __init__(self, address: str, data: str, out: Path, **config: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.notes = out / "notes"
        self.log = (out / "log").open("a")
        command = [sys.executable, __file__, address, data, str(out), json.dumps(config)]
        short = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**env(), **short}, stdout=self.log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def steps(self) -> list[tuple[int, int]]:
        """Steps in the order in which they were run, each with the number of workers."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(int(step), int(workers)) for step, workers in map(str.split, lines)]

    def wait(self, until: Callable[[list[tuple[int, int]]], bool], timeout_s: float = 300) -> None:
        """Wait until the steps run so far are as wanted."""
        end = time.monotonic() + timeout_s
        while not until(self.steps()):
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < end, f"{self.steps()[-3:]}: {self.told()}"
            time.sleep(0.1)

    def end(self, timeout_s: float = 600) -> None:
        """Wait for the end of a training that ends well."""
        assert self.process.wait(timeout_s) == 0, self.told()

    def told(self) -> str:
        """What the driver has printed."""
        self.log.flush()
        return Path(self.log.name).read_text()[-3000:]

    def repeated(self) -> int:
        """Steps that were run again."""
        steps = [step for step, _ in self.steps()]
        return len(steps) - len(set(steps))


def losses_undisturbed(data: str, out: Path, **config: Any) -> list[float]:
    """The losses of the same training in this process."""
    config = {k: v for k, v in config.items() if k not in ("elastic", "num_workers")}
    runtime.set_local_mode(True)
    try:
        return train(job(data, out, **config)).losses
    finally:
        runtime.set_local_mode(False)


def main(address: str, data: str, out: str, config: str) -> None:
    """Train; what a driver does."""
    import mmray
    from mmray.training import ray_train

    ray_train.RESIZE_EVERY_S = 3.0
    mmray.init(address=address)
    options = json.loads(config)
    if "elastic" in options:
        options["elastic"] = tuple(options["elastic"])
    from tests.training.nodes import PacedTask as Task  # a name that workers find

    train(job(data, out, Task(notes=f"{out}/notes"), **options))


if __name__ == "__main__":
    main(*sys.argv[1:])
