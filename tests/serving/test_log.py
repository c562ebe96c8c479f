"""One line of log for each request, careful headers, and an answer when all else fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mmray.errors import UserError
from mmray.serving import problems
from mmray.serving.log import CLIENT_GONE, RequestLog
from mmray.serving.web import NOTHING

CAREFUL = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": NOTHING,
}


@pytest.fixture
def logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> list[logging.LogRecord]:
    """What is logged from now on."""
    records: list[logging.LogRecord] = []
    caplog.set_level(logging.INFO, "ray.serve")
    monkeypatch.setattr(logging.getLogger("ray.serve"), "handle", records.append)
    return records


@pytest.fixture
def http(client_of: Callable[[FastAPI], Any]) -> Any:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestLog)

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/raise/{what}")
    def fail(what: str) -> None:
        raise {
            "http": HTTPException(503, "later"),
            "user": UserError("k is too big"),
            "bug": RuntimeError("password=hunter2"),
        }[what]

    @app.get("/kept")
    def kept() -> PlainTextResponse:
        return PlainTextResponse("", headers={"Cache-Control": "max-age=5"})

    return client_of(app)


def run(app: ASGIApp, path: str = "/x") -> list[dict[str, Any]]:
    """What an app sends on a GET request without headers."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    asyncio.run(RequestLog(app)(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/openapi.json", 200), ("/nowhere", 404), ("/size", 405)),
        *(("/raise/http", 503), ("/raise/user", 422), ("/raise/bug", 500)),
    ],
)
def test_every_answer_has_the_headers_and_a_line(
    http: Any, logged: list[logging.LogRecord], path: str, status: int
) -> None:
    response = http.get(path)
    assert response.status_code == status
    assert {name: response.headers.get(name) for name in CAREFUL} == CAREFUL
    assert "microphone=(self)" in response.headers["permissions-policy"]
    line = logged[-1]
    assert line.levelno == logging.INFO
    assert line.getMessage() == f"GET '{path}' {status}"
    assert line.__dict__["status"] == status


def test_what_a_route_says_of_itself_stays(http: Any) -> None:
    assert http.get("/kept").headers.get_list("cache-control") == ["max-age=5"]


def test_a_line_has_sizes_time_and_no_query(http: Any, logged: list[logging.LogRecord]) -> None:
    response = http.post("/size?plus=secret", content=b"x" * 1000)
    (line,) = logged
    fields = line.__dict__
    assert (fields["bytes_in"], fields["bytes_out"]) == (1000, len(response.content))
    assert fields["ms"] > 0
    assert fields["key"] is None
    assert line.getMessage() == "POST '/size' 200"
    assert "secret" not in str(fields)


def test_the_line_says_whose_key_it_was(logged: list[logging.LogRecord]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"key": "anna"}
        await PlainTextResponse("hello")(scope, receive, send)

    run(app)
    assert logged[0].__dict__["key"] == "anna"


def test_a_path_forges_no_lines_and_fills_no_disk(logged: list[logging.LogRecord]) -> None:
    run(PlainTextResponse("hello"), "/a\nGET '/forged' 200\x1b[31m" + "x" * 10_000)
    told = logged[0].getMessage()
    assert "\n" not in told
    assert "\x1b" not in told
    assert len(told) < 300


def test_an_unexpected_error_tells_the_log_and_not_the_client(
    http: Any, assert_problem: Any, logged: list[logging.LogRecord]
) -> None:
    response = http.get("/raise/bug")
    assert "hunter2" not in assert_problem(response, 500)
    error, line = logged
    assert error.levelno == logging.ERROR
    assert response.json()["instance"] in error.getMessage()
    assert error.exc_info is not None
    assert "hunter2" in str(error.exc_info[1])
    assert line.__dict__["status"] == 500


def test_an_answer_that_breaks_off_is_not_answered_again(logged: list[logging.LogRecord]) -> None:
    sent: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sent.append("begun")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run(app)
    assert sent == ["begun"]
    assert [record.levelno for record in logged] == [logging.ERROR, logging.INFO]


def test_whose_client_went_away_is_logged_as_gone(logged: list[logging.LogRecord]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # and there is nobody to answer

    assert run(app) == []
    assert logged[0].__dict__["status"] == CLIENT_GONE


def test_a_request_that_is_cancelled_is_logged_as_gone(logged: list[logging.LogRecord]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(app)
    (line,) = logged
    assert line.__dict__["status"] == CLIENT_GONE


def test_other_talk_than_http_passes_unlogged(logged: list[logging.LogRecord]) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    log: Any = RequestLog(app)
    asyncio.run(log({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
    assert logged == []
