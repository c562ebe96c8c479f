"""The model's side of `/tags` and `/search`, on a small joint model with an index."""

from __future__ import annotations

import asyncio
import base64
import copy
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import mmray
from mmray import UserError
from mmray.serving.batching import Asked
from mmray.serving.tags import (
    MAX_TAGS,
    SearchOptions,
    TagModel,
    TagOptions,
    TagResponse,
    VocabularyOptions,
)
from tests.joint.taggers import TAGS


@pytest.fixture(scope="module")
def model(served: Any) -> Any:
    return TagModel.func_or_class(served["models"]["tags"], device="cpu", **served["search"])


@pytest.fixture(scope="module")
def tagger(served: Any) -> Any:
    """The same model as a library."""
    index = served["search"]["index"]
    return mmray.load(served["models"]["tags"], device="cpu", index=index)


def picture(model: Any, seed: int = 0) -> np.ndarray:
    size = model.about().square.size
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def one(model: Any, options: Any, media: np.ndarray | None = None) -> Any:
    (answer,) = model.predict_batch([Asked(media, options)])
    return answer


def named(answer: TagResponse) -> list[str]:
    return [tag.name for tag in answer.tags]


def test_the_likeliest_tags_come_first(model: Any, tagger: Any) -> None:
    seen = picture(model)
    answer = one(model, TagOptions(k=3), seen)
    (expected,) = tagger.tags([seen], 3)
    assert named(answer) == [name for name, _ in expected]
    probabilities = [tag.probability for tag in answer.tags]
    assert probabilities == pytest.approx([p for _, p in expected], abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)


def test_useless_tags_only_where_asked_for(model: Any) -> None:
    assert "nikon" not in named(one(model, TagOptions(k=1000), picture(model)))
    assert set(named(one(model, TagOptions(k=1000, useless=True), picture(model)))) == set(TAGS)


def test_known_tags_are_heeded_and_not_named_again(model: Any, tagger: Any) -> None:
    seen = picture(model)
    answer = one(model, TagOptions(given=["dog", "red"]), seen)
    assert named(answer) == [name for name, _ in tagger.tags([seen], 10, [["dog", "red"]])[0]]
    assert not {"dog", "red"} & set(named(answer))


def test_requests_of_one_batch_keep_their_pictures_and_options(model: Any) -> None:
    asked = [
        Asked(picture(model, 1), TagOptions(k=1)),
        Asked(picture(model, 2), TagOptions(given=["dog"])),
        Asked(picture(model, 3), TagOptions(k=4)),
        Asked(None, VocabularyOptions(k=2)),
        Asked(picture(model, 4), TagOptions(given=["beach", "red"], k=2)),
        Asked(picture(model, 5), SearchOptions(k=3)),
        Asked(picture(model, 6), TagOptions(useless=True)),
    ]
    together = model.predict_batch(asked)
    alone = [answer for each in asked for answer in model.predict_batch([each])]
    for a, b in zip(together, alone, strict=True):
        assert type(a) is type(b)
        if isinstance(a, TagResponse):
            assert named(a) == named(b)
            assert [t.probability for t in a.tags] == pytest.approx(
                [t.probability for t in b.tags], abs=1e-4
            )
    assert len(together[0].tags) == 1
    assert len(together[2].tags) == 4


def test_tags_with_many_options_share_a_batch(model: Any) -> None:
    same = {model.group(TagOptions(k=1)), model.group(TagOptions(k=7))}
    assert len(same) == 1
    given = {model.group(TagOptions(given=[tag])) for tag in ("dog", "cat")}
    assert len(given) == 1
    kinds = [TagOptions(), TagOptions(given=["dog"]), TagOptions(useless=True), SearchOptions()]
    kinds += [SearchOptions(k=1), VocabularyOptions(), VocabularyOptions(k=1)]
    assert len({model.group(options) for options in kinds}) == len(kinds)


