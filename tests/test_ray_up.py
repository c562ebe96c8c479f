"""`ray up` with the commands of the cluster files, on machines that are folders of this one.

Ray's launcher and autoscaler are real, and so are `ray start`, the token and the watcher for spot
notices. `ssh` runs a command here, with the home and the loopback address of the machine it names.
What is left out is what needs a cloud or the net: apt-get and pip.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.ray_nodes import BIN, free_port
from tests.test_spot import Metadata, aws_body

ROOT = Path(__file__).parent.parent
HEAD, *WORKERS = "127.0.0.1", "127.0.0.2", "127.0.0.3"

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SSH = """
while [[ $1 == -* ]]; do
  case $1 in -i|-o) shift 2;; *) shift;; esac
done
export HOME={folder}/${{1#*@}}; shift
cd $HOME && exec bash -c "$*"
"""
RSYNC = """
there=${{@: -1}} machine=${{there%%:*}}
mkdir -p {folder}/${{machine#*@}}/.ray
cp ${{@: -2:1}} {folder}/${{machine#*@}}/${{there#*:\\~/}}
"""
RAY = """
[[ $1 == stop ]] && exit 0
exec {bin}/ray "$@" --node-ip-address={ip} --temp-dir=$HOME/ray --object-store-memory=80000000 \\
  --object-manager-port=0 --min-worker-port=0 --max-worker-port=0 \\
  --dashboard-agent-listen-port={agent} {more}
"""
LOOK = """
import json, os, ray
ray.init(address={address!r}, log_to_driver=False)
env = ray.get(ray.remote(lambda: dict(os.environ)).remote())
cpus = {{n["NodeManagerAddress"]: n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"]}}
print("saw", json.dumps([cpus, env]))
"""


class Machines:
    """Three machines that a user may reach by SSH."""

    def __init__(self, folder: Path, metadata: str) -> None:
        self.folder, self.port = folder, free_port()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
        self.env |= {
            "HOME": str(folder / "laptop"),
            "RAY_TMPDIR": str(folder / "laptop"),
            "PATH": f"{folder}/bin:{BIN}:{os.environ['PATH']}",
        }
        self._script("bin/ssh", SSH.format(folder=folder))
        self._script("bin/rsync", RSYNC.format(folder=folder))
        self._script("bin/sudo", '[[ $1 == install ]] && mkdir -p "${@: -1}"; true')
        (folder / "laptop/.ray").mkdir(parents=True)
        (folder / "laptop/.ray/auth_token").write_text("0123456789abcdef" * 2)
        for ip in (HEAD, *WORKERS):
            self._machine(ip, metadata)

    def _machine(self, ip: str, metadata: str) -> None:
        home = self.folder / ip
        if ip == HEAD:
            more = f"--port={self.port} --dashboard-port={free_port()}"
            more += f" --ray-client-server-port={free_port()}"
        else:
            more = f"--address={HEAD}:{self.port} --num-cpus=1"
        self._script(f"{ip}/venv/bin/ray", RAY.format(bin=BIN, ip=ip, agent=free_port(), more=more))
        self._script(f"{ip}/venv/bin/pip", "true")
        told = f"--address={HEAD}:{self.port} --node-ip={ip} --metadata={metadata} --every-s=0.2"
        self._script(f"{ip}/venv/bin/python", f'exec {sys.executable} "$@" {told}')
        (home / "venv/bin/activate").write_text(f"export PATH={home}/venv/bin:$PATH\n")
        (home / ".bashrc").write_text(f"export PATH={self.folder}/bin:$PATH RAY_TMPDIR={home}\n")

    def _script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    def up(self, config: dict[str, Any], workers: list[str], **env: str) -> None:
        """`ray up`, with these machines for the cloud."""
        config["provider"] = {"type": "local", "head_ip": HEAD, "worker_ips": workers}
        config["auth"] = {"ssh_user": "ubuntu", "ssh_private_key": f"{self.folder}/laptop/key"}
        (self.folder / "laptop/key").touch()
        text = yaml.safe_dump(config, width=10_000)
        for there in ("/opt/dlami/nvme/spill", "/var/spill"):
            text = text.replace(there, f"{self.folder}/spill")
        text = text.replace("/tmp/ray/", "~/ray/")
        (self.folder / "cluster.yaml").write_text(text)
        command = ["ray", "up", "-y", str(self.folder / "cluster.yaml")]
        log = self.folder / "up.log"
        with log.open("wb") as f:
            done = subprocess.run(
                command, cwd=ROOT, env=self.env | env, stdout=f, stderr=f, timeout=200
            )
        assert done.returncode == 0, log.read_text()

    def look(self) -> tuple[dict[str, float], dict[str, str]]:
        """CPUs of each living node, and the environment of a task."""
        code = LOOK.format(address=f"{HEAD}:{self.port}")
        env = self.env | {"RAY_AUTH_MODE": "token"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100
        )
        for line in done.stdout.splitlines():
            if line.startswith("saw "):
                cpus, environment = json.loads(line.removeprefix("saw "))
                return cpus, environment
        raise AssertionError(done.stdout + done.stderr)

    def end(self) -> None:
        """Ends all that runs on the machines."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME", "").startswith(f"{self.folder}/"):
                    process.kill()


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    service = Metadata()
    yield service
    service.server.shutdown()


@pytest.fixture
def machines(metadata: Metadata) -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="mm", ignore_cleanup_errors=True) as folder:
        machines = Machines(Path(folder), metadata.url)
        try:
            yield machines
        finally:
            machines.end()


def wait(until: Callable[[], bool], what: Path, timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, what.read_text() if what.exists() else what
        time.sleep(0.5)


def check(machines: Machines, workers: list[str]) -> None:
    """Waits for the workers; the head runs no work, and tasks have the environment of the file."""
    log = machines.folder / HEAD / "ray/session_latest/logs/monitor.out"
    env: dict[str, str] = {}

    def are_up() -> bool:
        nonlocal env
        cpus, env = machines.look()
        return sorted(cpus.values()) == [0, *[1] * len(workers)] and cpus.keys() > {*workers}

    wait(are_up, log)
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_ROTATION_MAX_BYTES"] == "100000000"
    assert (machines.folder / "spill").is_dir()


def test_on_premise_the_head_and_every_worker_come_up(machines: Machines) -> None:
    config = yaml.safe_load((ROOT / "docs/cluster-on-premise.yaml").read_text())
    machines.up(config, WORKERS)
    check(machines, WORKERS)


def test_the_commands_for_aws_start_nodes_that_heed_a_spot_notice(
    machines: Machines, metadata: Metadata
) -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for key in ("available_node_types", "head_node_type", "max_workers"):
        del config[key]
    head = config["head_start_ray_commands"]
    head[-1] = head[-1].replace("ray start", "ray start --num-cpus=0")  # else from resources
    machines.up(config, WORKERS[:1], RAY_UP_enable_autoscaler_v2="0")
    check(machines, WORKERS[:1])
    log = machines.folder / WORKERS[0] / "ray/session_latest/logs/spot.log"
    wait(lambda: log.exists() and "watching aws for node" in log.read_text(), log)
    metadata.answer = (200, aws_body(120), 0)
    wait(lambda: "drains" in log.read_text(), log)
