"""The routes of the models: what comes in as uploads and options goes out as typed answers."""

# No `from __future__ import annotations`: routes are made for types that only exist at run time.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, File, HTTPException, Query, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic_core import to_json

from mmray.errors import UserError
from mmray.serving import caption, sound, story, tags
from mmray.serving.batching import Asked
from mmray.serving.clients import ModelClient
from mmray.serving.problems import Problem, openapi_responses, problem_of
from mmray.serving.upload import Decoder

PICTURE = "JPEG, PNG, WebP, GIF or another kind of picture"
SOUND = "WAV, FLAC, Ogg, MP3, or any video with sound"
AT_ONCE = 16
"""Files of a batch that are under way at once: as many as a model computes together."""
PROBLEMS = openapi_responses(400, 401, 403, 408, 413, 415, 421, 422, 429, 503, 504)
Result = TypeVar("Result")


class BatchItem(BaseModel, Generic[Result]):
    """What became of one file of a batch: a result, or a problem."""

    filename: str | None = Field(description="as the client calls it")
    result: Result | None = None
    problem: Problem | None = None


class BatchResponse(BaseModel, Generic[Result]):
    """One item for each file, in the order of the files."""

    results: list[BatchItem[Result]]


@dataclass(frozen=True)
class Endpoint:
    """What a model answers about an upload.

    Args:
        path: of the route.
        takes: kinds of files, in words.
        options: type of the options in the query.
        response: type of the answer.
        decode: makes an upload into what the model sees or hears.
        client: the model.
    """

    path: str
    takes: str
    options: type[BaseModel]
    response: type[BaseModel]
    decode: Callable[[UploadFile], Awaitable[np.ndarray]]
    client: ModelClient

    async def answer(self, file: UploadFile | None, options: BaseModel) -> Any:
        """The model's answer; raises `HTTPException` or `UserError`."""
        media = await self.decode(file) if file is not None else None
        return await self.client.ask(Asked(media, options))

    async def item(self, file: UploadFile, options: BaseModel) -> dict[str, Any]:
        """The `BatchItem` of one of several files."""
        told: dict[str, Any] = {"filename": file.filename and file.filename[:255]}
        try:
            told["result"] = await self.answer(file, options)
        except (HTTPException, UserError) as error:
            told["problem"] = problem_of(error)
        return told


def model_routes(
    client: ModelClient, decoder: Decoder, max_files: int, searches: bool = True
) -> APIRouter:
    """The routes of one model.

    Args:
        client: the model; its name says which routes.
        decoder: of uploads.
        max_files: most files of a batch.
        searches: whether a model of tags has pictures to search.
    """
    routes = APIRouter(tags=[client.name])

    async def picture(upload: UploadFile) -> np.ndarray:
        return await decoder.picture(upload, await client.square())

    def endpoint(options: type[BaseModel], response: type[BaseModel], path: str) -> Endpoint:
        return Endpoint(path, PICTURE, options, response, picture, client)

    match client.name:
        case "tags":
            one = endpoint(tags.TagOptions, tags.TagResponse, "/tags")
            _add(routes, one, "Name tags of a picture.")
            _add_vocabulary(routes, one)
            if searches:
                search = endpoint(tags.SearchOptions, tags.SearchResponse, "/search")
                _add_search(routes, search)
                _add_batch(routes, search, max_files)
        case "caption":
            one = endpoint(caption.CaptionOptions, caption.CaptionResponse, "/caption")
            _add(routes, one, "Describe a picture in sentences.")
        case "story":
            one = endpoint(story.StoryOptions, story.StoryResponse, "/story")
            _add_story(routes, one)
        case _:
            one = Endpoint(
                "/sound", SOUND, sound.SoundOptions, sound.SoundResponse, decoder.sound, client
            )
            _add(routes, one, "Name the objects and scenes heard in a sound or video, over time.")
    _add_batch(routes, one, max_files)
    return routes


def only(field: str, most: int) -> Any:
    """A dependency that refuses form fields of other names, and more files than `most`.

    Without it, what a client means to say would be dropped in silence.
    """

    async def check(request: Request) -> None:
        form = await request.form()
        for name in form:
            if name != field:
                raise HTTPException(
                    422,
                    f"form field {name[:100]!r} is unknown: files go into {field!r}, options into "
                    "the query of the address",
                )
        if (found := len(form.getlist(field))) > most:
            hint = "; /batch takes many" if most == 1 else ""
            raise HTTPException(422, f"{found} files, expected at most {most}{hint}")

    return Depends(check)


