"""The page, its files, and the documentation: what browsers get, may do with it, and keep."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import FastAPI

from mmray.serving import examples
from mmray.serving.api import Limits, create_api
from mmray.serving.gate import Access
from mmray.serving.web import FOLDER, NOTHING

BUNDLE = "/docs/files/swagger-ui-bundle.js"


@pytest.fixture
def api() -> FastAPI:
    async def states() -> Mapping[str, Any]:
        return {}

    return create_api(Limits(), [], states, access=Access(hosts=["test"]))


@pytest.fixture
def http(api: FastAPI, client_of: Callable[[FastAPI], Any]) -> Any:
    return client_of(api)


def policy_of(http: Any, path: str) -> dict[str, list[str]]:
    """The Content-Security-Policy of what lies at a path, by directive."""
    rules = http.get(path).headers["content-security-policy"].split(";")
    return {words[0]: words[1:] for words in (rule.split() for rule in rules)}


def status_of(app: FastAPI, path: str) -> int:
    """The status of a GET request whose path is taken as it is."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client sends no more and stays

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
    scope |= {"headers": [(b"host", b"test")], "query_string": b"", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


def test_the_page_and_all_that_it_names_are_there(http: Any) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
    assert {"page/app.js", "page/style.css", "docs"} <= named
    for path in named:
        assert http.get(f"/{path}").status_code == 200, path


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")],
)
def test_files_are_what_browsers_take_them_for(http: Any, name: str, media_type: str) -> None:
    response = http.get(f"/page/{name}")
    assert response.headers["content-type"].partition(";")[0] == media_type
    assert response.content == (FOLDER / name).read_bytes()


def test_the_documentation_needs_no_other_host(http: Any) -> None:
    docs = http.get("/docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', docs)
    assert set(named) >= {BUNDLE, "/docs/files/swagger-ui.css"}
    for path in named:
        assert http.get(path).status_code == 200, path
    assert "://" not in docs
    assert "'/openapi.json'" in docs


def test_the_page_may_run_its_own_scripts_only(http: Any) -> None:
    policy = policy_of(http, "/")
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    page = http.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "which the policy would not run"
    assert not re.search(r'<style|\sstyle="|\son\w+="', page)


def test_the_documentation_may_run_its_one_script(http: Any) -> None:
    policy = policy_of(http, "/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", http.get("/docs").text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == ["'self'", f"'sha256-{digest}'"]
    assert policy["connect-src"] == ["'self'"]


@pytest.mark.parametrize(
    "path", ["/healthz", "/openapi.json", "/examples", "/page/app.js", BUNDLE, "/nowhere", "/docs/"]
)
def test_all_else_may_do_nothing(http: Any, path: str) -> None:
    assert http.get(path).headers["content-security-policy"] == NOTHING


@pytest.mark.parametrize("path", ["/page/app.js", BUNDLE])
def test_browsers_ask_whether_a_file_changed_and_get_it_no_second_time(
    http: Any, path: str
) -> None:
    first = http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = http.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = http.get(path, headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("path", "keep"),
    [("/", "no-cache"), ("/docs", "no-cache"), ("/healthz", "no-store"), ("/nowhere", "no-store")],
)
def test_how_long_browsers_keep_what_they_get(http: Any, path: str, keep: str) -> None:
    assert http.get(path).headers["cache-control"] == keep


@pytest.mark.parametrize("path", ["/page/style.css", BUNDLE])
def test_files_are_compressed_for_who_can_unpack_them(http: Any, path: str) -> None:
    packed = http.get(path, headers={"Accept-Encoding": "gzip"})
    plain = http.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert packed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path",
    [
        *("/page/../gate.py", "/page/../../serving/gate.py", "/page//etc/passwd", "/page/"),
        *("/page/./../gate.py", "/page/..\\gate.py", "/docs/files/../__init__.py", "/page/.."),
        *("/examples/../gate.py", "/examples//etc/passwd", "/page/%2e%2e/gate.py"),
    ],
)
def test_no_path_leads_out_of_the_folders(api: FastAPI, path: str) -> None:
    assert status_of(api, path) == 404
    assert status_of(api, "/page/app.js") == 200


def test_examples_are_listed_and_there(http: Any, assert_problem: Any) -> None:
    listed = http.get("/examples").json()
    assert listed == examples.listed().model_dump()
    response = http.get(f"/examples/{listed['pictures'][0]['name']}")
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["cache-control"] == "max-age=3600"
    assert response.content.startswith(b"\xff\xd8")
    assert "GET /examples" in assert_problem(http.get("/examples/picture-99.jpg"), 404)
