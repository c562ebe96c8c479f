"""Fills every node's object store twice over, when told to: `python -m tests.chaos.ballast`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

PIECE = 4 << 20


class Ballast:
    """A process beside the cluster that fills its object stores and lets go again.

    Args:
        address: of the cluster.
        size: of each node's object store.
    """

    def __init__(self, address: str, size: int) -> None:
        command = [sys.executable, "-m", "tests.chaos.ballast", address, str(size)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def fill(self) -> None:
        """Return when all stores are full."""
        self._tell("fill")

    def drop(self) -> None:
        """Return when all is let go."""
        self._tell("drop")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        if self._process.stdout.readline().strip() != word:
            raise RuntimeError("the ballast has gone overboard")


def main(address: str, size: str) -> None:
    import numpy as np
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)
    class Hold:
        def fill(self, size: int) -> None:
            pieces = range(2 * size // PIECE)
            self.held: list[Any] = [ray.put(np.ones(PIECE, np.uint8)) for _ in pieces]

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    holds: list[Any] = []
    for line in sys.stdin:
        if line.strip() == "fill":
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
            there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            holds = [Hold.options(scheduling_strategy=at).remote() for at in there]
            ray.get([hold.fill.remote(int(size)) for hold in holds])
        else:
            holds.clear()
        print(line.strip(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
