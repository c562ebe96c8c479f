"""Under load: a process is killed, a new version comes. Retrying clients lose nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.context import _get_global_client

import mmray
from mmray.cli import JobFailed
from mmray.serving.config import read_config
from mmray.serving.deploy import deploy, locate
from mmray.training import tracking
from tests.serving.models import config_file, wav, write_soundnet

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
CLIENTS = 4


class Load:
    """Clients that ask again and again; each request is tried until it is answered.

    Args:
        http: of the service.
        ask: sends one request.
        tries: of one request, before it counts as lost.
    """

    def __init__(self, http: httpx.Client, ask: Callable[[], httpx.Response], tries: int) -> None:
        self.http, self.ask, self.tries = http, ask, tries
        self.answered: list[str] = []
        self.failed: list[str] = []
        self.lost = 0
        self._stop = threading.Event()

    def _run(self) -> None:
        while not self._stop.is_set():
            for attempt in range(self.tries):
                try:
                    response = self.ask()
                    if response.status_code == 200:
                        self.answered.append(response.text)
                        break
                    self.failed.append(response.text)
                except httpx.TransportError as error:
                    self.failed.append(repr(error))
                time.sleep(0.2 * (attempt + 1))
            else:
                self.lost += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._run) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                self._stop.set()
            for client in clients:
                client.result(timeout=120)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def running(deployment: str) -> set[int]:
    """Ids of the processes of a deployment that can answer."""
    client: Any = _get_global_client()
    application = client.get_serve_details()["applications"]["mmray"]
    replicas = application["deployments"][deployment]["replicas"]
    return {r["pid"] for r in replicas if r["state"] == "RUNNING"}


@pytest.mark.parametrize("deployment", ["SoundModel", "Api"])
def test_a_killed_process_loses_no_request_of_clients_that_try_again(
    service: httpx.Client, deployment: str
) -> None:
    load = Load(service, lambda: service.post("/sound", files={"file": wav(1)}), tries=30)
    with load.running():
        wait_until(lambda: len(load.answered) > 20)
        (pid,) = running(deployment)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: bool(running(deployment) - {pid}))
        before = len(load.answered)
        wait_until(lambda: len(load.answered) > before + 20)
    assert load.lost == 0
    assert len(load.answered) > 40


def test_a_new_version_comes_without_a_failed_request(
    service: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user does it: a model is registered as version 2, and the config names it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for seed in (1, 2):
        (tmp_path / f"run{seed}").mkdir()
        run = tracking.start(str(tmp_path / f"run{seed}"), "test", {}, {})
        folder = write_soundnet(tmp_path / f"v{seed}", seed)
        assert tracking.finish(run, folder, "mmray-soundnet", {}) == str(seed)

    def deployed(version: int) -> None:
        served = {"models": {"sound": f"models:/mmray-soundnet/{version}"}, "search": {}}
        config = read_config(config_file(tmp_path, served, service.base_url.port or 0))
        locate(config)
        deploy(config)

    deployed(1)
    load = Load(service, lambda: service.post("/sound", files={"file": wav(1)}), tries=1)
    with load.running():
        wait_until(lambda: len(load.answered) > 10)
        first = load.answered[-1]
        deployed(2)
        wait_until(lambda: load.answered[-1] != first)
        before = len(load.answered)
        wait_until(lambda: len(load.answered) > before + 20)
    assert load.failed == []
    assert set(load.answered) == {first, load.answered[-1]}
    (model,) = service.get("/models").json()["models"]
    assert model["source"] == "models:/mmray-soundnet/2"
    net = mmray.load(str(tmp_path / "v2"), device="cpu")
    assert model["version"] == net.fingerprint[:12]


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(
    service: httpx.Client, service_config: Path, tmp_path: Path
) -> None:
    before = service.post("/sound", files={"file": wav(1)}).json()
    config = read_config(service_config)
    broken = write_soundnet(tmp_path / "broken", 3)
    config.applications[0].args["models"]["sound"] = broken
    locate(config)
    (tmp_path / "broken/model.safetensors").write_bytes(b"damaged")
    load = Load(service, lambda: service.post("/sound", files={"file": wav(1)}), tries=1)
    with load.running(), pytest.raises(JobFailed, match="not a whole safetensors file"):
        deploy(config)
    assert load.failed == []
    assert service.post("/sound", files={"file": wav(1)}).json() == before


@pytest.fixture(autouse=True)
def _the_service_of_the_other_tests(service: httpx.Client, service_config: Path) -> Iterator[None]:
    yield
    config = read_config(service_config)
    locate(config)
    deploy(config)
