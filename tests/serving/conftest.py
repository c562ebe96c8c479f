"""Requests to an ASGI app in the test's own process, and the shape that every error must have."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp


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
