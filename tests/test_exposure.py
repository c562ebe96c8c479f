"""Who gets into a running Ray: the question to it, the answer, and jobs on real heads.

The real heads run in network namespaces: some are open, and no test opens a Ray to the network of
the machine that it runs on.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import torch
import yaml
from PIL import Image
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from mmray import exposure
from mmray.errors import UserError
from mmray.exposure import Cluster
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
IP = "10.77.0.1"
ADDRESS = f"{IP}:6379"
TOKEN = "a-token-of-this-test"
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

OPEN = Cluster(ADDRESS, nodes=(f"{IP}:7000", "10.77.0.2:7000"), dashboard=f"{IP}:8265")
LOOPBACK = Cluster("127.0.0.1:6379", nodes=("127.0.0.1:7000",), dashboard="127.0.0.1:8265")


@pytest.mark.parametrize(
    ("cluster", "heard", "doors"),
    [
        (OPEN, [], [f"head {ADDRESS}", f"node {IP}:7000", "node 10.77.0.2:7000"]),
        (dataclasses.replace(OPEN, token=True), [], []),
        (dataclasses.replace(OPEN, tls=True), [], []),
        (LOOPBACK, [], []),
        (LOOPBACK, [6379], [f"head {ADDRESS}"]),  # known by its loopback address, heard on all
        (LOOPBACK, [8265], [f"dashboard {IP}:8265"]),
        (Cluster("[::1]:6379"), [6379], [f"head {ADDRESS}"]),
        (Cluster("[fd00::2]:6379"), [], ["head [fd00::2]:6379"]),
        # A dashboard on the loopback of another machine: this machine's port says nothing.
        (Cluster(ADDRESS, tls=True, dashboard="127.0.0.1:8265"), [8265], []),
    ],
)
def test_open_doors(
    cluster: Cluster, heard: list[int], doors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "own_address", lambda: IP)
    monkeypatch.setattr(exposure, "_listens", lambda host, port: host == IP and port in heard)
    dashboards = [f"dashboard {IP}:8265"] if cluster.dashboard == OPEN.dashboard else []
    assert cluster.open_doors() == doors + ([] if cluster.token else dashboards)


def test_without_a_network_nobody_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "own_address", lambda: "")
    monkeypatch.setattr(exposure, "_listens", lambda host, port: True)
    assert LOOPBACK.open_doors() == []


@contextmanager
def control_service(token: bool) -> Iterator[str]:
    """What of a head's control service a stranger asks, on a port of its own."""

    def of_members_only(answer: object) -> Callable[..., object]:
        def method(request: object, context: grpc.ServicerContext) -> object:
            if token:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Authentication token is missing")
            return answer

        return method

    node = gcs_pb2.GcsNodeInfo(node_manager_address=IP, node_manager_port=7000)
    nodes, values = (
        gcs_service_pb2_grpc.NodeInfoGcsServiceServicer(),
        gcs_service_pb2_grpc.InternalKVGcsServiceServicer(),
    )
    nodes.GetAllNodeInfo = of_members_only(
        gcs_service_pb2.GetAllNodeInfoReply(node_info_list=[node])
    )
    values.InternalKVGet = of_members_only(
        gcs_service_pb2.InternalKVGetReply(value=b"1.2.3.4:8265")
    )
    server = grpc.server(ThreadPoolExecutor(2))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(nodes, server)
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(values, server)
    port = server.add_insecure_port("127.0.0.2:0")
    server.start()
    yield f"127.0.0.2:{port}"
    server.stop(None)


def test_a_cluster_without_a_token_tells_what_it_is() -> None:
    with control_service(token=False) as gcs:
        found = exposure.find(gcs, "--address")
    assert found == Cluster(gcs, nodes=(f"{IP}:7000",), dashboard="1.2.3.4:8265")


def test_a_cluster_with_a_token_tells_nothing() -> None:
    with control_service(token=True) as gcs:
        assert exposure.find(gcs, "--address") == Cluster(gcs, token=True)


def test_nothing_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match=r"--address x: no Ray answers at 127\.0\.0\.2:9"):
        exposure.find("127.0.0.2:9", "--address x")


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "head"])
def test_what_is_no_address_of_a_head(address: str) -> None:
    with pytest.raises(UserError, match=r"--address: expected HOST:PORT of a head.*job submit"):
        exposure.find(address, "--address")


# Real heads


