"""`ray job submit` from the root of the repository, through the real CLI to a real head.

The head demands a token and has ports and a folder of its own, so it may run beside the cluster
of other tests.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START_S = 60

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@dataclasses.dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is, and the environment of those who have its token."""

    url: str
    env: dict[str, str]

    def submit(self, *entrypoint: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", "submit", "--working-dir", ".", "--", *entrypoint]
        return self.run(*command, **env)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Short: the path of a socket under it may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="mm", dir="/tmp", ignore_cleanup_errors=True) as home:
        token = Path(home) / "token"
        token.write_text(uuid.uuid4().hex)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
        env = clean | {
            "HOME": home,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        url = f"http://127.0.0.1:{(dashboard := free_port())}"
        options = {
            "node-ip-address": "127.0.0.1",
            "port": free_port(),
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "temp-dir": home,
            "num-cpus": 4,
            "object-store-memory": 200_000_000,
        }
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (Path(home) / "head.log").open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            try:
                wait_until_up(url, process, Path(log.name))
                yield Head(url, env | {"RAY_API_SERVER_ADDRESS": url})
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if status(f"{url}/api/version") is not None:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the head did not start:\n{log.read_text()}")


def status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return None


def test_the_uploaded_code_runs_and_its_exit_code_comes_back(head: Head) -> None:
    show = "import mmray, os; print('runs', mmray.__file__, sorted(os.listdir('.')))"
    done = head.submit("python", "-c", show)
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("runs ")]
    assert "working_dir_files" in line.split()[1], "the package must come from the upload"
    assert "'jobs'" in line
    for heavy in (".venv", ".git'", "'runs'"):
        assert heavy not in line, "what is heavy must stay at home"
    failed = head.submit("python", "-c", "print('so it ends'); raise SystemExit(2)")
    assert failed.returncode != 0
    assert "so it ends" in failed.stdout


def test_without_the_token_nothing_is_taken(head: Head) -> None:
    wrong = Path(head.env["HOME"]) / "wrong"
    wrong.write_text("not-the-token")
    refused = head.submit("python", "-c", "print('taken')", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert refused.returncode != 0
    assert "Authentication failed" in refused.stdout
    assert status(f"{head.url}/api/jobs/") == 401
    assert status(f"{head.url}/api/version") == 401
