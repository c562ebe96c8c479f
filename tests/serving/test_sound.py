"""The model's side of `POST /sound`: batches, top classes, feature vectors, health."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import mmray
from mmray import UserError
from mmray.media.sound import SAMPLE_RATE
from mmray.serving.batching import Asked
from mmray.serving.sound import SoundModel, SoundOptions
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.soundnet.predict import SoundPrediction

CLASSES = {"objects": ["dog", "cat", "car", "train"], "scenes": ["beach", "street"]}


class FakeNet:
    """Two steps a sound; the first sample says which object is the probable one."""

    layers = ("conv1", "pool1", "conv2", "pool2", "conv3", "objects")
    classes = CLASSES
    fingerprint = "f1"
    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = False

    def predict(self, waveforms: Sequence[np.ndarray], sample_rate: int) -> list[SoundPrediction]:
        assert sample_rate == SAMPLE_RATE
        self.batches.append(len(waveforms))
        return [self._one(w) for w in waveforms]

    def _one(self, wave: np.ndarray) -> SoundPrediction:
        if wave[0] < 0:
            raise UserError("waveform 0: is not to my taste")
        objects = np.full((2, 4), 0.1, np.float32)
        objects[:, int(wave[0])] = 0.7
        objects[1] = objects[1][::-1]
        scenes = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
        if self.broken:
            scenes[0] = np.nan
        return SoundPrediction(np.array([1.0, 3.0]), objects, scenes, self.classes)

    def features(
        self, waveforms: Sequence[np.ndarray], sample_rate: int, layer: str
    ) -> list[np.ndarray]:
        assert layer == "pool2"
        return [np.array([[1, 2, 3], [w[0], w[0], w[0]]], np.float32) for w in waveforms]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> FakeNet:
    net = FakeNet()
    monkeypatch.setattr(mmray, "load", lambda where, device: net)
    return net


@pytest.fixture
def model(net: FakeNet) -> Any:
    return SoundModel.func_or_class("official:somewhere")


def request(first: float, k: int = 2, features: bool = False) -> Asked[SoundOptions]:
    wave = np.zeros(4 * SAMPLE_RATE, np.float32)
    wave[0] = first
    return Asked(wave, SoundOptions(k=k, features=features))


def names(top: Sequence[Any]) -> list[str]:
    return [c.name for c in top]


def test_the_top_classes_over_time_and_overall(model: Any) -> None:
    (answer,) = model.predict_batch([request(1, k=2)])
    assert answer.duration_s == 4
    assert answer.times_s == [1, 3]
    assert [names(step) for step in answer.objects.over_time] == [["cat", "dog"], ["car", "dog"]]
    assert answer.objects.over_time[0][0].probability == pytest.approx(0.7)
    assert names(answer.objects.overall) == ["cat", "car"]
    assert answer.objects.overall[0].probability == pytest.approx(0.4)
    assert names(answer.scenes.overall) == ["street", "beach"]
    assert answer.features is None


def test_more_classes_than_there_are_gives_all(model: Any) -> None:
    (answer,) = model.predict_batch([request(0, k=100)])
    assert len(answer.objects.overall) == 4
    assert len(answer.scenes.overall) == 2


def test_a_head_that_is_not_there_is_null(net: FakeNet, model: Any) -> None:
    net.classes = {"objects": CLASSES["objects"]}
    (answer,) = model.predict_batch([request(0)])
    assert answer.scenes is None
    assert answer.objects is not None


def test_requests_of_one_batch_keep_their_options(net: FakeNet, model: Any) -> None:
    net.batches.clear()
    first, second, third = model.predict_batch(
        [request(0, k=1), request(2, k=3, features=True), request(3, k=2, features=True)]
    )
    assert net.batches == [3]
    assert [len(a.objects.overall) for a in (first, second, third)] == [1, 3, 2]
    assert first.features is None
    assert second.features.layer == "pool2"
    assert second.features.values == [2, 2]
    assert third.features.values == [2, 3]


def test_a_bad_sound_fails_alone(model: Any) -> None:
    good, bad, other = model.predict_batch([request(0), request(-1), request(2)])
    assert isinstance(bad, UserError)
    assert names(good.objects.over_time[0])[0] == "dog"
    assert names(other.objects.over_time[0])[0] == "car"


def test_health_fails_with_the_model(
    net: FakeNet, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmray.serving.batching.TRUST_S", -1.0)
    asyncio.run(model.check_health())
    net.broken = True
    with pytest.raises(RuntimeError, match="not finite"):
        asyncio.run(model.check_health())


def test_the_model_is_warm_before_the_first_request(net: FakeNet, model: Any) -> None:
    assert net.batches == [1]


def test_what_it_says_of_itself(model: Any) -> None:
    about = model.about()
    assert (about.kind, about.fingerprint, about.device) == ("soundnet", "f1", "cpu")
    assert about.details == {"objects": 4, "scenes": 2}
    assert about.square is None


def test_a_real_net_answers(served: Any) -> None:
    model = SoundModel.func_or_class(served["models"]["sound"], device="cpu")
    waves = [np.random.default_rng(i).normal(0, 0.1, 3 * SAMPLE_RATE) for i in range(2)]
    asked = [Asked(w.astype(np.float32), SoundOptions(k=2, features=True)) for w in waves]
    both = model.predict_batch(asked)
    for answer, one in zip(both, asked, strict=True):
        assert answer.duration_s == 3
        assert len(answer.objects.over_time) == len(answer.times_s) > 0
        assert {c.name for c in answer.scenes.overall} <= {"beach", "street", "zoo"}
        (alone,) = model.predict_batch([one])
        assert alone.features.layer == answer.features.layer
        np.testing.assert_allclose(alone.features.values, answer.features.values, atol=1e-4)
    assert both[0].features != both[1].features


def test_a_net_without_scenes_answers(tmp_path: Path) -> None:
    save_model(tmp_path, SoundNetModel(SoundNetConfig("soundnet5", ["dog", "cat"])))
    model = SoundModel.func_or_class(str(tmp_path), device="cpu")
    (answer,) = model.predict_batch([request(0)])
    assert answer.scenes is None
    assert len(answer.objects.overall) == 2


def test_a_sound_that_is_too_short_is_refused(served: Any) -> None:
    model = SoundModel.func_or_class(served["models"]["sound"], device="cpu")
    (answer,) = model.predict_batch([Asked(np.zeros(0, np.float32), SoundOptions())])
    assert isinstance(answer, UserError)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 101}, {"feature": True}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SoundOptions(**wrong)
