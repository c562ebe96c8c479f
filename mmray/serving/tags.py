"""`POST /tags` and `POST /search`: tags for pictures, and pictures for tags and pictures."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from ray import serve

import mmray
from mmray.serving.batching import (
    DEPLOYMENT,
    About,
    Asked,
    BatchedModel,
    media,
)
from mmray.serving.gallery import Gallery
from mmray.serving.upload import Square

MAX_TAGS = 50
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class TagOptions(BaseModel):
    """What to ask about a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(default=10, ge=1, le=1000, description="how many tags to name")
    given: list[Tag] = Field(
        default=[], max_length=MAX_TAGS, description="tags that are known already"
    )
    useless: bool = Field(
        default=False, description="also name tags that pictures do not tell: cameras, years"
    )


class TagProbability(BaseModel):
    """A tag, and how likely a person of the training data would give it."""

    name: str = Field(examples=["beach"])
    probability: float = Field(ge=0, le=1, examples=[0.93])


class TagResponse(BaseModel):
    """The likeliest tags of one picture, the likeliest first."""

    tags: list[TagProbability]


class SearchOptions(BaseModel):
    """What to look for, besides the picture to start from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plus: list[Tag] = Field(default=[], max_length=MAX_TAGS, description="tags to add")
    minus: list[Tag] = Field(default=[], max_length=MAX_TAGS, description="tags to take away")
    k: int = Field(default=12, ge=1, le=200, description="how many pictures to find")
    thumbnails: bool = Field(default=False, description="with small pictures")


class FoundPicture(BaseModel):
    """A picture of the index."""

    id: str = Field(examples=["f3a691866da1d58be5d7"])
    similarity: float = Field(description="cosine to what was looked for, -1 to 1")
    tags: list[str] = Field(description="that people gave it", examples=[["dog", "beach"]])
    thumbnail: str | None = Field(default=None, description="a small JPEG in base64, if asked for")


class SearchResponse(BaseModel):
    """The nearest pictures, the nearest first."""

    pictures: list[FoundPicture]


class VocabularyOptions(BaseModel):
    """Which tags to name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str = Field(default="", max_length=100, description="what they begin with")
    k: int = Field(default=50, ge=1, le=10_000, description="how many at most")


class Vocabulary(BaseModel):
    """Tags that the model knows, the most used first."""

    tags: list[str]


Options = TagOptions | SearchOptions | VocabularyOptions
Response = TagResponse | SearchResponse | Vocabulary


@serve.deployment(**DEPLOYMENT)
class TagModel(BatchedModel[Any, Any]):
    """One joint model, and the pictures that it searches."""

    def load(
        self,
        where: str,
        device: str,
        threads: int,
        *,
        index: str | None = None,
        pictures: str | None = None,
        **options: Any,
    ) -> None:
        """Load the model; `index` and `pictures` as in `mmray.serving.app.Search`."""
        self._model = mmray.load(where, device=device, threads=threads, index=index)
        self._gallery = Gallery.open(pictures) if pictures else None

    def probe(self) -> None:
        """See `BatchedModel`."""
        size = self._model.backbone.size
        (tags,) = self._model.tags([np.zeros((size, size, 3), np.uint8)], k=1, useless=True)
        if not (tags and np.isfinite(tags[0][1])):
            raise RuntimeError("the model's probabilities are not finite")

    def about(self) -> About:
        """See `BatchedModel`."""
        backbone, index = self._model.backbone, self._model.index
        return About(
            kind="joint",
            fingerprint=self._model.fingerprint,
            device=self._model.device,
            details={
                "tags": len(self._model.vocabulary.tags),
                "pictures": 0 if index is None else len(index),
            },
            square=Square(backbone.size, backbone.fit),
        )

    def group(self, options: Options) -> Hashable:
        """See `BatchedModel`. Most options of tags may differ within a batch."""
        if isinstance(options, TagOptions):
            return options.useless, bool(options.given)
        return super().group(options)

    def answers(self, asked: Sequence[Asked[Any]]) -> list[Any]:
        """See `BatchedModel`."""
        options = asked[0].options
        if isinstance(options, TagOptions):
            return list(self._tags(asked))
        if isinstance(options, SearchOptions):
            return [self._found(each) for each in asked]
        return [self._known(options)] * len(asked)

    def _tags(self, asked: Sequence[Asked[TagOptions]]) -> list[TagResponse]:
        options = [each.options for each in asked]
        given = [each.given for each in options] if options[0].given else None
        named = self._model.tags(
            media(asked), max(each.k for each in options), given, options[0].useless
        )
        return [
            TagResponse(
                tags=[TagProbability(name=t, probability=round(p, 6)) for t, p in tags[: each.k]]
            )
            for each, tags in zip(options, named, strict=True)
        ]

    def _found(self, asked: Asked[SearchOptions]) -> SearchResponse:
        options = asked.options
        images = None if asked.media is None else [asked.media]
        found = self._model.search_scored(images, options.plus, options.minus, options.k)
        shown = self._gallery.show([id for id, _ in found]) if self._gallery else {}
        told = []
        for id, similarity in found:
            tags, thumbnail = shown.get(id, ([], None))
            image = base64.b64encode(thumbnail).decode() if thumbnail else None
            told.append(
                FoundPicture(
                    id=id,
                    similarity=round(similarity, 6),
                    tags=tags,
                    thumbnail=image if options.thumbnails else None,
                )
            )
        return SearchResponse(pictures=told)

    def _known(self, options: VocabularyOptions) -> Vocabulary:
        prefix = options.prefix.casefold()
        known = (t for t in self._model.vocabulary.tags if t.casefold().startswith(prefix))
        return Vocabulary(tags=[tag for tag, _ in zip(known, range(options.k), strict=False)])