def _add(routes: APIRouter, endpoint: Endpoint, does: str) -> None:
    async def one(
        file: Annotated[UploadFile, File(description=endpoint.takes)],
        options: Annotated[endpoint.options, Query()],  # type: ignore[name-defined]
    ) -> Any:
        return await endpoint.answer(file, options)

    routes.add_api_route(
        endpoint.path,
        one,
        methods=["POST"],
        response_model=endpoint.response,
        name=endpoint.path[1:],
        summary=does,
        dependencies=[only("file", 1)],
        responses=PROBLEMS,
    )


def _add_batch(routes: APIRouter, endpoint: Endpoint, max_files: int) -> None:
    async def many(
        files: Annotated[list[UploadFile], File(description=f"each {endpoint.takes}")],
        options: Annotated[endpoint.options, Query()],  # type: ignore[name-defined]
    ) -> Any:
        places = asyncio.Semaphore(AT_ONCE)

        async def item(file: UploadFile) -> Any:
            async with places:
                return await endpoint.item(file, options)

        return {"results": await asyncio.gather(*map(item, files))}

    routes.add_api_route(
        f"{endpoint.path}/batch",
        many,
        methods=["POST"],
        response_model=BatchResponse[endpoint.response],  # type: ignore[name-defined]
        name=f"{endpoint.path[1:]} batch",
        summary=f"As {endpoint.path}, for up to {max_files} files; a bad one spoils no other.",
        dependencies=[only("files", max_files)],
        responses=PROBLEMS,
    )


def _add_search(routes: APIRouter, endpoint: Endpoint) -> None:
    @routes.post("/search", responses=PROBLEMS, dependencies=[only("file", 1)])
    async def search(
        options: Annotated[tags.SearchOptions, Query()],
        file: Annotated[UploadFile | None, File(description=f"to start from: {PICTURE}")] = None,
    ) -> tags.SearchResponse:
        """Find pictures that are near a picture and tags, and far from other tags."""
        result: tags.SearchResponse = await endpoint.answer(file, options)
        return result


def _add_vocabulary(routes: APIRouter, endpoint: Endpoint) -> None:
    @routes.get("/tags", responses=openapi_responses(401, 421, 422, 429, 503))
    async def known_tags(
        options: Annotated[tags.VocabularyOptions, Query()],
    ) -> tags.Vocabulary:
        """Name tags that the model knows."""
        result: tags.Vocabulary = await endpoint.answer(None, options)
        return result


def _add_story(routes: APIRouter, endpoint: Endpoint) -> None:
    example = 'event: captions\ndata: {"captions": ["a dog on the beach"]}\n\n'
    events = {"text/event-stream": {"schema": {"type": "string"}, "example": example}}

    @routes.post(
        "/story",
        response_model=story.StoryResponse,
        dependencies=[only("file", 1)],
        responses={200: {"content": events, "description": "JSON, or a stream"}, **PROBLEMS},
    )
    async def tell_story(
        file: Annotated[UploadFile, File(description=PICTURE)],
        options: Annotated[story.StoryOptions, Query()],
    ) -> Any:
        """Tell a story about a picture, in the style of a book.

        With `stream=true` it is told while it is written: events `captions` (what it is about),
        `drafts` (how the first candidates read so far), and at last `stories`, as without
        streaming; or `problem`.
        """
        if not options.stream:
            return await endpoint.answer(file, options)
        asked = Asked(await endpoint.decode(file), options)
        told = endpoint.client.stream(asked)
        # The first event is waited for, so that what is refused at once has its own status.
        return StreamingResponse(_sent(await anext(told), told), media_type="text/event-stream")


async def _sent(
    first: tuple[str, Any], others: AsyncIterator[tuple[str, Any]]
) -> AsyncIterator[bytes]:
    yield _event(*first)
    try:
        async for name, data in others:
            yield _event(name, data)
    except Exception as error:
        yield _event("problem", problem_of(error))


def _event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))  # JSON is one line
