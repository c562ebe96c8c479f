"""The faults: each strikes once, and is over when the function returns."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from tests.chaos import cluster
from tests.chaos.ballast import Ballast
from tests.chaos.bucket import Bucket
from tests.chaos.cluster import Raylets
from tests.chaos.runs import Run

SLOW_S, STILL_S, NOTICE_S, OUTAGE_S, HOLD_S = 4.0, 0.9, 4.0, 3.0, 1.0


@dataclass
class Scene:
    """All that faults may touch."""

    raylets: Raylets
    run: Run
    rng: random.Random
    bucket: Bucket | None = None
    ballast: Ballast | None = None
    strikes: int = 0

    def close(self) -> None:
        """End the job and all that disturbs it."""
        self.run.kill()
        if self.ballast:
            self.ballast.close()


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        what: it is, for the table.
        strike: does it; whether it hit something. It is asked again where it did not. None where
            the faults lie in the files.
        where: what the job works on: a world on disk, one with poison in it, or one in a bucket.
        store_bytes: of each node's object store.
    """

    what: str
    strike: Callable[[Scene], bool] | None
    where: Literal["disk", "poisoned", "bucket"] = "disk"
    store_bytes: int = cluster.STORE_BYTES


def worker(scene: Scene) -> bool:
    """A worker is killed."""
    victims = [p for node in scene.raylets.nodes for p in cluster.workers(node)]
    return bool(victims) and bool(cluster.send(signal.SIGKILL, [scene.rng.choice(victims)]))


def raylet(scene: Scene) -> bool:
    """A raylet is killed; a new node joins."""
    if (node := _busy_node(scene)) is None:
        return False
    cluster.send(signal.SIGKILL, [cluster.raylet(node)])
    time.sleep(2)  # workers end by themselves
    scene.raylets.replace(node)
    return True


def node(scene: Scene) -> bool:
    """A node is gone, with all that ran there; a new one joins."""
    if (node := _busy_node(scene)) is None:
        return False
    cluster.send(signal.SIGKILL, cluster.processes(node))
    scene.raylets.replace(node)
    return True


def spot(scene: Scene) -> bool:
    """A node is to be taken away and says so, as spot instances do; a new one joins."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    if (node := _busy_node(scene)) is None:
        return False
    deadline = time.time() + NOTICE_S
    accepted, why = GcsClient(address=scene.raylets.address).drain_node(
        node.node_id,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "spot instance",
        int(deadline * 1000),
    )
    if not accepted:
        raise RuntimeError(f"the notice was refused: {why}")
    time.sleep(NOTICE_S)
    cluster.send(signal.SIGKILL, cluster.processes(node))
    scene.raylets.replace(node)
    return True


def slow(scene: Scene) -> bool:
    """All workers of a node are ten times slower for some seconds, with what decodes for them."""
    if (node := _busy_node(scene)) is None:
        return False
    those = [q for p in cluster.workers(node) for q in (p, *_children(p))]
    end, hit = time.monotonic() + SLOW_S, False
    while time.monotonic() < end:
        with cluster.stopped(those) as count:
            time.sleep(STILL_S)
        hit |= count > 0
        time.sleep(0.1)
    return hit


def driver(scene: Scene) -> bool:
    """The driver is killed; the same command is given again."""
    if not scene.run.kill():
        return False
    scene.run.start()
    return True


def store(scene: Scene) -> bool:
    """All object stores are filled until Ray spills to disk."""
    if scene.ballast is None:
        scene.ballast = Ballast(scene.raylets.address, scene.raylets.store_bytes)
    scene.ballast.fill()
    spilled = scene.raylets.spilled_bytes()
    time.sleep(HOLD_S)
    scene.ballast.drop()
    return spilled > 0


def storage(scene: Scene) -> bool:
    """The bucket does not answer for some seconds: in turn in each of three ways."""
    assert scene.bucket is not None
    ways: Sequence[Any] = ("refuse", "busy", "stall")
    return scene.bucket.fail(ways[scene.strikes % len(ways)], OUTAGE_S)


KINDS = {
    "worker": Kind("a worker is killed", worker),
    "raylet": Kind("a raylet is killed", raylet),
    "node": Kind("a node is gone", node),
    "store": Kind("object stores fill up", store, store_bytes=80_000_000),
    "storage": Kind("the bucket fails for a while", storage, where="bucket"),
    "slow": Kind("a host is slow", slow),
    "poison": Kind("files kill their decoder", None, where="poisoned"),
    "spot": Kind("spot notice", spot),
    "driver": Kind("the driver is killed", driver),
}


def _busy_node(scene: Scene) -> Any | None:
    """One of the nodes where the job's actors are."""
    busy = [node for node in scene.raylets.nodes if cluster.workers(node)]
    return scene.rng.choice(busy) if busy else None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []
