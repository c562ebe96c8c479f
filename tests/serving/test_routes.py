"""The routes of the models, in front of models and decoders that answer at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from pydantic import BaseModel

from mmray.errors import MediaError, UserError
from mmray.serving import problems
from mmray.serving.batching import Asked
from mmray.serving.caption import CaptionOfPicture, CaptionResponse
from mmray.serving.routes import AT_ONCE, model_routes
from mmray.serving.sound import SoundOptions, SoundResponse
from mmray.serving.story import StoryOfPicture, StoryOptions, StoryResponse
from mmray.serving.tags import (
    FoundPicture,
    SearchOptions,
    SearchResponse,
    TagOptions,
    TagProbability,
    TagResponse,
    Vocabulary,
    VocabularyOptions,
)
from mmray.serving.upload import Square

SQUARE = Square(16, "pad")
MAX_FILES = 20
STORY = StoryResponse(
    stories=[StoryOfPicture(story="A dog\nran.", match=0.5)],
    captions=["a dog"],
    style="old",
    strength=1,
)
EVENTS: list[tuple[str, Any]] = [
    ("captions", {"captions": ["a dog"]}),
    ("drafts", {"drafts": ["A dog\n"]}),
    ("stories", STORY.model_dump()),
]


class FakeDecoder:
    """Takes the first letter of a file for all that is in it; calls `bad` no media."""

    async def sound(self, upload: UploadFile) -> np.ndarray:
        data = await upload.read()
        if data == b"bad":
            raise HTTPException(415, "the uploaded file: is no media file")
        return np.array([data[0]], np.float32)

    async def picture(self, upload: UploadFile, form: Square) -> np.ndarray:
        assert form is SQUARE
        return await self.sound(upload)


class FakeClient:
    """Answers with what it was asked: `!` it refuses, `?` breaks it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Asked[Any]] = []
        self.under_way = self.most = 0
        self.events: list[tuple[str, Any]] = EVENTS
        self.error: Exception | None = None

    async def square(self) -> Square:
        return SQUARE

    async def ask(self, asked: Asked[Any]) -> BaseModel:
        self.asked.append(asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        seen = "" if asked.media is None else chr(int(asked.media[0]))
        if seen == "!":
            raise MediaError("sound", "is not to my taste", uri="/srv/secret")
        if seen == "?":
            raise RuntimeError("broken")
        return answer(asked.options, seen)

    async def stream(self, asked: Asked[Any]) -> AsyncIterator[tuple[str, Any]]:
        self.asked.append(asked)
        for event in self.events:
            yield event
        if self.error:
            raise self.error


def answer(options: Any, seen: str) -> BaseModel:
    if isinstance(options, TagOptions):
        return TagResponse(tags=[TagProbability(name=f"tag {seen}", probability=0.5)])
    if isinstance(options, SearchOptions):
        return SearchResponse(pictures=[FoundPicture(id=f"near {seen}", similarity=0.5, tags=[])])
    if isinstance(options, VocabularyOptions):
        return Vocabulary(tags=[options.prefix])
    if isinstance(options, StoryOptions):
        return STORY
    if isinstance(options, SoundOptions):
        return SoundResponse(duration_s=ord(seen), times_s=[], objects=None, scenes=None)
    said = CaptionOfPicture(caption=f"a {seen}", words=["a", seen], log_probability=-1)
    return CaptionResponse(captions=[said], fit="pad")


class Service:
    def __init__(self, client_of: Callable[[FastAPI], Any]) -> None:
        app = FastAPI()
        problems.install(app)
        self.models = {name: FakeClient(name) for name in ("tags", "caption", "story", "sound")}
        for client in self.models.values():
            decoder: Any = FakeDecoder()
            app.include_router(model_routes(client, decoder, MAX_FILES))  # type: ignore[arg-type]
        self.http = client_of(app)

    def post(self, path: str, *files: bytes, field: str = "", **options: Any) -> Any:
        field = field or ("files" if "/batch" in path else "file")
        parts = [(field, (f"{i}.jpg", data)) for i, data in enumerate(files)]
        return self.http.post(path, files=parts or None, **options)


@pytest.fixture
def service(client_of: Callable[[FastAPI], Any]) -> Service:
    return Service(client_of)


ROUTES = ["/tags", "/search", "/caption", "/story?style=old", "/sound"]


def batch(path: str) -> str:
    return path.replace("/story", "/story/batch") if "?" in path else f"{path}/batch"


def test_a_file_and_its_options_reach_the_model(service: Service) -> None:
    tags = service.models["tags"]
    response = service.post("/tags?k=3&given=dog&given=red&useless=true", b"a")
    assert response.json() == {"tags": [{"name": "tag a", "probability": 0.5}]}
    assert tags.asked[-1].options == TagOptions(k=3, given=["dog", "red"], useless=True)
    assert tags.asked[-1].media.tolist() == [ord("a")]
    assert service.post("/search?plus=dog&k=2", b"b").json()["pictures"][0]["id"] == "near b"
    assert tags.asked[-1].options == SearchOptions(plus=["dog"], k=2)
    assert service.post("/caption?beam=2&n=2", b"c").json()["captions"][0]["caption"] == "a c"
    assert service.post("/sound?k=2", b"d").json()["duration_s"] == ord("d")
    assert service.post("/story?style=old&seed=5", b"e").json() == STORY.model_dump()
    assert service.models["story"].asked[-1].options == StoryOptions(style="old", seed=5)


def test_search_needs_no_file(service: Service) -> None:
    for options in ({}, {"data": {}}):
        response = service.post("/search?plus=dog", **options)
        assert response.json()["pictures"][0]["id"] == "near "
    assert service.models["tags"].asked[-1].media is None


def test_tags_are_listed_without_a_file(service: Service, assert_problem: Any) -> None:
    assert service.http.get("/tags?prefix=be&k=7").json() == {"tags": ["be"]}
    assert service.models["tags"].asked[-1].options == VocabularyOptions(prefix="be", k=7)
    assert "query k" in assert_problem(service.http.get("/tags?k=0"), 422)
    assert "query begin" in assert_problem(service.http.get("/tags?begin=x"), 422)


@pytest.mark.parametrize("path", ROUTES)
def test_a_form_field_of_another_name_is_refused(
    service: Service, assert_problem: Any, path: str
) -> None:
    for field, route in (("image", path), ("files", path), ("file", batch(path))):
        detail = assert_problem(service.post(route, b"a", field=field), 422)
        assert f"form field '{field}' is unknown" in detail
    response = service.post(path, b"a", data={"x" * 500: "3"})
    assert "options into the query" in assert_problem(response, 422)
    assert len(response.text) < 600
    assert not any(client.asked for client in service.models.values())


@pytest.mark.parametrize("path", ROUTES)
def test_two_files_are_for_batches(service: Service, assert_problem: Any, path: str) -> None:
    detail = assert_problem(service.post(path, b"a", b"b"), 422)
    assert detail == "2 files, expected at most 1; /batch takes many"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("query", "what"),
    [("temperature=1", "temperature"), ("K=1", "K"), ("k=many", "k"), ("n=-1", "n"), ("k=", "k")],
)
def test_wrong_options_are_refused_and_named(
    service: Service, assert_problem: Any, path: str, query: str, what: str
) -> None:
    for route in (path, batch(path)):
        address = f"{route}{'&' if '?' in route else '?'}{query}"
        assert f"query {what}" in assert_problem(service.post(address, b"a"), 422)


