"""The limits in front of the routes, over ASGI as a server speaks it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from mmray.serving import problems
from mmray.serving.limits import RequestLimits


def make_app(**limits: Any) -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(
        RequestLimits, **{"max_body_bytes": 100, "max_requests": 2, "timeout_s": 5.0, **limits}
    )
    app.state.gate = asyncio.Event()
    app.state.bytes_read = 0

    @app.post("/size")
    async def size(request: Request) -> int:
        async for chunk in request.stream():
            app.state.bytes_read += len(chunk)
        return app.state.bytes_read

    @app.post("/wait")
    async def wait() -> str:
        await app.state.gate.wait()
        return "done"

    @app.get("/")
    async def home() -> str:
        return "home"

    return app


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def post(app: FastAPI, path: str, **options: Any) -> httpx.Response:
    async with client(app) as http:
        return await http.post(path, **options)


def test_a_body_up_to_the_limit_passes() -> None:
    response = asyncio.run(post(make_app(), "/size", content=b"x" * 100))
    assert (response.status_code, response.json()) == (200, 100)


def test_a_declared_long_body_is_refused_unread(assert_problem: Any) -> None:
    app = make_app()
    detail = assert_problem(asyncio.run(post(app, "/size", content=b"x" * 101)), 413)
    assert "100 bytes" in detail
    assert app.state.bytes_read == 0


def test_a_streamed_long_body_is_read_up_to_the_limit(assert_problem: Any) -> None:
    app, sent = make_app(), 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 40
            yield b"x" * 40

    assert_problem(asyncio.run(post(app, "/size", content=chunks())), 413)
    assert app.state.bytes_read == 80
    assert sent == 120


def test_one_request_too_many_is_told_to_come_back(assert_problem: Any) -> None:
    app = make_app()

    async def scenario() -> None:
        async with client(app) as http:
            waiting = [asyncio.create_task(http.post("/wait")) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await http.post("/wait")
            assert_problem(refused, 503)
            assert int(refused.headers["retry-after"]) >= 1
            assert (await http.get("/")).status_code == 200, "reading is never refused"
            app.state.gate.set()
            assert [r.status_code for r in await asyncio.gather(*waiting)] == [200, 200]
            assert (await http.post("/wait")).status_code == 200

    asyncio.run(scenario())


def test_a_late_answer_is_504_and_frees_its_place(assert_problem: Any) -> None:
    app = make_app(timeout_s=0.05, max_requests=1)

    async def scenario() -> None:
        async with client(app) as http:
            assert_problem(await http.post("/wait"), 504)
            assert_problem(await http.post("/wait"), 504)

    asyncio.run(scenario())


def test_an_upload_that_does_not_arrive_is_408(assert_problem: Any) -> None:
    async def chunks() -> Any:
        yield b"x"
        await asyncio.sleep(10)

    response = asyncio.run(post(make_app(timeout_s=0.05), "/size", content=chunks()))
    assert_problem(response, 408)


def test_an_answer_that_has_begun_and_does_not_end_is_broken_off() -> None:
    app = make_app(timeout_s=0.05)

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            yield b"begun"
            await asyncio.sleep(10)

        return StreamingResponse(parts())

    with pytest.raises(TimeoutError):
        asyncio.run(post(app, "/stream"))


def test_a_client_that_goes_away_frees_its_place() -> None:
    app = make_app(max_requests=1)

    async def scenario() -> None:
        async with client(app) as http:
            gone = asyncio.create_task(http.post("/wait"))
            await asyncio.sleep(0.05)
            assert (await http.post("/wait")).status_code == 503
            gone.cancel()
            await asyncio.wait([gone])
            app.state.gate.set()
            assert (await http.post("/wait")).status_code == 200

    asyncio.run(scenario())


def test_a_timeout_of_the_app_itself_is_no_late_answer() -> None:
    app = make_app()

    @app.post("/own")
    async def own() -> None:
        raise TimeoutError("of something else")

    with pytest.raises(TimeoutError, match="something else"):
        asyncio.run(post(app, "/own"))
