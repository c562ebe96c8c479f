"""Several raylets on one machine: a head without CPUs, where the driver lives, and nodes to lose.

Every raylet starts workers of its own and has an object store of its own, so for Ray they are
machines. Ray's own times are left as they are: how soon it misses a node is part of what is shown.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

STORE_BYTES = 200_000_000
NODES, CPUS = 3, 2


class Raylets:
    """A cluster that is up from `__enter__` to `__exit__`.

    Args:
        store_bytes: size of the object store of each node.
    """

    def __init__(self, store_bytes: int = STORE_BYTES) -> None:
        self.store_bytes = store_bytes
        self._options: dict[str, Any] = {
            "node_ip_address": "127.0.0.1",
            "object_store_memory": store_bytes,
            "include_dashboard": False,
        }

    def __enter__(self) -> Raylets:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._cluster.add_node(num_cpus=0, **self._options)
        for _ in range(NODES):
            self.add()
        return self

    def __exit__(self, *_: object) -> None:
        seen = [p for node in [self._cluster.head_node, *self.nodes] for p in processes(node)]
        self._cluster.shutdown()
        # Workers end when their raylet has, unless they are stopped.
        send(signal.SIGKILL, seen)

    @property
    def address(self) -> str:
        """Of the head, for `--address`."""
        return str(self._cluster.address)

    @property
    def nodes(self) -> list[Any]:
        """The nodes that may be lost, oldest first."""
        return sorted(self._cluster.worker_nodes, key=lambda n: n.start_time)

    @property
    def head(self) -> Any:
        """The node where the driver is."""
        return self._cluster.head_node

    def spilled_bytes(self) -> int:
        """What the object stores have put on disk."""
        folders = Path(self.head.get_session_dir_path()).glob("ray_spilled_objects*")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    def add(self) -> None:
        """A new node joins."""
        node = self._cluster.add_node(num_cpus=CPUS, **self._options)
        node.start_time = time.monotonic()

    def replace(self, node: Any) -> None:
        """Forget a node whose processes were killed; a new one joins."""
        leftover = processes(node)
        self._cluster.remove_node(node, allow_graceful=False)
        send(signal.SIGKILL, leftover)
        self.add()


def raylet(node: Any) -> psutil.Process:
    """The raylet of a node."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def processes(node: Any) -> list[psutil.Process]:
    """The raylet of a node, its workers, and their children; none where it is dead."""
    with contextlib.suppress(psutil.Error, KeyError):
        root = raylet(node)
        return [root, *root.children(recursive=True)]
    return []


def workers(node: Any) -> list[psutil.Process]:
    """Workers of a node that hold an actor: of a pool, or of a training."""
    return [p for p in processes(node) if title(p).startswith(("ray::MapWorker", "ray::RayTrain"))]


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty where it is gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def send(what: signal.Signals, to: Iterable[psutil.Process]) -> int:
    """Send a signal to all that still live; how many did."""
    return sum(_reached(process, what) for process in to)


def _reached(process: psutil.Process, what: signal.Signals) -> bool:
    try:
        process.send_signal(what)
    except psutil.Error:
        return False
    return True


@contextlib.contextmanager
def stopped(those: list[psutil.Process]) -> Iterator[int]:
    """Processes that stand still for the duration of the block."""
    try:
        yield send(signal.SIGSTOP, those)
    finally:
        send(signal.SIGCONT, those)
