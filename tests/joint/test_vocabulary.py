"""Tags as people write them, and the vocabulary that a training split gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.joint.vocabulary import (
    LONGEST,
    MOST_TAGS,
    UnknownTag,
    Vocabulary,
    build_vocabulary,
    normalise,
    normalised,
    presence,
)
from mmray.pipeline.dataset import Dataset
from tests.joint.worlds import write_rows


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("Beach", "beach"),
        ("  New \t\n York ", "new york"),
        ("dog\x00cat", "dog cat"),
        ("#Sunset", "sunset"),
        ("## # sunset", "sunset"),
        ("c#", "c#"),
        ("Cafe\u0301", "café"),
        ("papá", "papá"),
        ("Straße", "strasse"),
        ("ﬁsh", "fish"),
        ("ÉTÉ", "été"),
        ("ice-cream_van", "ice-cream_van"),
        ("夏", "夏"),
        ("\ufeffsun\u200bset", "sunset"),
        ("", ""),
        (" \u3000", ""),
        ("#", ""),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), ""),
    ],
)
def test_normalised_tags(written: str, tag: str) -> None:
    assert normalise(written) == tag


@settings(max_examples=200, deadline=None)
@example("# #dog")
@example("\u1e9b\u0323 \u0345 \u01c5")
@given(st.text(max_size=12))
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_tags_of_one_picture() -> None:
    assert normalised(["Dog", "#dog", "", "cat", "DOG "]) == ["dog", "cat"]
    assert normalised(f"tag{i}" for i in range(10_000)) == [f"tag{i}" for i in range(MOST_TAGS)]


def built(folder: Path, teacher: str, train: list, test: list = [], **how: int) -> Vocabulary:  # noqa: B006
    rows = [{"tags": tags} for tags in train] + [{"tags": t, "split": "test"} for t in test]
    return build_vocabulary(Dataset(write_rows(folder, rows, teacher), "images"), **how)


def test_is_of_the_training_pictures_alone(tmp_path: Path, tiny_teacher: str) -> None:
    train = [["Dog", "dog", "red"], ["dog", "#RED"], ["blue"], ["rare"], [], None]
    found = built(tmp_path, tiny_teacher, [*train, ["blue"]], [["unicorn"]] * 5, min_count=2)
    assert found.tags == ["blue", "dog", "red"]
    assert found.counts == [2, 2, 2]
    assert found.num_tagged == 4  # that with a rare tag alone has none that is known
    assert found.known(["RED", "unicorn", "red", "rare"]) == [2]
    assert presence(found, [["dog", "x"], None, []]).tolist() == [
        [False, True, False],
        *[[False] * 3] * 2,
    ]


def test_the_most_frequent_are_kept(tmp_path: Path, tiny_teacher: str) -> None:
    train = [["a", "b", "c"], ["b", "c"], ["c"]]
    found = built(tmp_path, tiny_teacher, train, min_count=1, max_tags=2)
    assert found.tags == ["c", "b"]
    assert found.frequency.tolist() == pytest.approx([1, 2 / 3])
    assert (found.idf > 0).all()
    assert found.idf[0] < found.idf[1]


@pytest.mark.parametrize("train", [[["dog"]] * 9, [[]] * 3, [["dog"], ["cat"], ["cat"]]])
def test_fewer_than_two_tags(tmp_path: Path, tiny_teacher: str, train: list) -> None:
    with pytest.raises(UserError, match=r"[01] tags occur in 2 or more.*--min-count"):
        built(tmp_path, tiny_teacher, train, min_count=2)


def test_unknown_tags_name_near_ones() -> None:
    known = Vocabulary(["beach", "bench", "dog", "playa"], [9, 8, 7, 6], 20)
    assert known.number(" #BEACH") == 0
    with pytest.raises(UnknownTag, match=r"'baech'.*not among the 4 tags.*near: .*beach"):
        known.number("baech")
    with pytest.raises(UserError, match="it knows beach, bench"):
        known.number("")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"tags": ["a"], "counts": [1]},
        {"tags": ["a", "b"], "counts": [1], "num_tagged": 1},
        {"tags": ["a", "a"], "counts": [1, 1], "num_tagged": 1},
    ],
)
def test_what_is_no_vocabulary(value: object) -> None:
    with pytest.raises(UserError, match=r"here/tags\.json"):
        Vocabulary.from_json(value, "here/tags.json")
    whole = Vocabulary(["a", "b"], [2, 1], 2)
    assert Vocabulary.from_json(whole.to_json(), "x") == whole
