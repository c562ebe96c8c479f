"""What every model's deployment does with requests, without Serve and with a model of lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from mmray import UserError
from mmray.serving import batching
from mmray.serving.batching import (
    BATCH_WAIT_S,
    MAX_BATCH_SIZE,
    About,
    Asked,
    BatchedModel,
    Batching,
    media,
    told,
    validation_of,
)


class Options(BaseModel):
    times: int = 1
    plus: int = 0


class Answer(BaseModel):
    number: float


class Toy(BatchedModel[Options, Answer]):
    """Knows a sound by its first sample; refuses what is below 0, and breaks at what is above 9."""

    def load(self, where: str, device: str, threads: int, **options: Any) -> None:
        self.loaded = (where, device, threads, options)
        self.batches: list[list[float]] = []
        self.ill = False
        self.probes = 0

    def probe(self) -> None:
        self.probes += 1
        if self.ill:
            raise RuntimeError("not finite")

    def about(self) -> About:
        return About(kind="toy", fingerprint="f", device="cpu", details={"lines": 3})

    def answers(self, asked: Sequence[Asked[Options]]) -> list[Answer]:
        first = [float(wave[0]) for wave in media(asked)]
        self.batches.append(first)
        if min(first) < 0:
            raise UserError(f"{min(first):g} is too low")
        if max(first) > 9:
            raise RuntimeError("broken")
        options = asked[0].options
        return [Answer(number=x * options.times + options.plus) for x in first]


class Loose(Toy):
    """Only `times` must be the same within a group."""

    def group(self, options: Options) -> Hashable:
        return options.times


def question(first: float, **options: int) -> Asked[Options]:
    return Asked(np.array([first, 0], np.float32), Options(**options))


def numbers(answers: Sequence[Any]) -> list[float | str]:
    return [str(a) if isinstance(a, UserError) else a.number for a in answers]


@pytest.fixture
def toy() -> Toy:
    return Toy("official:toy")


def test_a_batch_is_computed_together_in_order(toy: Toy) -> None:
    assert numbers(toy.predict_batch([question(x) for x in (3, 1, 2)])) == [3, 1, 2]
    assert toy.batches == [[3, 1, 2]]


def test_requests_of_other_options_are_computed_apart_and_answered_in_order(toy: Toy) -> None:
    asked = [
        question(1, times=2),
        question(2, times=3),
        question(4, times=2),
        question(4, times=3),
        question(5, plus=1),
    ]
    assert numbers(toy.predict_batch(asked)) == [2, 6, 8, 12, 6]
    assert toy.batches == [[1, 4], [2, 4], [5]]


def test_a_model_says_what_may_go_together() -> None:
    loose = Loose("official:toy")
    loose.predict_batch([question(1, plus=1), question(2, plus=2), question(3, times=2)])
    assert loose.batches == [[1, 2], [3]]


def test_what_cannot_be_answered_fails_alone(toy: Toy) -> None:
    asked = [question(1), question(-1), question(2), question(-2), question(7, times=2)]
    found = toy.predict_batch(asked)
    assert numbers(found) == [1, "-1 is too low", 2, "-2 is too low", 14]
    assert toy.batches == [[1, -1, 2, -2], [1], [-1], [2], [-2], [7]], "and nobody is asked thrice"


def test_a_lone_request_that_cannot_be_answered_is_tried_once(toy: Toy) -> None:
    assert numbers(toy.predict_batch([question(-3)])) == ["-3 is too low"]
    assert len(toy.batches) == 1


def test_what_breaks_is_no_answer(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        toy.predict_batch([question(1), question(10)])
    assert numbers(toy.predict_batch([question(1)])) == [1]


def test_a_model_is_loaded_as_told_and_warm_before_the_first_request() -> None:
    toy = Toy("official:toy", device="cpu", threads=1, index="here")
    assert toy.loaded == ("official:toy", "cpu", 1, {"index": "here"})
    assert toy.probes == 1


def test_health_fails_with_a_model_that_fails(toy: Toy) -> None:
    toy.ill = True
    asyncio.run(toy.check_health())  # it has just answered
    with pytest.raises(RuntimeError, match="broken"):
        toy.predict_batch([question(10)])
    with pytest.raises(RuntimeError, match="not finite"):
        asyncio.run(toy.check_health())


def test_a_model_that_nobody_asks_is_asked_by_the_check_of_its_health(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "TRUST_S", 0.0)
    asyncio.run(toy.check_health())
    toy.ill = True
    with pytest.raises(RuntimeError, match="not finite"):
        asyncio.run(toy.check_health())


def test_a_model_that_is_ill_from_the_start_does_not_start() -> None:
    class Ill(Toy):
        def probe(self) -> None:
            raise RuntimeError("not finite")

    with pytest.raises(RuntimeError, match="not finite"):
        Ill("official:toy")


def test_what_a_model_says_of_itself(toy: Toy, tmp_path: Path) -> None:
    first = asyncio.run(toy.describe())
    assert first.about == toy.about()
    assert (first.metrics, first.batch_size) == ({}, None)
    assert first.loaded_s >= 0
    toy.predict_batch([question(1)] * 3)
    toy.predict_batch([question(1)] * 2)
    assert asyncio.run(toy.describe()).batch_size == 2.5
    config = {"kind": "toy", "training": {"val": {"loss": 0.123456}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert asyncio.run(Toy(str(tmp_path)).describe()).metrics == {"loss": 0.1235}


@pytest.mark.parametrize(
    ("training", "metrics"),
    [
        ({}, {}),
        ({"training": {}}, {}),
        ({"training": {"val": None}}, {}),
        ({"training": {"val": {"loss": 1, "note": "good", "x": None}}}, {"loss": 1}),
    ],
)
def test_metrics_are_the_numbers_that_the_folder_has(
    tmp_path: Path, training: dict[str, Any], metrics: dict[str, float]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": "toy", **training}))
    assert validation_of(str(tmp_path)) == metrics


def test_batches_change_without_a_restart(toy: Toy) -> None:
    batched: Any = toy._batched
    try:
        toy.reconfigure({"max_batch_size": 3, "batch_wait_s": 0.25})
        assert batched._get_max_batch_size() == 3
        assert batched._get_batch_wait_timeout_s() == 0.25
        toy.reconfigure({})
        assert batched._get_max_batch_size() == MAX_BATCH_SIZE
        assert batched._get_batch_wait_timeout_s() == BATCH_WAIT_S
    finally:
        toy.reconfigure({})


@pytest.mark.parametrize("wrong", [{"max_batch_size": 0}, {"batch_wait_s": -1}, {"batch_size": 2}])
def test_wrong_settings_are_refused(toy: Toy, wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Batching.model_validate(wrong)
    with pytest.raises(ValidationError):
        toy.reconfigure(wrong)


def test_requests_that_tell_stay_what_they_were() -> None:
    news: list[Any] = []
    asked = question(1, times=2)
    telling = told(asked, lambda name, data: news.append((name, data)))
    assert telling.options is asked.options
    assert telling.media is asked.media
    assert asked.tell is None
    assert telling.tell is not None
    telling.tell("drafts", 1)
    assert news == [("drafts", 1)]


def test_media_are_those_that_are_there() -> None:
    assert [float(wave[0]) for wave in media([question(1), Asked(None, Options())])] == [1]
