"""The dataset of passages: captions and books, and books that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.storyteller import passages
from mmray.storyteller.passages import PLAIN, parse_styles, write_passages
from tests.captioner.worlds import write_captioned
from tests.joint.worlds import write_rows
from tests.storyteller.books import write_book


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Dataset:
    folder = tmp_path_factory.mktemp("captions")
    return Dataset(write_captioned(folder / "data", tiny_teacher, grid=False), "images")


def test_every_style_is_there(captions: Dataset, tmp_path: Path) -> None:
    files = {name: write_book(tmp_path / f"{name}.txt", name) for name in ("old", "memo")}
    counts = write_passages(captions, files, str(tmp_path / "out"))
    found = Dataset(str(tmp_path / "out"), "passages").read(["id", "split", "style", "sentences"])
    assert set(found["style"].to_pylist()) == {PLAIN, "old", "memo"}
    assert found.num_rows == sum(count.passages for count in counts.values())
    assert len(set(found["id"].to_pylist())) == found.num_rows
    for style in counts:
        splits = {r["split"] for r in found.to_pylist() if r["style"] == style}
        assert splits == {"train", "val", "test"}
    plain = next(r for r in found.to_pylist() if r["style"] == PLAIN)
    assert all(sentence.endswith(".") for sentence in plain["sentences"])


def test_styles_take_turns_and_short_ones_come_again(captions: Dataset, tmp_path: Path) -> None:
    files = {
        "old": write_book(tmp_path / "old.txt", "old", 3000),
        "memo": write_book(tmp_path / "memo.txt", "memo", 520),
    }
    counts = write_passages(captions, files, str(tmp_path / "out"))
    assert counts["old"].repeats == 1
    assert counts["memo"].repeats == min(8, round(counts["old"].train / 2 / counts["memo"].train))
    rows = Dataset(str(tmp_path / "out"), "passages").read(["id", "split", "style"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    learned = [row["style"] for row in rows if row["split"] == "train"]
    assert learned.count("memo") == counts["memo"].train * counts["memo"].repeats
    held_out = [row for row in rows if row["style"] == "memo" and row["split"] != "train"]
    assert len(held_out) == counts["memo"].passages - counts["memo"].train  # each once
    for half in (learned[: len(learned) // 2], learned[len(learned) // 2 :]):
        for style in counts:
            assert half.count(style) == pytest.approx(learned.count(style) / 2, rel=0.15)


def test_no_more_than_the_most(
    captions: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "MOST", 200)
    files = {"old": write_book(tmp_path / "old.txt", "old", 900)}
    count = write_passages(captions, files, str(tmp_path / "out"))["old"]
    assert count.passages <= 200
    assert count.cut


def test_books_that_cannot_be_used(captions: Dataset, tmp_path: Path) -> None:
    tiny = write_book(tmp_path / "tiny.txt", "old", 20)
    cyrillic = tmp_path / "cyrillic.txt"
    cyrillic.write_text("".join(f"Собака {i} бежит по берегу моря.\n" for i in range(600)))
    for file, told in (
        (tiny, r"tiny\.txt: has 20 sentences .* needs 500"),
        (str(cyrillic), r"cyrillic\.txt: is written in Cyrillic letters, the captions in Latin"),
    ):
        with pytest.raises(UserError, match=told):
            write_passages(captions, {"x": file}, str(tmp_path / "out"))
        with pytest.raises(UserError, match="not a finished dataset"):
            Dataset(str(tmp_path / "out"), "passages")


def test_pictures_without_captions(tmp_path: Path, tiny_teacher: str) -> None:
    none = write_rows(tmp_path / "none", [{"tags": []}] * 3, tiny_teacher)
    with pytest.raises(UserError, match="no picture of the split 'train' has a caption"):
        write_passages(Dataset(none, "images"), {}, str(tmp_path / "out"))


@pytest.mark.parametrize("text", ["kjv", "=x", "kjv=", "A b=x", "plain=x"])
def test_flags(text: str) -> None:
    with pytest.raises(UserError, match=f"--style {text}"):
        parse_styles([text])


def test_two_of_one_name() -> None:
    assert parse_styles(["a=x", "b=y=z"]) == {"a": "x", "b": "y=z"}
    with pytest.raises(UserError, match="is given twice"):
        parse_styles(["a=x", "a=y"])
