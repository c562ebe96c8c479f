"""The app without Ray: health, documentation, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from pydantic import ValidationError

from mmray.serving.api import Limits, create_api

MakeClient = Callable[[FastAPI], Any]


def app(states: Mapping[str, str], limits: Limits | None = None) -> FastAPI:
    async def health() -> Mapping[str, str]:
        return states

    routes = APIRouter()

    @routes.post("/echo")
    def echo(text: str) -> str:
        return text

    return create_api(limits or Limits(), [routes], health)


def test_health_is_ok_when_every_model_is(client_of: MakeClient) -> None:
    response = client_of(app({"sound": "ok"})).get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "models": {"sound": "ok"}}


def test_health_names_the_model_that_is_not(client_of: MakeClient, assert_problem: Any) -> None:
    response = client_of(app({"sound": "unhealthy"})).get("/healthz")
    assert assert_problem(response, 503) == "sound is unhealthy"


def test_docs_and_schema_are_there(client_of: MakeClient) -> None:
    http = client_of(app({}))
    assert http.get("/docs").status_code == 200
    assert {"/healthz", "/echo"} <= http.get("/openapi.json").json()["paths"].keys()


def test_limits_hold_for_every_route(client_of: MakeClient, assert_problem: Any) -> None:
    http = client_of(app({}, Limits(max_upload_bytes=10)))
    assert http.post("/echo?text=a", content=b"x" * 10).status_code == 200
    assert_problem(http.post("/echo?text=a", content=b"x" * 11), 413)


@pytest.mark.parametrize("wrong", [{"max_upload_bytes": 0}, {"timeout_s": -1}, {"max_upload": 5}])
def test_wrong_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Limits(**wrong)
