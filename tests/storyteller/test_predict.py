"""Stories of a small trained storyteller: styles, strengths, what is refused, what is stored."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import mmray
from jobs import train_storyteller
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.storyteller import folder
from mmray.storyteller.evaluate import evaluate
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.predict import CANDIDATES, DRAFTS, Storyteller
from tests.captioner.captioners import write_captioner
from tests.captioner.worlds import write_captioned
from tests.storyteller.books import BOOKS, write_book


class Told:
    """Knows what people wrote about the pictures of a dataset; the captioner is untrained."""

    column = "features"
    fingerprint = "told"

    def __init__(self, teller: Storyteller, data: Dataset) -> None:
        assert teller.describer is not None
        self.backbone = teller.describer.backbone
        table = data.read(["features", "captions"])
        keys = [row.tobytes() for row in tensor(table["features"]).astype(np.float32)]
        self.known = dict(zip(keys, table["captions"].to_pylist(), strict=True))

    def check(self, dataset: Dataset) -> None:
        """Anything will do."""

    def see(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        raise AssertionError("nothing to see")

    def describe(self, seen: np.ndarray) -> list[list[str]]:
        return [self.known[row.tobytes()] for row in seen]


RED_DOG = ["A red dog.", "there is a red dog", "the dog"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Path:
    """A folder with `data` (pictures), `memo.txt`, and the job's `out`, trained on one book."""
    root = tmp_path_factory.mktemp("storyteller")
    data = write_captioned(root / "data", tiny_teacher, grid=False)
    captioner = write_captioner(root / "captioner", data)
    books = {name: write_book(root / f"{name}.txt", name, 1500) for name in BOOKS}
    argv = ["--captions", data, "--captioner", captioner, "--style", f"old={books['old']}"]
    sizes = ["--vocabulary", "200", "--dim", "48", "--layers", "1", "--max-length", "40"]
    steps = ["--steps", "250", "--batch-size", "32", "--lr", "5e-3", "--warmup", "20"]
    train_storyteller.main([*argv, *sizes, *steps, "--local", "--out", str(root / "out")])
    return root


@pytest.fixture(scope="module")
def teller(trained: Path) -> Storyteller:
    found = mmray.load(str(trained / "out/model"), device="cpu")
    assert isinstance(found, Storyteller)
    return found


def test_strength_goes_from_captions_to_the_book(teller: Storyteller) -> None:
    captions = [RED_DOG, ["the blue car", "A blue car."]]
    old = {word for form in BOOKS["old"] for word in form.split() if "{" not in word}
    shares = []
    for strength in (0.0, 1.0):
        told = teller.stories_of(captions, "old", strength, 3)
        texts = [story.story for stories in told for story in stories]
        assert 2 <= len(texts) <= 6  # of a toy grammar candidates may be the same
        assert len(set(texts)) > 1
        words = [word for text in texts for word in text.split()]
        shares.append(np.mean([word in old for word in words]))
    assert shares[0] < 0.5 < shares[1]


def test_a_story_does_not_depend_on_the_others(teller: Storyteller) -> None:
    alone = teller.stories_of([RED_DOG], "old", seed=3)[0]
    among = teller.stories_of([["the car"], RED_DOG], "old", seed=3)[1]
    assert alone[0].story == among[0].story
    assert alone[0].captions == RED_DOG
    assert -1 <= alone[0].match <= 1
    assert alone[0].log_odds > 0


def test_who_watches_sees_each_story_grow_and_changes_none(teller: Storyteller) -> None:
    captions = [RED_DOG, *[["the blue car"], ["a green tree."]] * 8, []]  # more than one batch
    seen: dict[int, list[list[str]]] = {}

    def watch(picture: int, drafts: list[str]) -> None:
        seen.setdefault(picture, []).append(drafts)

    watched = teller.stories_of(captions, "old", 0.8, 2, seed=1, watch=watch)
    assert watched == teller.stories_of(captions, "old", 0.8, 2, seed=1)
    assert seen.keys() == set(range(len(captions)))
    for drafts in seen.values():
        assert len(drafts) > 1
        for before, after in itertools.pairwise(drafts):
            assert len(after) == DRAFTS
            assert all(b.startswith(a) for a, b in zip(before, after, strict=True))
        assert drafts[-1] != drafts[0]
    assert teller.stories_of([], "old", watch=watch) == []


