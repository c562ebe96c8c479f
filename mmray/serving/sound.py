"""`POST /sound`: what is to be heard in an upload, over time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

import mmray
from mmray.media.sound import SAMPLE_RATE
from mmray.serving.batching import DEPLOYMENT, About, Asked, BatchedModel, media

if TYPE_CHECKING:
    from mmray.soundnet.predict import SoundPrediction


class SoundOptions(BaseModel):
    """What to say of a sound."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(default=5, ge=1, le=100, description="classes to name for each step")
    features: bool = Field(default=False, description="also give a feature vector")


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


@serve.deployment(**DEPLOYMENT)
class SoundModel(BatchedModel[SoundOptions, SoundResponse]):
    """One SoundNet."""

    def load(self, where: str, device: str, threads: int, **options: Any) -> None:
        """See `BatchedModel`."""
        self._model = mmray.load(where, device=device)
        # Of all layers, the last pooling transfers best to other sounds (pool5 of eight layers).
        self._feature_layer = [n for n in self._model.layers if n.startswith("pool")][-1]

    def probe(self) -> None:
        """See `BatchedModel`."""
        silence = np.zeros(2 * SAMPLE_RATE, np.float32)
        prediction = self._model.predict([silence], SAMPLE_RATE)[0]
        if not (np.isfinite(prediction.objects).all() and np.isfinite(prediction.scenes).all()):
            raise RuntimeError("the model's probabilities are not finite")

    def about(self) -> About:
        """See `BatchedModel`."""
        return About(
            kind="soundnet",
            fingerprint=self._model.fingerprint,
            device=str(self._model.device),
            details={head: len(names) for head, names in self._model.classes.items()},
        )

    def group(self, options: SoundOptions) -> Hashable:
        """See `BatchedModel`. All sounds go together."""
        return None

    def answers(self, asked: Sequence[Asked[SoundOptions]]) -> list[SoundResponse]:
        """See `BatchedModel`."""
        waveforms = media(asked)
        predictions = self._model.predict(waveforms, SAMPLE_RATE)
        wanted = [i for i, each in enumerate(asked) if each.options.features]
        features: dict[int, Features] = {}
        if wanted:
            maps = self._model.features(
                [waveforms[i] for i in wanted], SAMPLE_RATE, layer=self._feature_layer
            )
            features.update(zip(wanted, map(self._vector, maps), strict=True))
        return [
            answer(len(wave), each.options.k, prediction, features.get(i))
            for i, (each, wave, prediction) in enumerate(
                zip(asked, waveforms, predictions, strict=True)
            )
        ]

    def _vector(self, feature_map: np.ndarray) -> Features:
        """The mean over time of a layer's output, float32[channels, time]."""
        values = feature_map.mean(axis=1, dtype=np.float64)
        return Features(layer=self._feature_layer, values=[round(float(v), 6) for v in values])


def answer(
    samples: int, k: int, prediction: SoundPrediction, features: Features | None = None
) -> SoundResponse:
    """Put the prediction of a sound of so many samples at `SAMPLE_RATE` into words."""
    classes = prediction.classes
    return SoundResponse(
        duration_s=round(samples / SAMPLE_RATE, 3),
        times_s=[round(float(t), 3) for t in prediction.times_s],
        objects=_heard(prediction.objects, classes.get("objects"), k),
        scenes=_heard(prediction.scenes, classes.get("scenes"), k),
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
