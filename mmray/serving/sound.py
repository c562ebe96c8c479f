"""`POST /sound`: what is to be heard in an upload, over time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import APIRouter, File, Query, UploadFile
from pydantic import BaseModel, Field
from ray import serve

import mmray
from mmray.errors import UserError
from mmray.media.sound import SAMPLE_RATE
from mmray.serving.problems import openapi_responses
from mmray.serving.upload import SoundDecoder

if TYPE_CHECKING:
    from mmray.soundnet.predict import SoundPrediction

MAX_BATCH_SIZE = 8
BATCH_WAIT_S = 0.005


class ClassProbability(BaseModel):
    """One class and how probable it is."""

    name: str
    probability: float = Field(ge=0, le=1)


class Heard(BaseModel):
    """Probable classes of one kind (objects or scenes), most probable first."""

    overall: list[ClassProbability] = Field(description="by the mean probability over time")
    over_time: list[list[ClassProbability]] = Field(description="one list for each of `times_s`")


class Features(BaseModel):
    """What one layer of the net makes of the sound, averaged over time."""

    layer: str
    values: list[float]


class SoundResponse(BaseModel):
    """What is to be heard in one upload."""

    duration_s: float = Field(description="length of the sound in seconds")
    times_s: list[float] = Field(description="centre of each step in seconds from the start")
    objects: Heard | None = Field(description="null when the model tells no objects")
    scenes: Heard | None = Field(description="null when the model tells no scenes")
    features: Features | None = Field(default=None, description="only when asked for")


@dataclass(frozen=True)
class SoundRequest:
    """One sound for the model: float32[n] mono at `SAMPLE_RATE`, and what is asked about it."""

    waveform: np.ndarray
    k: int
    features: bool


def router(
    decode: SoundDecoder, predict: Callable[[SoundRequest], Awaitable[SoundResponse]]
) -> APIRouter:
    """The route, over a decoder of uploads and a model that answers one request at a time."""
    routes = APIRouter()

    @routes.post(
        "/sound", responses=openapi_responses(400, 408, 413, 415, 422, 503, 504), tags=["sound"]
    )
    async def sound(
        file: Annotated[
            UploadFile, File(description="WAV, FLAC, Ogg, MP3, or any video with sound")
        ],
        k: Annotated[int, Query(ge=1, le=100, description="classes to name for each step")] = 5,
        features: Annotated[bool, Query(description="also give a feature vector")] = False,
    ) -> SoundResponse:
        """Name the objects and scenes that are to be heard in a sound or video file, over time."""
        waveform = await decode(file)
        return await predict(SoundRequest(waveform, k, features))

    return routes


# A batch may gather while another is computed, hence twice the batch size under way. Beyond the
# queue, callers are told to come back later.
@serve.deployment(
    max_ongoing_requests=2 * MAX_BATCH_SIZE,
    max_queued_requests=2 * MAX_BATCH_SIZE,
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=20,
    ray_actor_options={"num_cpus": 0.25},  # so that every model finds a place on a laptop
)
class SoundModel:
    """One SoundNet; requests that arrive together are computed together.

    Args:
        where: anything that `mmray.load` takes.
        device: as `mmray.load` takes it.
    """

    def __init__(self, where: str, device: str = "auto") -> None:
        self._model = mmray.load(where, device=device)
        # Of all layers, the last pooling transfers best to other sounds (pool5 of eight layers).
        self._feature_layer = [n for n in self._model.layers if n.startswith("pool")][-1]
        self._probe()  # the first request should not pay for the warm-up

    async def check_health(self) -> None:
        """Fail when the model does, so that Serve replaces the replica."""
        await asyncio.to_thread(self._probe)

    def _probe(self) -> None:
        silence = np.zeros(2 * SAMPLE_RATE, np.float32)
        prediction = self._model.predict([silence], SAMPLE_RATE)[0]
        if not (np.isfinite(prediction.objects).all() and np.isfinite(prediction.scenes).all()):
            raise RuntimeError("the model's probabilities are not finite")

    async def predict(self, request: SoundRequest) -> SoundResponse:
        """Answer one request; it shares a batch with others that arrive by then.

        Raises:
            UserError: the sound cannot be used, for example because it is too short.
        """
        answer = await self._batched(request)
        if isinstance(answer, UserError):
            raise answer
        return answer

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _batched(self, requests: list[SoundRequest]) -> list[SoundResponse | UserError]:
        # In a thread, so that the replica goes on taking requests into the next batch.
        return await asyncio.to_thread(self.predict_batch, requests)

    def predict_batch(self, requests: Sequence[SoundRequest]) -> list[SoundResponse | UserError]:
        """Answer requests in one batch; a sound that cannot be used fails alone."""
        try:
            return self._answers(requests)
        except UserError as error:
            if len(requests) == 1:
                return [error]
            return [answer for r in requests for answer in self.predict_batch([r])]

    def _answers(self, requests: Sequence[SoundRequest]) -> list[SoundResponse | UserError]:
        predictions = self._model.predict([r.waveform for r in requests], SAMPLE_RATE)
        wanted = [i for i, r in enumerate(requests) if r.features]
        features: dict[int, Features] = {}
        if wanted:
            waveforms = [requests[i].waveform for i in wanted]
            maps = self._model.features(waveforms, SAMPLE_RATE, layer=self._feature_layer)
            features.update(zip(wanted, map(self._vector, maps), strict=True))
        return [
            answer(request, prediction, features.get(i))
            for i, (request, prediction) in enumerate(zip(requests, predictions, strict=True))
        ]

    def _vector(self, feature_map: np.ndarray) -> Features:
        """The mean over time of a layer's output, float32[channels, time]."""
        values = feature_map.mean(axis=1, dtype=np.float64)
        return Features(layer=self._feature_layer, values=[round(float(v), 6) for v in values])


def answer(
    request: SoundRequest, prediction: SoundPrediction, features: Features | None = None
) -> SoundResponse:
    """Put one prediction into words."""
    classes = prediction.classes
    return SoundResponse(
        duration_s=round(len(request.waveform) / SAMPLE_RATE, 3),
        times_s=[round(float(t), 3) for t in prediction.times_s],
        objects=_heard(prediction.objects, classes.get("objects"), request.k),
        scenes=_heard(prediction.scenes, classes.get("scenes"), request.k),
        features=features,
    )


def _heard(probabilities: np.ndarray | None, names: Sequence[str] | None, k: int) -> Heard | None:
    """Top classes of float[T, K] probabilities; None when the model has no such head."""
    if probabilities is None or not names:
        return None
    return Heard(
        overall=_top(probabilities.mean(axis=0), names, k),
        over_time=[_top(step, names, k) for step in probabilities],
    )


def _top(probabilities: np.ndarray, names: Sequence[str], k: int) -> list[ClassProbability]:
    # Stable, so that equally probable classes come in the model's order.
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [
        ClassProbability(name=names[i], probability=round(float(probabilities[i]), 6))
        for i in order
    ]