@dataclasses.dataclass(frozen=True)
class Head:
    """A head in a network of its own, and how to get in."""

    pid: int
    home: str

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.pid}", "--user", "--net", "--preserve-credentials"]
        return subprocess.run(
            [*enter, *command],
            cwd=ROOT,
            env=environment(self.home) | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    def python(self, code: str, **env: str) -> str:
        done = self.run(sys.executable, "-c", code, **env)
        assert done.returncode == 0, done.stdout
        return done.stdout.splitlines()[-1]

    def doors(self, address: str, **env: str) -> str:
        code = f"from mmray import exposure; print(exposure.find({address!r}, '').open_doors())"
        return self.python(code, **env)

    def job(self, address: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        pictures = Path(self.home) / "pictures"
        pictures.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "red").save(pictures / "red.png")
        job = f"python jobs/prepare_images.py folder:{pictures} --out {self.home}/out --overwrite"
        return self.run(*job.split(), "--address", address, *flags, **env)


def environment(home: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_", "MMRAY_"))}
    path = f"{BIN}:{os.environ['PATH']}"
    return clean | {"HOME": home, "PATH": path, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"}


@contextmanager
def head(*options: str, **env: str) -> Iterator[Head]:
    """`ray start --head` on a machine that has the address `IP` and a way out."""
    network = (
        f"ip link set lo up && ip addr add {IP}/32 dev lo && ip route add default dev lo src {IP}"
    )
    space = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*space, "sh", "-c", network], check=False).returncode:
        pytest.skip("this system lets nobody here make a network namespace (unshare, ip)")
    with tempfile.TemporaryDirectory(prefix="mm", ignore_cleanup_errors=True) as home:
        ray = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4"]
        ray += ["--object-store-memory=200000000", f"--temp-dir={home}", *options]
        log = Path(home) / "head.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*space, "sh", "-c", f'{network} && exec "$@"', "sh", *ray],
                cwd=ROOT,
                env=environment(home) | env,
                stdout=file,
                stderr=file,
            )
        try:
            deadline = time.monotonic() + 90
            while "Ray runtime started" not in log.read_text():  # printed before it blocks
                assert time.monotonic() < deadline, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            yield Head(process.pid, home)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def check_refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stdout
    for words in told:
        assert words in line


@pytest.mark.cluster
@pytest.mark.slow
def test_an_open_head_is_refused_unless_told_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "model", SoundNetModel(SoundNetConfig("soundnet5", ["dog", "cat"])))
    serving = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    models = {"sound": str(tmp_path / "model")}
    serving["applications"][0]["args"] |= {"models": models, "search": {}}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(serving))
    with head() as cluster:
        told = ("asks nobody for a token", f"head {ADDRESS}", "--allow-open-cluster")
        check_refused(cluster.job(ADDRESS), f"--address {ADDRESS}", *told)
        # What this process believes of tokens is not what the cluster does.
        mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        check_refused(cluster.job(ADDRESS, **mine), *told)
        serve = ["python", "-m", "mmray.serving", "--config", str(tmp_path / "serve.yaml")]
        check_refused(cluster.run(*serve, RAY_ADDRESS=ADDRESS), f"RAY_ADDRESS={ADDRESS}", *told)
        submit = "ray job submit --address http://127.0.0.1:8265 -- python jobs/prepare_images.py"
        submitted = cluster.run(*submit.split(), f"folder:{cluster.home}/pictures")
        assert submitted.returncode != 0
        assert f"error: RAY_ADDRESS={ADDRESS}: this Ray asks nobody" in submitted.stdout
        allowed = cluster.job(ADDRESS, "--allow-open-cluster", **mine)
        assert allowed.returncode == 0, allowed.stdout


@pytest.mark.cluster
@pytest.mark.slow
def test_a_head_with_a_token_takes_those_who_have_it() -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with head("--dashboard-host=0.0.0.0", **token) as cluster:
        assert cluster.doors(ADDRESS) == "[]"
        done = cluster.job(ADDRESS, RAY_AUTH_TOKEN=TOKEN)  # the mode is the cluster's to say
        assert done.returncode == 0, done.stdout
        check_refused(cluster.job(ADDRESS), "it asks for a token")


@pytest.mark.cluster
@pytest.mark.slow
def test_loopback_alone_needs_no_token() -> None:
    with head(**ON_LOOPBACK) as cluster:
        done = cluster.job("127.0.0.1:6379", **ON_LOOPBACK)
        assert done.returncode == 0, done.stdout
        # A Ray of the job's own is there too, even where somebody switched its token off.
        own = (
            "import mmray; mmray.init(num_cpus=1); import ray; from mmray import exposure;"
            "print(exposure.find(ray.get_runtime_context().gcs_address, '').open_doors())"
        )
        assert cluster.python(own, RAY_AUTH_MODE="disabled") == "[]"


@pytest.mark.cluster
@pytest.mark.slow
def test_a_dashboard_on_all_addresses_opens_a_loopback_head() -> None:
    with head("--dashboard-host=0.0.0.0", **ON_LOOPBACK) as cluster:
        assert cluster.doors("127.0.0.1:6379", **ON_LOOPBACK) == f"['dashboard {IP}:8265']"
        refused = cluster.job("127.0.0.1:6379", **ON_LOOPBACK)
        check_refused(refused, f"reaches dashboard {IP}:8265 runs code")


@pytest.mark.cluster
@pytest.mark.slow
def test_the_name_of_loopback_closes_no_port() -> None:
    """On a machine with a network, Ray takes that name for the machine's own address."""
    with head("--node-ip-address=127.0.0.1") as cluster:
        assert f"head {ADDRESS}" in cluster.doors("127.0.0.1:6379")