@pytest.mark.parametrize(
    "options", [TagOptions(given=["unicorn"]), SearchOptions(plus=["unicorn"]), SearchOptions()]
)
def test_what_cannot_be_answered_fails_alone_and_can_travel(model: Any, options: Any) -> None:
    seen = picture(model) if isinstance(options, TagOptions) else None
    bad, good = Asked(seen, options), Asked(picture(model), TagOptions(given=["dog"]))
    error, answer = model.predict_batch([bad, good])
    assert isinstance(error, UserError)
    assert "unicorn" in str(error) or "to start from" in str(error)
    assert answer.tags
    assert str(copy.copy(error)) == str(error), "errors come back from the model's process"


def test_search_finds_what_the_library_finds(model: Any, tagger: Any) -> None:
    seen = picture(model)
    for media, plus, minus in ((seen, [], []), (None, ["dog"], ["red"]), (seen, ["red"], ["dog"])):
        answer = one(model, SearchOptions(plus=plus, minus=minus, k=5), media)
        expected = tagger.search_scored(None if media is None else [media], plus, minus, 5)
        assert [found.id for found in answer.pictures] == [id for id, _ in expected]
        told = [found.similarity for found in answer.pictures]
        assert told == pytest.approx([s for _, s in expected], abs=1e-5)
        assert told == sorted(told, reverse=True)


def test_what_is_found_has_tags_and_where_asked_for_thumbnails(model: Any) -> None:
    plain = one(model, SearchOptions(plus=["dog"], k=4))
    shown = one(model, SearchOptions(plus=["dog"], k=4, thumbnails=True))
    assert len(plain.pictures) == 4
    assert all(found.thumbnail is None for found in plain.pictures)
    for before, found in zip(plain.pictures, shown.pictures, strict=True):
        assert (found.id, found.tags) == (before.id, before.tags)
        assert base64.b64decode(found.thumbnail).startswith(b"\xff\xd8")


def test_more_than_there_are_gives_all(model: Any) -> None:
    found = one(model, SearchOptions(plus=["dog"], k=200)).pictures
    assert len({picture.id for picture in found}) == len(found) == model.about().details["pictures"]


def test_a_model_without_pictures_to_search_says_so(served: Any) -> None:
    model = TagModel.func_or_class(served["models"]["tags"], device="cpu")
    assert model.about().details["pictures"] == 0
    error = one(model, SearchOptions(plus=["dog"]))
    assert isinstance(error, UserError)
    assert "no index" in str(error)
    assert one(model, TagOptions(), picture(model)).tags


def test_an_index_without_its_pictures_gives_ids(served: Any) -> None:
    index = served["search"]["index"]
    model = TagModel.func_or_class(served["models"]["tags"], device="cpu", index=index)
    (found,) = one(model, SearchOptions(plus=["dog"], k=1, thumbnails=True)).pictures
    assert (found.tags, found.thumbnail) == ([], None)


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, TAGS),
        ({"k": 2}, TAGS[:2]),
        ({"prefix": "P"}, ["plage"]),
        ({"prefix": "x"}, []),
        ({"prefix": "BEA", "k": 1}, ["beach"]),
    ],
)
def test_tags_that_the_model_knows(model: Any, options: dict[str, Any], tags: list[str]) -> None:
    assert one(model, VocabularyOptions(**options)).tags == tags


def test_what_it_says_of_itself(model: Any, tagger: Any) -> None:
    about = model.about()
    assert (about.kind, about.device) == ("joint", "cpu")
    assert about.fingerprint == tagger.fingerprint
    assert about.details == {"tags": len(TAGS), "pictures": len(tagger.index)}
    assert about.square == (tagger.backbone.size, tagger.backbone.fit)
    asyncio.run(model.check_health())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((TagOptions, {"k": k}) for k in (0, 1001, "many")),
        *((TagOptions, {"given": given}) for given in ([""], ["x" * 101], ["x"] * (MAX_TAGS + 1))),
        *((SearchOptions, wrong) for wrong in ({"k": 201}, {"plus": [""]}, {"given": ["dog"]})),
        *((VocabularyOptions, wrong) for wrong in ({"k": 0}, {"prefix": "x" * 101})),
    ],
)
def test_wrong_options_are_refused(kind: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**wrong)
