"""Swaps and analogies of models whose vectors are written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmray.errors import UserError
from mmray.joint import arithmetic
from mmray.joint.arithmetic import analogy_metrics, read_analogies, swap_metrics
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures
from mmray.pipeline.dataset import Dataset
from tests.joint.worlds import COLOURS, THINGS, hand_made

MEANINGS = np.eye(8)
WORDS = {name: MEANINGS[i] for i, name in enumerate([*COLOURS, *THINGS])}
EACH = 12
"""Pictures of each thing of each colour: more than are looked at."""


def pool_of(tagger: Tagger, mentioned: int = 2, kinds: bool = True) -> Pictures:
    """Pictures of all things of all colours, the first of whose labels are tags too."""
    pairs = [(c, t) for c in COLOURS for t in THINGS for _ in range(EACH)]
    known = tagger.vocabulary.numbers
    tags = np.zeros((len(pairs), len(known)), bool)
    for row, pair in zip(tags, pairs, strict=True):
        row[[known[word] for word in pair[:mentioned]]] = True
    features = np.array([WORDS[c] + WORDS[t] for c, t in pairs], np.float32)
    labels = [[f"colour:{c}", f"object:{t}"] if kinds else [c, t] for c, t in pairs]
    return Pictures(features, tags, labels, [str(i) for i in range(len(pairs))])


def swaps(tagger: Tagger, pool: Pictures) -> dict[str, float]:
    """With nothing to search but the pool itself."""
    return swap_metrics(tagger, pool, pool.take(np.arange(0)))


def test_a_perfect_model_succeeds_always() -> None:
    tagger = hand_made(WORDS)
    found = swaps(tagger, pool_of(tagger))
    assert found == {
        "arithmetic.success10": 1.0,
        "arithmetic.held_out": 1.0,
        "arithmetic.picture_only": 0.0,
        "arithmetic.tags_only": pytest.approx(found["arithmetic.tags_only"]),
        "arithmetic.chance": pytest.approx(1 - (1 - 1 / 9) ** 10),
        "arithmetic.queries": 9 * EACH * 2 * 2,  # both labels may go, for either of two others
    }
    assert found["arithmetic.tags_only"] < 0.9  # it cannot know the other label


def test_a_model_that_takes_words_for_others_fails() -> None:
    shifted = dict(zip(WORDS, np.roll(MEANINGS[:6], 1, axis=0), strict=True))
    tagger = hand_made(shifted)
    assert swaps(tagger, pool_of(tagger))["arithmetic.success10"] < 0.5


def test_the_rest_of_a_collection_is_searched_too() -> None:
    tagger = hand_made(WORDS)
    pool = pool_of(tagger)
    found = swap_metrics(tagger, pool.take(np.arange(1)), pool.take(np.arange(1, len(pool))))
    assert found["arithmetic.success10"] == 1.0
    assert "arithmetic.held_out" not in found  # one picture has no right one beside it


def test_kinds_of_several_values_take_no_part() -> None:
    tagger = hand_made(WORDS)
    pool = pool_of(tagger)
    labels = [[*found, "object:extra"] for found in pool.labels]
    twice = Pictures(pool.features, pool.tags, labels, pool.ids)
    assert swaps(tagger, twice) == {}  # only colours are left, and nothing beside to keep


def test_at_most_so_many_swaps_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "MOST_QUERIES", 30)
    tagger = hand_made(WORDS)
    found = swaps(tagger, pool_of(tagger))
    assert found["arithmetic.queries"] == 30
    assert found["arithmetic.success10"] == 1.0


def test_nothing_to_swap() -> None:
    tagger = hand_made(WORDS)
    assert swaps(tagger, pool_of(tagger, kinds=False)) == {}
    assert swaps(tagger, pool_of(tagger, mentioned=1)) == {}
    strangers = hand_made({"x": MEANINGS[0], "y": MEANINGS[1]})
    assert swaps(strangers, pool_of(strangers, mentioned=0)) == {}
    assert swaps(tagger, pool_of(tagger).take(np.arange(0))) == {}


def test_analogies() -> None:
    languages = {c: MEANINGS[i] + MEANINGS[6] for i, c in enumerate(COLOURS)}
    languages |= {c: MEANINGS[i] + MEANINGS[7] for i, c in enumerate(COLOURS.values())}
    tagger = hand_made(languages)
    right, unknown = ("red", "rojo", "blue", "azul"), ("red", "rojo", "pink", "rosa")
    found = analogy_metrics(tagger, [right, unknown])
    assert found == {"analogy.acc1": 1, "analogy.acc5": 1, "analogy.questions": 1}
    wrong = ("red", "rojo", "blue", "green")
    assert analogy_metrics(tagger, [right, wrong]) == {
        "analogy.acc1": 0.5,
        "analogy.acc5": 1,  # among three
        "analogy.questions": 2,
    }
    assert analogy_metrics(tagger, [unknown]) == {}


def test_questions_of_a_file(tmp_path: Path, picture_world: str) -> None:
    data = Dataset(picture_world, "images")
    file = tmp_path / "analogies.txt"
    file.write_text("Red, ROJO , blue,azul\n\n new york,usa,paris,france\n")
    assert read_analogies(str(file), data) == [
        ("red", "rojo", "blue", "azul"),
        ("new york", "usa", "paris", "france"),
    ]
    assert read_analogies(None, data) == []
    data.manifest["source"] = "toy:/some/where"
    assert ("red", "rojo", "blue", "azul") in read_analogies(None, data)
    for line in ("a,b,c", "a,b,c,d,e", "a,,c,d"):
        file.write_text(f"a,b,c,d\n{line}\n")
        with pytest.raises(UserError, match=r"analogies\.txt: line 2: expected four tags"):
            read_analogies(str(file), data)
    with pytest.raises(UserError, match="nowhere"):
        read_analogies("nowhere", data)
