"""Limits that hold before any route runs: bytes of a body, requests under way, seconds."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmray.serving.problems import problem

RETRY_AFTER_S = 1


class RequestLimits:
    """ASGI middleware that refuses what the service cannot carry.

    FastAPI's own `max_body_size` answers an oversized body with plain text; here every refusal
    is a problem (RFC 9457).

    Args:
        max_body_bytes: a longer body is refused with 413; reading stops at the limit.
        max_requests: POST requests under way at once; one more is refused with 503.
        timeout_s: a request that is not answered by then ends with 408 when it is waiting for
            its body and with 504 otherwise.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_requests: int, timeout_s: float
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_requests = max_requests
        self.timeout_s = timeout_s
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the limits."""
        # Only POST requests have bodies and cost something; the health check must always pass.
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_body_bytes:
            await self._too_large()(scope, receive, send)
            return
        if self.under_way >= self.max_requests:
            busy = problem(
                503,
                f"{self.max_requests} requests are under way; try again later",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            await busy(scope, receive, send)
            return
        self.under_way += 1
        try:
            await self._in_time(scope, receive, send)
        finally:
            self.under_way -= 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, receiving, started = 0, False, False

        async def limited_receive() -> Message:
            nonlocal size, receiving
            receiving = True
            message = await receive()
            receiving = False
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self.max_body_bytes:
                    # FastAPI's HTTPException is the one error that passes its body parser.
                    raise HTTPException(413, self._too_large_detail())
            return message

        async def tracked_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                await self.app(scope, limited_receive, tracked_send)
        except TimeoutError:
            if started or not limit.expired():
                raise
            what = "the upload did not arrive" if receiving else "the request was not answered"
            late = problem(408 if receiving else 504, f"{what} within {self.timeout_s:g} s")
            await late(scope, receive, send)

    def _too_large(self) -> ASGIApp:
        return problem(413, self._too_large_detail())

    def _too_large_detail(self) -> str:
        return f"the upload is larger than the limit of {self.max_body_bytes:,} bytes"