def test_options_that_do_not_go_together_are_refused(service: Service, assert_problem: Any) -> None:
    assert "at most beam" in assert_problem(service.post("/caption?beam=2&n=3", b"a"), 422)


def test_a_story_needs_a_style(service: Service, assert_problem: Any) -> None:
    assert "query style: Field required" in assert_problem(service.post("/story", b"a"), 422)


@pytest.mark.parametrize("path", [route for route in ROUTES if route != "/search"])
def test_a_file_that_is_none_is_refused(service: Service, assert_problem: Any, path: str) -> None:
    assert "body file" in assert_problem(service.post(path), 422)
    assert "body file" in assert_problem(service.http.post(path, data={"file": "text"}), 422)
    assert_problem(service.http.post(path, json={"file": "x"}), 422)
    assert "body files" in assert_problem(service.post(batch(path)), 422)


@pytest.mark.parametrize("path", ROUTES)
def test_what_cannot_be_decoded_or_answered_is_told(
    service: Service, assert_problem: Any, path: str
) -> None:
    assert "no media file" in assert_problem(service.post(path, b"bad"), 415)
    if path.startswith("/story"):
        return
    assert assert_problem(service.post(path, b"!"), 422) == "is not to my taste"


@pytest.mark.parametrize("path", ROUTES)
def test_a_bad_file_spoils_no_other(service: Service, path: str) -> None:
    response = service.post(batch(path), b"a", b"bad", b"c")
    assert response.status_code == 200, response.text
    first, bad, third = response.json()["results"]
    assert [item["filename"] for item in (first, bad, third)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert first["problem"] is None
    assert bad["result"] is None
    assert bad["problem"]["status"] == 415
    assert bad["problem"].keys() == {"type", "title", "status", "detail", "instance"}
    one = service.post(path, b"a").json()
    assert first["result"] == one
    assert third["result"] == service.post(path, b"c").json()


def test_what_the_model_refuses_in_a_batch_says_nothing_of_the_inside(service: Service) -> None:
    response = service.post("/sound/batch", b"a", b"!")
    assert response.json()["results"][1]["problem"]["detail"] == "is not to my taste"
    assert "/srv" not in response.text


def test_what_breaks_in_a_batch_is_no_answer(service: Service) -> None:
    assert service.post("/sound/batch", b"a", b"?").status_code == 500


@pytest.mark.parametrize("path", ROUTES)
def test_too_many_files_are_refused(service: Service, assert_problem: Any, path: str) -> None:
    response = service.post(batch(path), *[b"a"] * MAX_FILES)
    assert len(response.json()["results"]) == MAX_FILES
    detail = assert_problem(service.post(batch(path), *[b"a"] * (MAX_FILES + 1)), 422)
    assert detail == f"{MAX_FILES + 1} files, expected at most {MAX_FILES}"


def test_files_of_a_batch_go_together_but_not_all_at_once(service: Service) -> None:
    service.post("/tags/batch", *[b"a"] * MAX_FILES)
    assert service.models["tags"].most == AT_ONCE


def test_a_long_file_name_is_cut(service: Service) -> None:
    files = [("files", ("x" * 1000, b"a"))]
    (item,) = service.http.post("/sound/batch", files=files).json()["results"]
    assert item["filename"] == "x" * 255


def events_of(response: Any) -> list[tuple[str, Any]]:
    """Read Server-Sent Events as browsers do."""
    found = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_story_is_told_while_it_is_written(service: Service) -> None:
    response = service.post("/story?style=old&stream=true", b"a")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events_of(response) == EVENTS


def test_what_is_refused_at_once_has_its_own_status(service: Service, assert_problem: Any) -> None:
    story = service.models["story"]
    story.events, story.error = [], UserError("style 'x': unknown")
    assert "unknown" in assert_problem(service.post("/story?style=x&stream=true", b"a"), 422)
    story.error = HTTPException(503, "the model is busy", {"Retry-After": "1"})
    busy = service.post("/story?style=old&stream=true", b"a")
    assert_problem(busy, 503)
    assert busy.headers["retry-after"] == "1"
    assert_problem(service.post("/story?style=old&stream=true", b"bad"), 415)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (HTTPException(503, "the model is not running"), 503, "the model is not running"),
        (UserError("cannot be told"), 422, "cannot be told"),
        (RuntimeError("password=hunter2"), 500, "its log says why"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_its_last_event(
    service: Service, error: Exception, status: int, detail: str
) -> None:
    story = service.models["story"]
    story.events, story.error = EVENTS[:2], error
    events = events_of(service.post("/story?style=old&stream=true", b"a"))
    assert events[:2] == EVENTS[:2]
    ((name, problem),) = events[2:]
    assert name == "problem"
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert "hunter2" not in str(events)


def test_the_schema_tells_what_routes_take_and_give(service: Service) -> None:
    paths = service.http.get("/openapi.json").json()["paths"]
    one = {path.partition("?")[0] for path in ROUTES}
    assert paths.keys() == one | {f"{path}/batch" for path in one}
    for path, methods in paths.items():
        told = methods["post"]["responses"]
        assert {"200", "400", "401", "413", "415", "422", "429", "503", "504"} <= told.keys(), path
        assert "application/problem+json" in told["422"]["content"]
    assert "text/event-stream" in paths["/story"]["post"]["responses"]["200"]["content"]
    names = {parameter["name"] for parameter in paths["/tags"]["post"]["parameters"]}
    assert names == {"k", "given", "useless"}
