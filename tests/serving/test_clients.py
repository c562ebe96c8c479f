"""Requests on their way to a model: shared calls, limits, and what becomes of Serve's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from pydantic import BaseModel
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from mmray import UserError
from mmray.errors import MediaError
from mmray.serving.batching import About, Asked, Description
from mmray.serving.clients import CALLS, MAX_WAITING, PER_CALL, ModelClient
from mmray.serving.upload import Square


class Question(BaseModel):
    number: int


class FakeHandle:
    """What clients use of a deployment's handle; the answers are the numbers of the questions."""

    def __init__(self, answers: Callable[[list[int]], Awaitable[list[Any]]] | None = None) -> None:
        self.calls: list[list[int]] = []
        self.under_way = self.most = self.descriptions = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self._answers = answers
        self.predict = SimpleNamespace(remote=self._predict)
        self.describe = SimpleNamespace(remote=self._describe)
        self.stream = SimpleNamespace(remote=self._stream)

    def options(self, *, stream: bool) -> FakeHandle:
        assert stream
        return self

    async def _predict(self, asked: Sequence[Asked[Question]]) -> list[Any]:
        numbers = [each.options.number for each in asked]
        self.calls.append(numbers)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        if self.error:
            raise self.error
        return await self._answers(numbers) if self._answers else numbers

    async def _describe(self) -> Description:
        self.descriptions += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        about = About(kind="toy", fingerprint="f", device="cpu", details={}, square=SQUARE)
        return Description(about=about, metrics={}, loaded_s=1.0, batch_size=None)

    async def _stream(self, asked: Asked[Question]) -> AsyncIterator[tuple[str, Any]]:
        for i in range(asked.options.number):
            yield "drafts", i
        if self.error:
            raise self.error


SQUARE = Square(16, "crop")


def client_of(handle: FakeHandle) -> ModelClient:
    return ModelClient("toy", handle)  # type: ignore[arg-type]


def start(client: ModelClient, *numbers: int) -> list[asyncio.Task[Any]]:
    """Begin to ask."""
    return [asyncio.create_task(client.ask(Asked(None, Question(number=n)))) for n in numbers]


