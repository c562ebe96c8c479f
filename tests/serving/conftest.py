"""A real service of small models, requests to an app without one, and the shape of errors."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from tests.serving.models import config_file, free_port, write_models


class Client:
    """Sends each request in an event loop of its own; the app's exceptions become responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request("GET", path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request("POST", path, **options))

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)


@pytest.fixture
def client_of() -> Callable[[ASGIApp], Client]:
    return Client


def _assert_problem(response: httpx.Response, status: int) -> str:
    """Check that a response is a problem (RFC 9457); give its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    uuid.UUID(body["instance"])
    assert body.keys() == {"type", "title", "status", "detail", "instance"}
    for inside in ("Traceback", "/tmp", ".py", "mmray."):
        assert inside not in response.text, "an error must say nothing of the inside"
    return body["detail"]


@pytest.fixture
def assert_problem() -> Callable[[httpx.Response, int], str]:
    return _assert_problem


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, random_teacher: Path) -> Any:
    """Folders of small models: the arguments `models` and `search` of a service."""
    return write_models(tmp_path_factory.mktemp("served"), random_teacher)


@pytest.fixture(scope="session")
def service_config(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config file of `service`."""
    return config_file(tmp_path_factory.mktemp("serve"), served, free_port())


@pytest.fixture(scope="session")
def service(ray_cluster: None, service_config: Path) -> Iterator[httpx.Client]:
    """A client of a service of small models on a real Serve."""
    from mmray.serving.config import read_config
    from mmray.serving.deploy import deploy, locate

    config = read_config(service_config)
    locate(config)
    deploy(config)
    options = config.http_options
    with httpx.Client(base_url=f"http://{options.host}:{options.port}", timeout=60) as http:
        yield http


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the service with the last test of this folder: others need its CPUs."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        import ray

        if ray.is_initialized():
            from ray import serve

            serve.shutdown()
