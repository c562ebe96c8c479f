"""The pages of what models have learned, as the service shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from mmray.serving import problems, reports, web

KINDS = frozenset({"joint", "soundnet"})


@pytest.fixture
def http(client_of: Callable[[FastAPI], Any], tmp_path: Path) -> Any:
    (tmp_path / "joint.html").write_text("<h1>What it knows</h1>")
    (tmp_path / "secret.html").write_text("no")
    app = FastAPI()
    problems.install(app)
    app.include_router(reports.routes(str(tmp_path), KINDS))
    return client_of(app)


def test_a_page_is_shown(http: Any) -> None:
    answer = http.get("/reports/joint")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text == "<h1>What it knows</h1>"


@pytest.mark.parametrize("name", ["soundnet", "secret", "..%2Fjoint", "joint.html", "%2e%2e"])
def test_nothing_else_is(http: Any, name: str) -> None:
    answer = http.get(f"/reports/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_is_a_stranger_to_the_host() -> None:
    policy = web.headers_of("/reports/joint")["Content-Security-Policy"]
    assert "sandbox allow-scripts;" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in web.headers_of("/tags")["Content-Security-Policy"]


def test_only_pages_that_are_there_have_an_address(tmp_path: Path) -> None:
    assert reports.address_of(str(tmp_path), "joint") is None
    (tmp_path / "joint.html").touch()
    assert reports.address_of(str(tmp_path), "joint") == "/reports/joint"
    assert reports.address_of(None, "joint") is None
    assert reports.address_of(str(tmp_path), None) is None