async def outcomes(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_lone_request_goes_at_once() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        assert await client.ask(Asked(None, Question(number=7))) == 7
        assert handle.calls == [[7]]

    asyncio.run(scenario())


def test_requests_that_come_together_share_calls_and_get_their_own_answers() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        numbers = list(range(CALLS + 2 * PER_CALL + 3))
        handle.open.clear()
        tasks = start(client, *numbers)
        await asyncio.sleep(0.01)
        handle.open.set()
        assert await outcomes(tasks) == numbers
        assert list(map(len, handle.calls)) == [1] * CALLS + [PER_CALL, PER_CALL, 3]
        assert [n for call in handle.calls for n in call] == numbers, "who came first goes first"
        assert handle.most == CALLS

    asyncio.run(scenario())


def test_what_waits_goes_when_a_call_ends() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.open.clear()
        tasks = start(client, *range(CALLS + 5))
        await asyncio.sleep(0.01)
        assert len(handle.calls) == CALLS
        handle.open.set()
        await asyncio.wait_for(outcomes(tasks), 5)
        assert handle.calls[CALLS:] == [list(range(CALLS, CALLS + 5))]

    asyncio.run(scenario())


def test_one_request_too_many_is_told_to_come_back() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.open.clear()
        tasks = start(client, *range(CALLS + MAX_WAITING))
        await asyncio.sleep(0.01)
        with pytest.raises(HTTPException, match="toy: the model is busy") as busy:
            await client.ask(Asked(None, Question(number=0)))
        assert busy.value.status_code == 503
        assert int((busy.value.headers or {})["Retry-After"]) >= 1
        handle.open.set()
        assert await outcomes(tasks) == list(range(CALLS + MAX_WAITING))
        assert await outcomes(start(client, 5)) == [5]

    asyncio.run(scenario())


def test_who_asked_what_cannot_be_answered_fails_alone() -> None:
    async def some(numbers: list[int]) -> list[Any]:
        return [UserError(f"{n} is odd") if n % 2 else n for n in numbers]

    async def scenario() -> None:
        client = client_of(FakeHandle(some))
        found = await outcomes(start(client, *range(CALLS + 6)))
        assert found[::2] == list(range(0, CALLS + 6, 2))
        assert [str(error) for error in found[1::2]] == [f"{n} is odd" for n in range(1, 14, 2)]

    asyncio.run(scenario())


def test_a_call_that_fails_fails_its_requests_and_no_others() -> None:
    async def some(numbers: list[int]) -> list[Any]:
        if CALLS in numbers:
            raise RuntimeError("lost")
        return numbers

    async def scenario() -> None:
        client = client_of(FakeHandle(some))
        lost = range(CALLS, CALLS + PER_CALL)
        found = await outcomes(start(client, *range(CALLS + PER_CALL + 4)))
        for number, answer in enumerate(found):
            if number in lost:
                assert isinstance(answer, RuntimeError)
            else:
                assert answer == number
        assert await outcomes(start(client, 1)) == [1], "and the next one is answered"

    asyncio.run(scenario())


def test_who_went_away_is_not_asked_for_and_spoils_nothing() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.open.clear()
        tasks = start(client, *range(CALLS + 3))
        await asyncio.sleep(0.01)
        tasks[0].cancel()  # under way
        tasks[CALLS + 1].cancel()  # waiting
        await asyncio.sleep(0.01)
        handle.open.set()
        found = await outcomes(tasks)
        gone = {i for i, answer in enumerate(found) if isinstance(answer, asyncio.CancelledError)}
        assert gone == {0, CALLS + 1}
        assert [n for n in found if isinstance(n, int)] == [*range(1, CALLS + 1), CALLS + 2]
        assert handle.calls[CALLS:] == [[CALLS, CALLS + 2]]

    asyncio.run(scenario())


def test_where_all_went_away_there_is_no_call() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.open.clear()
        tasks = start(client, *range(CALLS + 2))
        await asyncio.sleep(0.01)
        for task in tasks[CALLS:]:
            task.cancel()
        await asyncio.sleep(0.01)
        handle.open.set()
        await outcomes(tasks)
        assert len(handle.calls) == CALLS
        assert await outcomes(start(client, 1)) == [1]

    asyncio.run(scenario())


ERRORS: list[tuple[Exception, str]] = [
    (BackPressureError(5, 5), "busy"),
    (DeploymentUnavailableError(DeploymentID("Toy")), "not running"),
    (ActorDiedError(), "not running"),
]


@pytest.mark.parametrize(("error", "what"), ERRORS)
@pytest.mark.parametrize("way", ["ask", "stream", "description", "square"])
def test_a_model_that_is_busy_or_gone_is_503(error: Exception, what: str, way: str) -> None:
    with pytest.raises(HTTPException, match=f"toy: the model is {what}; try again") as told:
        raised(error, way)
    assert told.value.status_code == 503
    assert int((told.value.headers or {})["Retry-After"]) >= 1


@pytest.mark.parametrize("way", ["ask", "stream"])
def test_what_the_model_refuses_comes_without_its_traceback(way: str) -> None:
    cause = MediaError("sound", "too quiet")
    with pytest.raises(MediaError) as refused:
        raised(RayTaskError("predict", "Traceback: secret", cause, ip="127.0.0.1"), way)
    assert refused.value.reason == "too quiet"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("way", ["ask", "stream", "description"])
def test_what_breaks_in_the_model_stays_an_error(way: str) -> None:
    error = RayTaskError("predict", "Traceback", KeyError("x"), ip="127.0.0.1")
    with pytest.raises(RayTaskError):
        raised(error, way)


def raised(error: Exception, way: str) -> None:
    """Talk to a handle that raises, in one of the ways."""

    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.error = error
        if way == "ask":
            await client.ask(Asked(None, Question(number=1)))
        elif way == "stream":
            async for _ in client.stream(Asked(None, Question(number=0))):
                pass
        else:
            await getattr(client, way)()

    asyncio.run(scenario())


def test_a_stream_passes_on_what_comes_and_then_the_error() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        question = Asked(None, Question(number=3))
        told = [event async for event in client.stream(question)]
        assert told == [("drafts", 0), ("drafts", 1), ("drafts", 2)]
        assert client.requests == 1
        handle.error = ActorDiedError()
        events = client.stream(question)
        assert [await anext(events) for _ in range(3)] == told
        with pytest.raises(HTTPException, match="not running"):
            await anext(events)
        assert client.requests == 2

    asyncio.run(scenario())


def test_what_a_model_says_of_itself_is_news_but_for_the_form_of_pictures() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        assert await client.square() == SQUARE
        assert await client.square() == SQUARE
        assert handle.descriptions == 1
        for _ in range(2):
            assert (await client.description()).about.kind == "toy"
        assert handle.descriptions == 3
        assert await client.square() == SQUARE
        assert handle.descriptions == 3

    asyncio.run(scenario())


def test_a_model_that_could_not_say_is_asked_again() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        handle.error = ActorDiedError()
        with pytest.raises(HTTPException):
            await client.description()
        handle.error = None
        assert await client.square() == SQUARE

    asyncio.run(scenario())


def test_latencies_are_counted() -> None:
    async def scenario() -> None:
        client = client_of(handle := FakeHandle())
        assert (client.requests, client.latency_ms()) == (0, None)
        handle.open.clear()
        task = start(client, 1)
        await asyncio.sleep(0.05)
        handle.open.set()
        await outcomes(task)
        handle.error = ActorDiedError()
        await outcomes(start(client, 2))
        assert client.requests == 2, "what fails counts too"
        told = client.latency_ms()
        assert told is not None
        assert told.keys() == {"p50", "p95", "p99"}
        assert 40 < told["p99"] < 5000
        assert told["p50"] < told["p99"]

    asyncio.run(scenario())
