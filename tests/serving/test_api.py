"""The app without Ray: health, documentation, and what stands in front of every route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from pydantic import ValidationError

from mmray.serving.api import Limits, create_api
from mmray.serving.gate import Access
from mmray.serving.summary import State

MakeClient = Callable[[FastAPI], Any]
ACCESS = Access(hosts=["test"])


def app(
    states: Mapping[str, str],
    limits: Limits | None = None,
    access: Access = ACCESS,
    keys: Mapping[str, str] | None = None,
) -> FastAPI:
    async def found() -> Mapping[str, State]:
        return {name: State(state=state, replicas=1) for name, state in states.items()}

    routes = APIRouter()

    @routes.post("/echo")
    def echo(text: str) -> str:
        return text

    return create_api(limits or Limits(), [routes], found, access=access, keys=keys)


def test_health_is_ok_when_every_model_is(client_of: MakeClient) -> None:
    response = client_of(app({"sound": "ok", "tags": "ok"})).get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "models": {"sound": "ok", "tags": "ok"}}


def test_health_names_the_models_that_are_not(client_of: MakeClient, assert_problem: Any) -> None:
    states = {"sound": "unhealthy", "tags": "ok", "story": "missing"}
    response = client_of(app(states)).get("/healthz")
    assert assert_problem(response, 503) == "sound is unhealthy; story is missing"


def test_docs_and_schema_are_there(client_of: MakeClient) -> None:
    http = client_of(app({}))
    assert http.get("/docs").status_code == 200
    schema = http.get("/openapi.json").json()
    assert schema["paths"].keys() == {"/healthz", "/echo"}, "the page is for people"
    assert {"421", "503"} <= schema["paths"]["/healthz"]["get"]["responses"].keys()
    assert "securitySchemes" not in schema.get("components", {})


def test_the_schema_tells_that_a_key_is_asked_for(client_of: MakeClient) -> None:
    schema = client_of(app({}, keys={"hash": "anna"})).get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert schema["paths"]["/echo"]["post"]["security"] == [{"HTTPBearer": []}]


def test_limits_hold_for_every_route(client_of: MakeClient, assert_problem: Any) -> None:
    http = client_of(app({}, Limits(max_upload_bytes=10)))
    assert http.post("/echo?text=a", content=b"x" * 10).status_code == 200
    assert_problem(http.post("/echo?text=a", content=b"x" * 11), 413)


def test_who_may_not_ask_is_refused_before_the_body_is_looked_at(
    client_of: MakeClient, assert_problem: Any
) -> None:
    http = client_of(app({}, Limits(max_upload_bytes=10), keys={"hash": "anna"}))
    assert_problem(http.post("/echo?text=a", content=b"x" * 11), 401)


def test_what_is_refused_has_the_careful_headers_too(
    client_of: MakeClient, assert_problem: Any
) -> None:
    response = client_of(app({}, access=Access())).get("/healthz")
    assert_problem(response, 421)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_unknown_paths_and_methods_are_problems(client_of: MakeClient, assert_problem: Any) -> None:
    http = client_of(app({}))
    assert_problem(http.get("/nothing"), 404)
    assert_problem(http.get("/page/nothing.js"), 404)
    assert_problem(http.get("/echo"), 405)


@pytest.mark.parametrize("wrong", [{"max_upload_bytes": 0}, {"timeout_s": -1}, {"max_upload": 5}])
def test_wrong_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Limits(**wrong)
