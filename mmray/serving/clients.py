"""The models' deployments as the routes see them: what Serve raises becomes an HTTP error."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastapi import HTTPException
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mmray.errors import UserError
from mmray.serving.batching import Asked, Description
from mmray.serving.limits import RETRY_AFTER_S
from mmray.serving.upload import Square

CALLS, PER_CALL, MAX_WAITING = 8, 16, 512
"""Calls under way at once, requests in a call, and requests that wait for a call. A call costs
milliseconds, whatever it carries: while some are under way, requests gather for the next."""
Waiting = tuple[Asked[Any], asyncio.Future[Any]]


class ModelClient:
    """One model's deployment.

    Args:
        name: of the model.
        handle: of its deployment.

    Attributes:
        requests: how many it has answered or refused.
        seconds: that the last answers took.
    """

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self.name = name
        self.requests = 0
        self.seconds: deque[float] = deque(maxlen=1000)
        self._handle = handle
        self._described: Description | None = None
        self._asking = asyncio.Lock()
        self._waiting: deque[Waiting] = deque()
        self._calls: set[asyncio.Future[None]] = set()

    async def ask(self, asked: Asked[Any]) -> Any:
        """The model's answer.

        Raises:
            HTTPException: 503 when the model is busy or gone.
            UserError: the model refuses the input.
        """
        started = time.monotonic()
        try:
            answer = await self._queued(asked)
        finally:
            self._count(started)
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _queued(self, asked: Asked[Any]) -> asyncio.Future[Any]:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting = deque(each for each in self._waiting if not each[1].done())
        if len(self._waiting) >= MAX_WAITING:
            raise _later(f"{self.name}: the model is busy; try again later")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._send()
        return future

    def _send(self) -> None:
        """Send what waits, unless enough calls are under way; what ends sends the next."""
        while len(self._calls) < CALLS and (several := list(self._next())):
            call = asyncio.ensure_future(self._call(several))
            self._calls.add(call)
            call.add_done_callback(self._sent)

    def _next(self) -> Iterator[Waiting]:
        """The requests of one call, without those whose client went away."""
        count = 0
        while self._waiting and count < PER_CALL:
            asked, future = self._waiting.popleft()
            if not future.done():
                count += 1
                yield asked, future

    def _sent(self, call: asyncio.Future[None]) -> None:
        self._calls.discard(call)
        self._send()

    async def _call(self, several: Sequence[Waiting]) -> None:
        try:
            with _http_errors(self.name):
                answers = await self._handle.predict.remote([asked for asked, _ in several])
            pairs = list(zip(several, answers, strict=True))
        except BaseException as error:
            for _, future in several:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in pairs:
            if not future.done():
                future.set_result(answer)

    async def stream(self, asked: Asked[Any]) -> AsyncIterator[tuple[str, Any]]:
        """The model's answer as events; raises as `ask`."""
        started = time.monotonic()
        with _http_errors(self.name):
            try:
                events: Any = self._handle.options(stream=True).stream.remote(asked)
                async for event in events:
                    yield event
            finally:
                self._count(started)

    async def description(self) -> Description:
        """What the model says of itself; raises as `ask`."""
        with _http_errors(self.name):
            self._described = await self._handle.describe.remote()
        return self._described

    async def square(self) -> Square:
        """The form in which the model wants pictures; raises as `ask`."""
        # Another model comes with another process of this deployment too, so once is enough.
        async with self._asking:
            known = self._described or await self.description()
        assert known.about.square is not None
        return known.about.square

    def latency_ms(self) -> dict[str, float] | None:
        """Percentiles of the last thousand answers, or None."""
        if not self.seconds:
            return None
        values = np.percentile(self.seconds, [50, 95, 99]) * 1000
        return {f"p{q}": round(float(v), 1) for q, v in zip((50, 95, 99), values, strict=True)}

    def _count(self, started: float) -> None:
        self.requests += 1
        self.seconds.append(time.monotonic() - started)


@contextmanager
def _http_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BackPressureError as error:
        raise _later(f"{name}: the model is busy; try again later") from error
    except (DeploymentUnavailableError, RayActorError) as error:
        raise _later(f"{name}: the model is not running; try again later") from error
    except RayTaskError as error:
        # Its text is the replica's whole traceback; its cause is what the model raised.
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _later(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(RETRY_AFTER_S)})
