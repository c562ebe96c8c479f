"""Who may ask: files of keys, keys in requests and how often, names of the host, web pages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mmray import UserError
from mmray.serving.api import Limits, create_api
from mmray.serving.gate import Access, Gate, check_host, is_loopback, read_keys

ANNA, BOB = "0123456789abcdef01", "fedcba9876543210fe"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An app behind the gate: tells whose key let the request in."""
    await PlainTextResponse(scope.get("state", {}).get("key", "nobody"))(scope, receive, send)


@pytest.fixture
def keys(tmp_path: Path) -> Mapping[str, str]:
    path = tmp_path / "keys"
    path.write_text(f"anna {ANNA}\nbob {BOB}\n")
    return read_keys(path)


def ask(app: ASGIApp, path: str = "/sound", method: str = "POST", **headers: str) -> httpx.Response:
    """A request with headers, whose names have _ for -; of this host unless it says another."""
    sent = {"host": "localhost", **headers}.items()
    named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in sent}

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, headers=named)

    return asyncio.run(request())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# The file of keys.


def test_keys_are_kept_as_hashes_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# people\n\nanna {ANNA}\n  bob\t{BOB}  \n#{'carl'} none\n")
    found = read_keys(path)
    assert sorted(found.values()) == ["anna", "bob"]
    assert not {ANNA, BOB} & set(found), "no key stays in memory as it is"


def test_one_name_may_have_two_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"anna {ANNA}\nanna {BOB}\n")
    assert list(read_keys(path).values()) == ["anna", "anna"]


