"""Every error of the service is a problem (RFC 9457) that says nothing of the inside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, File, HTTPException, Query, UploadFile

from mmray.errors import MediaError, UserError
from mmray.serving import problems


@pytest.fixture
def http(client_of: Callable[[FastAPI], Any]) -> Any:
    app = FastAPI()
    problems.install(app)

    @app.get("/raise/{what}")
    def fail(what: str) -> None:
        raise {
            "http": HTTPException(503, "later", {"Retry-After": "7"}),
            "user": UserError("k is too big"),
            "media": MediaError("sound", "the file has no sound", uri="/srv/secret/path.wav"),
        }[what]

    @app.post("/upload")
    def upload(
        file: Annotated[UploadFile, File()], k: Annotated[int, Query(le=9)] = 1
    ) -> str | None:
        return file.filename

    return client_of(app)


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/raise/http", 503, "later"),
        ("/raise/user", 422, "k is too big"),
        ("/raise/media", 422, "the file has no sound"),
        ("/nowhere", 404, "Not Found"),
        ("/upload", 405, "Method Not Allowed"),
    ],
)
def test_errors_are_problems(
    http: Any, assert_problem: Any, path: str, status: int, detail: str
) -> None:
    assert assert_problem(http.get(path), status) == detail


def test_headers_of_an_error_are_kept(http: Any) -> None:
    assert http.get("/raise/http").headers["retry-after"] == "7"
    assert http.get("/upload").headers["allow"] == "POST"


def test_a_bug_is_logged_under_the_name_of_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[logging.LogRecord] = []
    monkeypatch.setattr(problems.logger, "handle", logged.append)
    told = problems.problem_of(RuntimeError("password=hunter2"))
    assert told.status == 500
    assert "hunter2" not in told.model_dump_json()
    (record,) = logged
    assert told.instance in record.getMessage()
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


def test_what_is_foreseen_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[logging.LogRecord] = []
    monkeypatch.setattr(problems.logger, "handle", logged.append)
    one, two = (problems.problem_of(UserError("k is too big")) for _ in range(2))
    assert (one.status, one.detail) == (422, "k is too big")
    assert one.instance != two.instance
    assert logged == []


def test_an_invalid_request_names_the_place_not_the_value(http: Any, assert_problem: Any) -> None:
    assert assert_problem(http.post("/upload"), 422) == "body file: Field required"
    wrong = http.post("/upload?k=99999", files={"file": b"x"})
    assert "query k" in assert_problem(wrong, 422)
    assert "99999" not in wrong.text


def test_the_schema_tells_of_problems() -> None:
    responses = problems.openapi_responses(413, 503)
    assert responses.keys() == {413, 503}
    assert set(responses[413]["content"]) == {"application/problem+json"}
