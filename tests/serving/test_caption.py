"""The model's side of `/caption`, on a small captioner that looks at a grid."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import mmray
from mmray import UserError
from mmray.captioner.predict import Caption
from mmray.serving.batching import Asked
from mmray.serving.caption import CaptionModel, CaptionOptions, answer


@pytest.fixture(scope="module")
def model(served: Any) -> Any:
    return CaptionModel.func_or_class(served["models"]["caption"], device="cpu")


@pytest.fixture(scope="module")
def captioner(served: Any) -> Any:
    """The same model as a library."""
    return mmray.load(served["models"]["caption"], device="cpu")


def asked(model: Any, seed: int = 0, **options: Any) -> Asked[CaptionOptions]:
    size = model.about().square.size
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Asked(pixels, CaptionOptions(**options))


def test_sentences_are_those_of_the_library_the_best_first(model: Any, captioner: Any) -> None:
    question = asked(model, beam=4, n=3)
    (found,) = model.predict_batch([question])
    (expected,) = captioner.captions([question.media], 4, 3)
    assert [c.caption for c in found.captions] == [c.caption for c in expected]
    told = [c.log_probability for c in found.captions]
    assert told == pytest.approx([c.log_probability for c in expected], abs=1e-4)
    assert all(c.words == c.caption.split() for c in found.captions)
    assert found.fit == captioner.backbone.fit


def test_each_picture_of_a_batch_has_its_own_sentence(model: Any) -> None:
    questions = [asked(model, seed, beam=b) for seed, b in ((1, 1), (2, 3), (3, 1), (4, 3))]
    together = model.predict_batch(questions)
    alone = [found for each in questions for found in model.predict_batch([each])]
    assert [t.captions[0].caption for t in together] == [a.captions[0].caption for a in alone]


def test_where_it_looked_comes_only_where_asked_for(model: Any) -> None:
    (plain,) = model.predict_batch([asked(model)])
    assert plain.captions[0].attention is None
    (found,) = model.predict_batch([asked(model, n=2, attention=True)])
    assert found.captions[0].caption == plain.captions[0].caption
    for caption in found.captions:
        grids = np.array(caption.attention)
        assert len(grids) == len(caption.words) > 0
        assert grids.ndim == 3
        np.testing.assert_allclose(grids.sum((1, 2)), 1, atol=0.01)


def test_a_model_that_cannot_tell_where_it_looked_refuses(
    model: Any, captioner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def captions(*args: Any, attention: bool) -> Any:
        if attention:
            raise UserError("attention: this captioner sees no grid")
        return captioner.captions(*args)

    monkeypatch.setattr(model._model, "captions", captions)
    refused, answered = model.predict_batch([asked(model, attention=True), asked(model)])
    assert isinstance(refused, UserError)
    assert answered.captions


def test_a_sentence_over_the_wire() -> None:
    grid = np.full((2, 2, 2), 0.25, np.float32)
    told = answer(Caption("two  cats", -1.23456789, grid))
    assert told.words == ["two", "cats"]
    assert told.log_probability == -1.234568
    assert told.attention == [[[0.25, 0.25]] * 2] * 2
    assert answer(Caption("", -0.5)).words == []


def test_what_it_says_of_itself(model: Any, captioner: Any) -> None:
    about = model.about()
    assert (about.kind, about.device) == ("captioner", "cpu")
    assert about.fingerprint == captioner.fingerprint
    assert about.details == {"words": len(captioner.stored.words), "attention": True}
    assert about.square == (captioner.backbone.size, captioner.backbone.fit)
    asyncio.run(model.check_health())


@pytest.mark.parametrize(
    "wrong", [{"beam": 0}, {"beam": 11}, {"n": 0}, {"n": 6}, {"beam": 2, "n": 3}, {"k": 2}]
)
def test_wrong_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        CaptionOptions(**wrong)
