"""One line of log for each request, and the headers that keep browsers careful."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmray.serving.problems import problem_of, response
from mmray.serving.web import headers_of

CLIENT_GONE = 499
"""The status in the log of a request whose client went away, as nginx has it."""
logger = logging.getLogger("ray.serve")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


class RequestLog:
    """ASGI middleware that measures and logs every request, and answers when all else fails.

    Serve itself gives each request an id, or takes the client's `X-Request-ID`, answers with it,
    and adds it to the line. With the JSON encoding of `serve_config.yaml` a line is JSON.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        fields: dict[str, Any] = {"status": CLIENT_GONE, "bytes_in": 0, "bytes_out": 0}

        async def counted_receive() -> Message:
            message = await receive()
            fields["bytes_in"] += len(message.get("body", b""))
            return message

        async def careful_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, **headers_of(scope["path"])}.items():
                    headers.setdefault(name, value)
            fields["bytes_out"] += len(message.get("body", b""))
            await send(message)

        started = time.monotonic()
        try:
            await self.app(scope, counted_receive, careful_send)
        except Exception as error:
            told = problem_of(error)  # which logs it
            if fields["status"] != CLIENT_GONE:
                raise  # the answer has begun: all that is left is to break it off
            await response(told)(scope, receive, careful_send)
        finally:
            fields["ms"] = round((time.monotonic() - started) * 1000, 1)
            fields["key"] = scope.get("state", {}).get("key")
            # Not the query: tags that people look for are theirs.
            what = f"{scope['method']} {scope['path'][:200]!r}"
            logger.info("%s %d", what, fields["status"], extra=fields)