def test_a_draft_becomes_a_candidate(teller: Storyteller) -> None:
    drafts: list[list[str]] = []
    (stories,) = teller.stories_of(
        [RED_DOG], "old", n=CANDIDATES, watch=lambda _, shown: drafts.append(shown)
    )
    told = [story.story for story in stories]
    for draft in drafts[-1]:
        assert any(
            story.startswith(draft) or draft.startswith(story.removesuffix(" ..."))
            for story in told
        )


def test_pictures_become_stories(teller: Storyteller) -> None:
    picture = np.full((32, 32, 3), 90, np.uint8)
    told = teller.stories([picture], "old", 0.5, n=2)
    assert 1 <= len(told[0]) <= 2
    assert told[0][0].style == "old"
    assert len(told[0][0].captions) == 5


def test_more_strength_is_more_of_the_book_and_less_of_the_picture(
    trained: Path, teller: Storyteller
) -> None:
    pictures = Dataset(str(trained / "data"), "images")
    passages = Dataset(str(trained / "out/passages"), "passages")
    blind = Told(teller, pictures)
    metrics = evaluate(
        Storyteller(teller.stored, blind, "cpu"), pictures, passages, "test", 30
    ).metrics
    assert metrics["style.0"] < 0.2
    assert metrics["style.1"] > 0.8
    assert metrics["content.0.5"] > metrics["shuffled.content"] + 0.1
    assert metrics["retrieval.r10"] > metrics["shuffled.retrieval.r10"]
    assert metrics["loops4"] < 0.05
    assert metrics["empty"] == 0


def test_a_captions_case_and_stop_do_not_matter(teller: Storyteller) -> None:
    one, two = (teller.stories_of([[c]], "old")[0][0] for c in ("a red dog", "A red  dog."))
    assert one.story == two.story


def test_what_is_refused(teller: Storyteller, trained: Path) -> None:
    for more, told in (
        (("new",), "style 'new': unknown; known are old"),
        ((PLAIN,), "unknown"),
        (("old", 1.5), r"strength 1\.5: expected 0"),
        (("old", float("nan")), "strength nan"),
        (("old", 1.0, CANDIDATES + 1), f"expected 1 to {CANDIDATES}"),
    ):
        with pytest.raises(UserError, match=told):
            teller.stories_of([RED_DOG], *more)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected a list of sentences for each picture"):
        teller.stories_of(RED_DOG, "old")
    assert teller.stories_of([], "old") == []
    assert teller.stories_of([[], ["  "]], "old") == [[], []]
    blind = Storyteller(teller.stored, device="cpu")
    with pytest.raises(UserError, match="keeps nothing to look"):
        blind.stories([np.zeros((8, 8, 3), np.uint8)], "old")


def test_styles_are_added_without_training(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out/model", tmp_path / "model")
    memo = f"memo={trained / 'memo.txt'}"
    train_storyteller.main(["--add-style", memo, "--out", str(tmp_path)])
    teller = mmray.load(str(tmp_path / "model"), device="cpu")
    assert teller.styles == ["memo", "old"]
    assert teller.stories_of([RED_DOG], "memo")[0][0].story
    stored = folder.load(str(tmp_path / "model"))
    trained_on = {name: s for name, s in stored.styles.items() if name != "memo"}
    folder.save(stored.net, stored.pieces, trained_on, str(tmp_path / "model"), {})
    assert "memo" in folder.load(str(tmp_path / "model")).styles  # a repeated training keeps it
    with torch.no_grad():
        stored.net.out.bias += 1
    shutil.copytree(tmp_path / "model", tmp_path / "old")
    folder.save(stored.net, stored.pieces, trained_on, str(tmp_path / "old"), {})
    assert "memo" not in folder.load(str(tmp_path / "old")).styles  # another net does not
    with pytest.raises(UserError, match="has a style of that name"):
        train_storyteller.main(["--add-style", memo, "--out", str(tmp_path)])
    with pytest.raises(UserError, match="give one of them"):
        train_storyteller.main(["--add-style", memo, "--style", memo, "--out", str(tmp_path)])


def test_folders_that_do_not_fit(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out/model", tmp_path / "model")
    (tmp_path / "model/pieces.model").write_bytes(b"nothing")
    with pytest.raises(UserError, match="its files do not belong together"):
        folder.load(str(tmp_path / "model"))
    with pytest.raises(UserError, match="model of kind 'captioner'"):
        folder.load(str(trained / "captioner"))
