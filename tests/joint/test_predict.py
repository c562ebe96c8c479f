"""What users call: tags, search and arithmetic, and what they are told when they err."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmray
from mmray.errors import MediaError, UserError
from mmray.joint.index import Index
from mmray.joint.predict import TAG_WEIGHT, Tagger
from mmray.joint.vocabulary import UnknownTag
from mmray.pipeline.dataset import Dataset, tensor
from tests.joint.worlds import COLOURS, hand_made, write_teacher

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tagger(joint_model: str) -> Tagger:
    return mmray.load(joint_model, device="cpu")


@pytest.fixture(scope="module")
def features(picture_world: str) -> np.ndarray:
    table = Dataset(picture_world, "images").read(["features"], "test")
    return tensor(table["features"]).astype(np.float32)


def test_the_likeliest_tags_come_first(tagger: Tagger, features: np.ndarray) -> None:
    found = tagger.tags_of_features(features, k=4)
    assert len(found) == len(features)
    probabilities = tagger.scorer.probabilities(features)
    for row, names in zip(probabilities, found, strict=True):
        assert len({tag for tag, _ in names}) == 4
        assert [p for _, p in names] == sorted((p for _, p in names), reverse=True)
        assert all(row[tagger.vocabulary.number(tag)] == np.float32(p) for tag, p in names)
    alone = tagger.tags_of_features(features[:1], k=999)[0][:4]
    assert dict(alone) == pytest.approx(dict(found[0]), abs=1e-5)
    assert tagger.tags_of_features(features[:0]) == []


def test_useless_tags_are_named_where_asked_for(tagger: Tagger, features: np.ndarray) -> None:
    useful, all_tags = (
        {
            tag
            for names in tagger.tags_of_features(features, 99, useless=useless)
            for tag, _ in names
        }
        for useless in (False, True)
    )
    assert all_tags - useful == {"nikon"}
    assert len(all_tags) == len(tagger.vocabulary)


def test_given_tags_are_not_named_again(tagger: Tagger, features: np.ndarray) -> None:
    given = [["Red", "#dog", "red"], [], ["nikon"]]
    found = tagger.tags_of_features(features[:3], 99, given, useless=True)
    count = len(tagger.vocabulary)
    assert [len(names) for names in found] == [count - 2, count, count - 1]
    assert not {"red", "dog"} & {tag for tag, _ in found[0]}
    plain = dict(tagger.tags_of_features(features[1:2], 99, useless=True)[0])
    assert dict(found[1]) == pytest.approx(plain, abs=1e-6)
    alone = tagger.tags(None, 2, [["red"]])
    assert len(alone[0]) == 2


def test_every_form_of_a_picture_is_the_same(tagger: Tagger, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(PICTURE).save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    forms = [PICTURE, data.getvalue(), str(tmp_path / "a.png"), tmp_path / "a.png"]
    found = tagger.features(forms)
    assert found.shape == (4, 48)
    assert all(np.array_equal(row, found[0]) for row in found)
    assert tagger.tags([PICTURE], k=3) == tagger.tags_of_features(found[:1], k=3)
    assert tagger.tags([]) == []


@pytest.mark.parametrize(
    "image", [PICTURE / 255, PICTURE[..., 0], PICTURE[:0], np.zeros((4, 4, 4), np.uint8), 3]
)
def test_what_is_no_picture(tagger: Tagger, image: Any) -> None:
    with pytest.raises(UserError, match=r"a picture is .*expected uint8 \[height, width, 3\]"):
        tagger.tags([image])


def test_pictures_that_cannot_be_read(tagger: Tagger, tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        tagger.tags([b"no picture"])
    with pytest.raises((UserError, FileNotFoundError), match=r"nowhere\.png"):
        tagger.tags([tmp_path / "nowhere.png"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"k": 0}, "k is 0, expected 1 or more"),
        ({"k": -1}, "k is -1"),
        ({"features": np.zeros((2, 7))}, "features have 7 numbers.*gives 48"),
        ({"given": [["red"]]}, "given: has 1 lists of tags for 2 pictures"),
        ({"given": "red"}, r"given: expected a list of tags for each picture, as in \[\['dog'\]\]"),
        ({"given": ["red", "dog"]}, "given: expected a list of tags for each picture"),
        ({"given": [[], ["unicorn"]]}, "tag 'unicorn': is not among the 13 tags"),
        ({"features": None}, "neither pictures nor tags are given"),
    ],
)
def test_wrong_calls(tagger: Tagger, call: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tagger.tags_of_features(**{"features": np.zeros((2, 48), np.float32), **call})


def test_neighbours_and_analogies() -> None:
    x = np.eye(8)
    words = {c: 2 * x[i] + x[6] for i, c in enumerate(COLOURS)}
    words |= {c: 2 * x[i] + x[7] for i, c in enumerate(COLOURS.values())}
    tagger = hand_made(words)
    neighbours = tagger.neighbours(" RED", k=3)
    assert [tag for tag, _ in neighbours] == ["rojo", "green", "blue"]
    assert [cosine for _, cosine in neighbours] == pytest.approx([0.8, 0.2, 0.2])
    answers = tagger.analogy("red", "rojo", "Blue")
    assert answers[0] == ("azul", pytest.approx(1.0))
    assert len(answers) == 3  # the question's own tags are no answers
    for ask in (lambda: tagger.neighbours("pink"), lambda: tagger.analogy("red", "pink", "blue")):
        with pytest.raises(UnknownTag, match="'pink'"):
            ask()
    with pytest.raises(UserError, match="k is 0"):
        tagger.neighbours("red", k=0)


def test_pictures_plus_and_minus_tags() -> None:
    x = np.eye(4, dtype=np.float32)
    tagger = hand_made({"red": x[0], "blue": x[1] * 5, "dog": x[2]})
    pictures = np.stack([x[0] + x[2], x[0] + x[3]]) / 2**0.5
    found = tagger.combine(pictures[:1], ["blue"], ["red"])
    expected = pictures[0] + TAG_WEIGHT * (x[1] - x[0])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(tagger.combine(pictures, [], [])), 1, atol=1e-6)
    np.testing.assert_allclose(tagger.combine(None, ["dog"], []), x[2], atol=1e-6)
    assert not tagger.combine(None, ["dog"], ["dog"]).any()  # no NaN


def test_queries_that_say_nothing(tagger: Tagger) -> None:
    with pytest.raises(UserError, match="expected pictures or plus tags to start from"):
        tagger.query(minus=["red"])
    with pytest.raises(UserError, match="expected pictures or plus tags"):
        tagger.query(images=[])
    with pytest.raises(UserError, match=r"plus: expected a list of tags, as in plus=\['red'\]"):
        tagger.query(plus="red")
    with pytest.raises(UnknownTag, match="'unicorn'"):
        tagger.query(plus=["red"], minus=["unicorn"])
    with pytest.raises(UserError, match=r"no index of pictures.*--index"):
        tagger.search(plus=["red"])


def index_of(tagger: Tagger, features: np.ndarray, model: str) -> Index:
    vectors = tagger.scorer.picture_vectors(features) - tagger.scorer.centre
    ids = [str(i) for i in range(len(features) - 1)]
    return Index.build(vectors, [*ids, "own"], model=model)


def test_search_in_an_index(
    tagger: Tagger, features: np.ndarray, tmp_path: Path, joint_model: str
) -> None:
    known = np.concatenate([features, tagger.features([PICTURE])])
    index_of(tagger, known, tagger.fingerprint).save(tmp_path)
    loaded = mmray.load(joint_model, device="cpu", index=str(tmp_path))
    assert loaded.search(images=[PICTURE], k=3)[0] == "own"
    scored = loaded.search_scored(images=[PICTURE], plus=["red"], minus=["dog"], k=5)
    assert [s for _, s in scored] == sorted((s for _, s in scored), reverse=True)
    assert all(-1.001 <= s <= 1.001 for _, s in scored)
    assert len(loaded.search(plus=["red"], k=999)) == len(known)
    with pytest.raises(UserError, match="k"):
        loaded.search(plus=["red"], k=0)


def test_an_index_of_another_model(
    tagger: Tagger, features: np.ndarray, tmp_path: Path, joint_model: str
) -> None:
    index_of(tagger, features, "another").save(str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}: was made by another model than"):
        mmray.load(joint_model, index=str(tmp_path))
    with pytest.raises(UserError, match="nowhere"):
        mmray.load(joint_model, index=str(tmp_path / "nowhere"))


def test_a_backbone_with_other_weights(joint_model: str, tmp_path: Path) -> None:
    model = shutil.copytree(joint_model, tmp_path / "model")
    shutil.rmtree(model / "backbone-0")
    write_teacher(model / "backbone-0", seed=7)
    with pytest.raises(UserError, match="backbone-0: has other weights than the net"):
        mmray.load(str(model), device="cpu").tags([PICTURE])


def test_a_model_of_another_kind(tmp_path: Path, tiny_teacher: str) -> None:
    with pytest.raises(UserError, match="holds a model of kind"):
        Tagger.load(tiny_teacher.removeprefix("mmray:"))
