"""The model's side of `/story`, on a small storyteller: batches, and stories that are streamed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import mmray
from mmray import UserError
from mmray.serving.batching import Asked, told
from mmray.serving.story import CAPTIONS, DRAFTS, STORIES, StoryModel, StoryOptions
from mmray.storyteller.predict import DRAFTS as NUM_DRAFTS


@pytest.fixture(scope="module")
def model(served: Any) -> Any:
    return StoryModel.func_or_class(served["models"]["story"], device="cpu")


@pytest.fixture(scope="module")
def teller(served: Any) -> Any:
    """The same model as a library."""
    return mmray.load(served["models"]["story"], device="cpu")


def asked(model: Any, number: int = 0, **options: Any) -> Asked[StoryOptions]:
    size = model.about().square.size
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Asked(pixels, StoryOptions(**{"style": "old", **options}))


def texts(response: Any) -> list[str]:
    return [story.story for story in response.stories]


def test_stories_are_those_of_the_library(model: Any, teller: Any) -> None:
    question = asked(model, strength=0.5, n=3)
    (found,) = model.predict_batch([question])
    (expected,) = teller.stories([question.media], "old", 0.5, 3)
    assert texts(found) == [story.story for story in expected]
    assert [s.match for s in found.stories] == pytest.approx([s.match for s in expected], abs=1e-3)
    assert found.captions == expected[0].captions
    assert (found.style, found.strength) == ("old", 0.5)


def test_requests_of_one_batch_keep_their_pictures_and_options(model: Any) -> None:
    questions = [asked(model, 1), asked(model, 2, n=2), asked(model, 3), asked(model, 4, seed=5)]
    questions.append(asked(model, 5, style=model.about().details["styles"][0]))
    together = model.predict_batch(questions)
    alone = [found for each in questions for found in model.predict_batch([each])]
    assert [texts(found) for found in together] == [texts(found) for found in alone]
    assert [found.style for found in together] == [q.options.style for q in questions]


def test_who_wants_a_stream_shares_a_batch_with_who_does_not(model: Any) -> None:
    one, two = StoryOptions(style="old", stream=True), StoryOptions(style="old")
    assert model.group(one) == model.group(two)
    kinds = ({}, {"n": 2}, {"strength": 0.5}, {"seed": 1}, {"style": "memo"})
    assert len({model.group(StoryOptions(**{"style": "old", **k})) for k in kinds}) == len(kinds)


def test_what_cannot_be_told_fails_alone(model: Any) -> None:
    questions = [asked(model), asked(model, style="unheard"), asked(model, 1)]
    first, refused, third = model.predict_batch(questions)
    assert isinstance(refused, UserError)
    assert "style 'unheard': unknown" in str(refused)
    assert texts(first)
    assert texts(third)


def test_only_who_asked_for_news_gets_them_and_only_its_own(model: Any) -> None:
    news: list[list[tuple[str, Any]]] = [[], []]
    questions = [asked(model, number) for number in range(3)]
    expected = model.predict_batch(questions)
    questions[0] = told(questions[0], lambda name, data: news[0].append((name, data)))
    questions[2] = told(questions[2], lambda name, data: news[1].append((name, data)))
    answers = model.predict_batch(questions)
    assert list(map(texts, answers)) == list(map(texts, expected)), "watching changes nothing"
    for events, answer in zip(news, (answers[0], answers[2]), strict=True):
        assert events[0] == (CAPTIONS, {CAPTIONS: answer.captions})
        assert {name for name, _ in events[1:]} == {DRAFTS}
        assert len(events) > 2
    assert news[0][0] != news[1][0]


def stream(model: Any, question: Asked[StoryOptions]) -> list[tuple[str, Any]]:
    async def events() -> list[tuple[str, Any]]:
        return [event async for event in model.stream(question)]

    return asyncio.run(events())


@pytest.fixture
def alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model with batches of one, since Serve gathers them only in its own processes."""

    async def batched(question: Asked[StoryOptions]) -> Any:
        batch: Sequence[Asked[StoryOptions]] = [question]
        return (await asyncio.to_thread(model.predict_batch, batch))[0]

    monkeypatch.setattr(model, "_batched", batched)
    return model


def test_a_stream_tells_captions_then_drafts_then_the_stories(alone: Any) -> None:
    question = asked(alone, n=2, stream=True)
    events = stream(alone, question)
    names = [name for name, _ in events]
    assert names == [CAPTIONS, *[DRAFTS] * (len(names) - 2), STORIES]
    assert len(names) > 3
    (expected,) = alone.predict_batch([question])
    assert events[-1][1] == expected.model_dump()
    assert events[0][1] == {CAPTIONS: expected.captions}
    drafts = [data[DRAFTS] for _, data in events[1:-1]]
    assert {len(each) for each in drafts} == {NUM_DRAFTS}
    for before, after in itertools.pairwise(drafts):
        assert all(b.startswith(a) for a, b in zip(before, after, strict=True))


def test_what_cannot_be_told_is_no_event(alone: Any) -> None:
    with pytest.raises(UserError, match="style 'unheard': unknown"):
        stream(alone, asked(alone, style="unheard", stream=True))


def test_what_breaks_ends_the_stream(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*args: Any, **options: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(alone._model, "stories_of", break_down)
    events: list[str] = []

    async def scenario() -> None:
        async for name, _ in alone.stream(asked(alone, stream=True)):
            events.append(name)

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(scenario())
    assert events == [CAPTIONS]


def test_a_storyteller_that_sees_nothing_is_not_served(
    teller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = type(teller)(teller.stored, None, "cpu")
    monkeypatch.setattr(mmray, "load", lambda where, device, threads: blind)
    with pytest.raises(UserError, match="keeps nothing to look at pictures with"):
        StoryModel.func_or_class("official:blind")


def test_what_it_says_of_itself(model: Any, teller: Any) -> None:
    about = model.about()
    assert (about.kind, about.device) == ("storyteller", "cpu")
    assert about.fingerprint == teller.fingerprint
    assert about.details == {"styles": ["memo", "old"]}
    assert about.square == teller.describer.square
    asyncio.run(model.check_health())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"strength": strength} for strength in (-0.1, 1.1, float("nan"))),
        *({"n": 0}, {"n": 25}, {"seed": -1}, {"seed": 2**32}, {"style": ""}, {"k": 2}),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StoryOptions(**{"style": "old", **wrong})