@pytest.mark.parametrize(
    "line",
    ["anna", f"anna {ANNA} surplus", "anna abcdef012345678", "anna schlüssel-der-nicht-geht", ANNA],
    ids=["no key", "three words", "short", "no ASCII", "no name"],
)
def test_a_bad_line_is_named_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# people\nbob {BOB}\n{line}\n")
    with pytest.raises(UserError, match=r"keys: line 3: expected NAME KEY") as error:
        read_keys(path)
    assert line.split()[-1] not in str(error.value).replace("NAME KEY", "")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(UserError, match="keys: has no key"):
        read_keys(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary", "."):
        with pytest.raises(UserError, match=r"cannot be read .* expected lines of NAME KEY"):
            read_keys(tmp_path / name)


# Where the service listens.


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.0.1.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("example.org", False),
    ],
)
def test_only_loopback_needs_no_key(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
    check_host(host, Access(keys="/etc/keys"))
    if alone:
        check_host(host, Access())
        return
    for keys in (None, ""):
        with pytest.raises(UserError, match=r"other machines can reach.*set args\.access\.keys"):
            check_host(host, Access(keys=keys))


def test_where_nothing_listens_nobody_comes() -> None:
    check_host(None, Access())


@pytest.mark.parametrize("wrong", [{"requests_per_minute": 0}, {"key": "x"}, {"hosts": "all"}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Access(**wrong)


# Keys in requests.


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER ", "Bearer  "])
def test_the_right_key_lets_in(keys: Mapping[str, str], scheme: str) -> None:
    gate = Gate(answer, access=Access(), keys=keys)
    assert ask(gate, authorization=f"{scheme} {ANNA}").text == "anna"
    assert ask(gate, authorization=f"{scheme} {BOB} ").text == "bob"


@pytest.mark.parametrize(
    ("authorization", "what"),
    [
        ("", "is missing"),
        ("Bearer", "is missing"),
        ("Bearer ", "is missing"),
        (ANNA, "is missing"),
        ("Bearer wrong", "is not known"),
        (f"Bearer {ANNA[:-1]}", "is not known"),
        (f"Bearer {ANNA.upper()}", "is not known"),
        (f"Bearer {ANNA} {BOB}", "is not known"),
        (f"Basic {ANNA}", "is not known"),
        (f"Bearer {ANNA}é", "is not known"),
    ],
)
def test_without_the_right_key_nobody_comes_in(
    keys: Mapping[str, str], assert_problem: Any, authorization: str, what: str
) -> None:
    response = ask(Gate(answer, access=Access(), keys=keys), authorization=authorization)
    assert what in assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_where_no_key_is_asked_for_none_is_needed() -> None:
    gate = Gate(answer, access=Access(), keys={})
    assert ask(gate).text == "nobody"
    assert ask(gate, **bearer("whatever")).text == "nobody"


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        *((path, True) for path in ("/", "/healthz", "/docs", "/docs/files/a.js", "/openapi.json")),
        *((path, True) for path in ("/page/app.js", "/examples", "/examples/picture-0.jpg")),
        *((path, False) for path in ("/sound", "/tags", "/search/batch", "/story", "/models")),
        *((path, False) for path in ("/healthzz", "/healthz/", "/docsx", "/openapixjson", "/page")),
        *((path, False) for path in ("/examplesx", "/pages/a", "/x/healthz", "/x/page/a")),
    ],
)
def test_what_needs_no_key(keys: Mapping[str, str], path: str, is_open: bool) -> None:
    response = ask(Gate(answer, access=Access(), keys=keys), path, "GET")
    assert response.status_code == (200 if is_open else 401)


def test_other_talk_than_http_passes(keys: Mapping[str, str]) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    gate: Any = Gate(app, access=Access(), keys=keys)
    asyncio.run(gate({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


# How often.


def test_who_asks_too_often_is_told_when_to_come_back(
    keys: Mapping[str, str], assert_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(answer, access=Access(requests_per_minute=2), keys=keys)
    now = start = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert ask(gate, **bearer(ANNA)).status_code == 200
    now = start + 20.8
    assert ask(gate, **bearer(ANNA)).status_code == 200
    refused = ask(gate, **bearer(ANNA))
    assert "more than 2 requests a minute with the key of anna" in assert_problem(refused, 429)
    wait = int(refused.headers["retry-after"])
    assert 39 <= wait <= 40
    assert ask(gate, **bearer(BOB)).text == "bob", "one key's use does not count for another"
    assert ask(gate, "/healthz", "GET", **bearer(ANNA)).status_code == 200
    now += wait + 0.01
    assert ask(gate, **bearer(ANNA)).status_code == 200, "what is told is long enough"
    assert ask(gate, **bearer(ANNA)).status_code == 429


def test_who_has_two_keys_may_not_ask_twice_as_often(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"anna {ANNA}\nanna {BOB}\n")
    keys = read_keys(tmp_path / "keys")
    gate = Gate(answer, access=Access(requests_per_minute=1), keys=keys)
    assert [ask(gate, **bearer(key)).status_code for key in (ANNA, BOB)] == [200, 429]


def test_wrong_keys_use_up_nobodys_share(keys: Mapping[str, str]) -> None:
    gate = Gate(answer, access=Access(requests_per_minute=1), keys=keys)
    assert {ask(gate, **bearer("wrong")).status_code for _ in range(3)} == {401}
    assert ask(gate, **bearer(ANNA)).status_code == 200


# Names of this host.


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]", "[::1]:8"])
def test_without_keys_this_host_goes_by_its_own_names(host: str) -> None:
    assert ask(Gate(answer, access=Access(), keys={}), host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("localhost:80.evil.example", "localhost:", "[::2]:8000", "::1", "192.168.1.5", ""),
    ],
)
def test_without_keys_no_page_can_make_its_name_mean_this_host(
    host: str, assert_problem: Any
) -> None:
    gate = Gate(answer, access=Access(), keys={})
    for path in ("/sound", "/", "/healthz"):
        assert "not known by that name" in assert_problem(ask(gate, path, host=host), 421)


def test_with_keys_any_name_will_do_unless_they_are_given(keys: Mapping[str, str]) -> None:
    gate = Gate(answer, access=Access(), keys=keys)
    assert ask(gate, host="any.example", **bearer(ANNA)).status_code == 200
    gate = Gate(answer, access=Access(hosts=["Mine.example"]), keys=keys)
    assert ask(gate, host="mine.example:443", **bearer(ANNA)).status_code == 200
    assert ask(gate, host="any.example", **bearer(ANNA)).status_code == 421
    assert ask(gate, host="localhost", **bearer(ANNA)).status_code == 421


# Pages of other hosts.


@pytest.mark.parametrize("origins", [[], ["https://friend.example"]])
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),
        ("POST", {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, 200),
        ("GET", {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, 200),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 200),
        ("POST", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
        ("POST", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ("POST", {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, 403),
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ("POST", {"sec_fetch_site": "cross-site", "origin": "https://evil.example"}, 403),
        ("POST", {"sec_fetch_site": "cross-site", "origin": "null"}, 403),
    ],
)
def test_pages_of_other_hosts_may_link_and_not_call(
    origins: list[str], method: str, headers: dict[str, str], status: int
) -> None:
    gate = Gate(answer, access=Access(origins=origins), keys={})
    assert ask(gate, "/tags", method, **headers).status_code == status


def test_pages_of_a_named_origin_may_call(assert_problem: Any) -> None:
    gate = Gate(answer, access=Access(origins=["https://friend.example"]), keys={})
    call = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}
    assert ask(gate, origin="https://friend.example", **call).status_code == 200
    refused = ask(gate, origin="https://friend.example.evil.example", **call)
    assert "args.access.origins" in assert_problem(refused, 403)


async def no_states() -> Mapping[str, Any]:
    return {}


def test_browsers_are_told_which_pages_may_call(keys: Mapping[str, str]) -> None:
    access = Access(origins=["https://friend.example"])
    api = create_api(Limits(), [], no_states, access=access, keys=keys)
    asked = {"access_control_request_method": "POST", "sec_fetch_site": "cross-site"}
    asked["access_control_request_headers"] = "authorization"
    friend = ask(api, "/sound", "OPTIONS", origin="https://friend.example", **asked)
    assert friend.status_code == 200, "browsers ask this without a key"
    assert friend.headers["access-control-allow-origin"] == "https://friend.example"
    assert "authorization" in friend.headers["access-control-allow-headers"].lower()
    evil = ask(api, "/sound", "OPTIONS", origin="https://evil.example", **asked)
    assert "access-control-allow-origin" not in evil.headers
    refused = ask(api, "/sound", origin="https://friend.example", sec_fetch_site="cross-site")
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://friend.example"
    assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
    assert "access-control-allow-credentials" not in refused.headers


def test_where_no_origin_is_named_browsers_are_refused(assert_problem: Any) -> None:
    api = create_api(Limits(), [], no_states)
    asked = {"access_control_request_method": "POST", "sec_fetch_site": "cross-site"}
    response = ask(api, "/sound", "OPTIONS", origin="https://evil.example", **asked)
    assert_problem(response, 403)
    assert "access-control-allow-origin" not in response.headers


def test_keys_are_in_no_answer_and_no_line_of_the_log(
    keys: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[logging.LogRecord] = []
    caplog.set_level(logging.DEBUG, "ray.serve")
    monkeypatch.setattr(logging.getLogger("ray.serve"), "handle", logged.append)
    access = Access(requests_per_minute=2)
    api = create_api(Limits(), [], no_states, access=access, keys=keys)
    statuses = []
    for key in (ANNA, ANNA, ANNA, "wrong" + BOB):
        response = ask(api, "/models", "GET", **bearer(key))
        statuses.append(response.status_code)
        assert key not in response.text + str(response.headers)
    assert statuses == [404, 404, 429, 401]
    assert [record.__dict__["key"] for record in logged] == ["anna"] * 3 + [None]
    for record in logged:
        assert not any(key in str(record.__dict__) for key in (ANNA, BOB, *keys))
