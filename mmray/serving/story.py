"""`POST /story`: a story about a picture in the style of a book, told while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from ray import serve

import mmray
from mmray.errors import UserError
from mmray.serving.batching import (
    DEPLOYMENT,
    About,
    Asked,
    BatchedModel,
    media,
    told,
)
from mmray.serving.upload import Square

CAPTIONS, DRAFTS, STORIES = "captions", "drafts", "stories"
"""Events of a stream, in this order; `drafts` come again and again."""


class StoryOptions(BaseModel):
    """What story to tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    style: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="one of the model's styles, which GET /models names"
    )
    strength: float = Field(default=1.0, ge=0, le=1, description="0 plain description, 1 the book")
    n: int = Field(default=1, ge=1, le=24, description="how many stories")
    seed: int = Field(default=0, ge=0, lt=2**32, description="the same seed, the same story")
    stream: bool = Field(
        default=False, description="answer with text/event-stream while the story is written"
    )


class StoryOfPicture(BaseModel):
    """One story."""

    story: str
    match: float = Field(description="how much it is about the captions, -1 to 1")


class StoryResponse(BaseModel):
    """Stories about one picture, the best first."""

    stories: list[StoryOfPicture]
    captions: list[str] = Field(description="what they are about")
    style: str
    strength: float


@serve.deployment(**DEPLOYMENT)
class StoryModel(BatchedModel[StoryOptions, StoryResponse]):
    """One storyteller that can look at pictures."""

    def load(self, where: str, device: str, threads: int, **options: Any) -> None:
        """See `BatchedModel`."""
        self._model = mmray.load(where, device=device, threads=threads)
        self._describer = self._model.need_describer()

    def probe(self) -> None:
        """See `BatchedModel`."""
        (stories,) = self._model.stories_of([["A dog runs."]], self._model.styles[0])
        if not (stories and np.isfinite(stories[0].fluency)):
            raise RuntimeError("the model's probabilities are not finite")

    def about(self) -> About:
        """See `BatchedModel`."""
        return About(
            kind="storyteller",
            fingerprint=self._model.fingerprint,
            device=str(self._model.device),
            details={"styles": self._model.styles},
            square=Square(*self._describer.square),
        )

    def group(self, options: StoryOptions) -> Hashable:
        """See `BatchedModel`."""
        return options.style, options.strength, options.n, options.seed

    def answers(self, asked: Sequence[Asked[StoryOptions]]) -> list[StoryResponse]:
        """See `BatchedModel`."""
        options = asked[0].options
        self._model.check(options.style, options.strength, options.n)
        captions = self._describer.describe(self._describer.see(media(asked)))
        for each, known in zip(asked, captions, strict=True):
            if each.tell:
                each.tell(CAPTIONS, {CAPTIONS: known})

        def watch(i: int, drafts: list[str]) -> None:
            if tell := asked[i].tell:
                tell(DRAFTS, {DRAFTS: drafts})

        found = self._model.stories_of(
            captions,
            options.style,
            options.strength,
            options.n,
            seed=options.seed,
            watch=watch if any(each.tell for each in asked) else None,
        )
        return [
            StoryResponse(
                stories=[StoryOfPicture(story=s.story, match=round(s.match, 4)) for s in stories],
                captions=known,
                style=options.style,
                strength=options.strength,
            )
            for known, stories in zip(captions, found, strict=True)
        ]

    async def stream(self, asked: Asked[StoryOptions]) -> AsyncIterator[tuple[str, Any]]:
        """Answer one request piece by piece; it shares a batch like every other.

        Yields:
            Names and data of events.

        Raises:
            UserError: as `predict`.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any] | None]()

        def tell(name: str, data: Any) -> None:  # from the thread that computes
            loop.call_soon_threadsafe(news.put_nowait, (name, data))

        answer = asyncio.ensure_future(self._batched(told(asked, tell)))
        answer.add_done_callback(lambda _: news.put_nowait(None))
        while (event := await news.get()) is not None:
            yield event
        response = await answer
        if isinstance(response, UserError):
            raise response
        yield STORIES, response.model_dump()
