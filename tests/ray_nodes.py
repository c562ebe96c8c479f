"""Ray nodes on this machine, started by the real CLI as `cluster.yaml` starts them.

They demand a token and have ports and a folder of their own, so they may run beside the cluster of
other tests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
START_S = 90


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Nodes:
    """A head that runs no work, at 127.0.0.1; `add` gives it workers. Use as a context manager."""

    def __init__(self, **head: Any) -> None:
        # Not pytest's folder: the path of a socket under it may have only 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="mm", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name)
        token = self.home / "token"
        token.write_text(uuid.uuid4().hex)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
        self.env = clean | {
            "HOME": str(self.home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        try:
            # What `resources: {CPU: 0}` in cluster.yaml becomes.
            zero = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 0}'}
            here = {
                "head": True,
                "port": port,
                "temp-dir": self.home,
                "node-ip-address": "127.0.0.1",
            }
            self._start(zero, **here, **head)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(60)
        self._folder.cleanup()

    def add(self, ip: str, **options: Any) -> subprocess.Popen[bytes]:
        """A worker node at another loopback address; `kill` takes it away."""
        # Two nodes in one folder would delete each other's copies of a job's files.
        own = {"address": self.address, "node-ip-address": ip, "temp-dir": self.home / ip}
        return self._start({}, **own, **options)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """The node is gone from one moment to the next."""
        self._processes.remove(node)
        family = psutil.Process(node.pid)
        for process in [family, *family.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def _start(self, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
        """Starts a node and waits until it is up."""
        options = {
            "object-store-memory": 100_000_000,
            "dashboard-agent-listen-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
            "block": True,
            "disable-usage-stats": True,
        } | {name.replace("_", "-"): value for name, value in options.items()}
        command = ["ray", "start"]
        command += [f"--{k}" if v is True else f"--{k}={v}" for k, v in options.items()]
        log = self.home / f"{options['node-ip-address']}.log"
        with log.open("wb") as f:
            process = subprocess.Popen(command, env=self.env | env, stdout=f, stderr=f)
        self._processes.append(process)
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not start a node:\n{log.read_text()}")
            time.sleep(0.2)
        return process
