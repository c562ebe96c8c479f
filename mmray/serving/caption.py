"""`POST /caption`: sentences about a picture, and where the model looked for each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve

import mmray
from mmray.media.image import Fit
from mmray.serving.batching import (
    DEPLOYMENT,
    About,
    Asked,
    BatchedModel,
    media,
)
from mmray.serving.upload import Square

if TYPE_CHECKING:
    from mmray.captioner.predict import Caption


class CaptionOptions(BaseModel):
    """How to describe a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beam: int = Field(default=5, ge=1, le=10, description="sentences followed while searching")
    n: int = Field(default=1, ge=1, le=10, description="sentences to tell, at most beam")
    attention: bool = Field(default=False, description="also tell where each word was looked for")

    @model_validator(mode="after")
    def _at_most_the_beam(self) -> CaptionOptions:
        if self.n > self.beam:
            raise ValueError(f"n is {self.n}, expected at most beam, which is {self.beam}")
        return self


class CaptionOfPicture(BaseModel):
    """One sentence about a picture."""

    caption: str = Field(examples=["two red balls on the beach"])
    words: list[str]
    log_probability: float = Field(description="natural logarithm, of all words and the end")
    attention: list[list[list[float]]] | None = Field(
        default=None,
        description="for each word a grid of rows over the picture's square, of sum 1",
    )


class CaptionResponse(BaseModel):
    """Sentences about one picture, the best first."""

    captions: list[CaptionOfPicture]
    fit: Fit = Field(description="pad: the square holds the whole picture; crop: its centre")


@serve.deployment(**DEPLOYMENT)
class CaptionModel(BatchedModel[CaptionOptions, CaptionResponse]):
    """One captioner."""

    def load(self, where: str, device: str, threads: int, **options: Any) -> None:
        """See `BatchedModel`."""
        self._model = mmray.load(where, device=device, threads=threads)

    def probe(self) -> None:
        """See `BatchedModel`."""
        size = self._model.backbone.size
        ((caption,),) = self._model.captions([np.zeros((size, size, 3), np.uint8)], beam=1)
        if not np.isfinite(caption.log_probability):
            raise RuntimeError("the model's log-probability is not finite")

    def about(self) -> About:
        """See `BatchedModel`."""
        model = self._model
        return About(
            kind="captioner",
            fingerprint=model.fingerprint,
            device=str(model.device),
            details={
                "words": len(model.stored.words),
                "attention": model.stored.grid is not None,
            },
            square=Square(model.backbone.size, model.backbone.fit),
        )

    def answers(self, asked: Sequence[Asked[CaptionOptions]]) -> list[CaptionResponse]:
        """See `BatchedModel`."""
        options = asked[0].options
        found = self._model.captions(
            media(asked), options.beam, options.n, attention=options.attention
        )
        fit = self._model.backbone.fit
        return [CaptionResponse(captions=list(map(answer, told)), fit=fit) for told in found]


def answer(caption: Caption) -> CaptionOfPicture:
    """One sentence as it goes over the wire."""
    looked = caption.attention
    return CaptionOfPicture(
        caption=caption.caption,
        words=caption.caption.split(),
        log_probability=round(caption.log_probability, 6),
        attention=None if looked is None else np.round(looked.astype(np.float64), 4).tolist(),
    )
