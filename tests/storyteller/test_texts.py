"""Plain text as passages: any encoding, any length, and what is no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmray.errors import UserError
from mmray.storyteller import texts


def read(path: Path, data: bytes) -> list[list[str]]:
    path.write_bytes(data)
    return list(texts.passages(str(path)))


def test_sentences_end_where_they_end() -> None:
    found = texts.sentences('He said "Stop!" and left. Mr. Smith, J. R. Ewing? Yes...\n No.')
    assert found == [
        'He said "Stop!"',
        "and left.",
        "Mr. Smith, J. R. Ewing?",
        "Yes...",
        "No.",
    ]


def test_passages_do_not_go_across_paragraphs(tmp_path: Path) -> None:
    text = b"It rained. It poured.\nAll night long.\n\nThen came the sun.\n%\nA quotation here.\n"
    assert read(tmp_path / "a.txt", text) == [
        ["It rained.", "It poured.", "All night long."],
        ["Then came the sun."],
        ["A quotation here."],
    ]


def test_long_paragraphs_are_several_passages(tmp_path: Path) -> None:
    found = read(tmp_path / "a.txt", b"It was so. " * 10)
    assert [len(passage) for passage in found] == [4, 4, 2]


def test_what_is_no_sentence_is_left_out(tmp_path: Path) -> None:
    text = "Good morning all. 12345 67890 11. Wait. -- Mark Twain said that. " + "word " * 90 + "."
    assert read(tmp_path / "a.txt", text.encode()) == [["Good morning all."]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path / "a.txt", "Où est le café ?".encode(encoding)) == [["Où est le café ?"]]


def test_windows_lines_and_lines_without_an_end(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"It is one.\r\n\r\nIt is two.") == [
        ["It is one."],
        ["It is two."],
    ]


def test_a_file_of_one_endless_line_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_BLOCK", 1000)
    found = read(tmp_path / "a.txt", "Ünd so weiter geht es. ".encode() * 1000)
    assert sum(map(len, found)) > 950


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    for data, told in ((b"", "is empty"), (b"PK\0\1\0", "is binary")):
        with pytest.raises(UserError, match=rf"a\.txt: {told}"):
            read(tmp_path / "a.txt", data)
    with pytest.raises(UserError, match="missing"):
        list(texts.passages(str(tmp_path / "missing.txt")))


def test_a_broken_sign_breaks_no_other(tmp_path: Path) -> None:
    text = "Où est le café ? ".encode() * 200
    found = read(tmp_path / "a.txt", text[:1000] + b"\xff" + text[1000:])
    assert {s for passage in found for s in passage} == {"Où est le café ?"}


def test_scripts_without_spaces_are_named(tmp_path: Path) -> None:
    for text, script in (("我们在海滩上看到一只红色的狗。", "Cjk"), ("สุนัขสีแดงวิ่งบนชายหาด", "Thai")):
        with pytest.raises(UserError, match=f"{script} letters, without spaces"):
            read(tmp_path / "a.txt", text.encode() * 50)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    for encoding in ("cp1251", "koi8-r"):
        with pytest.raises(UserError, match=r"neither UTF-8 nor a Latin-1 .*iconv"):
            read(tmp_path / "a.txt", ("Собака бежит по берегу моря. " * 50).encode(encoding))


def test_vowel_signs_are_letters(tmp_path: Path) -> None:
    text = "நாய் கடற்கரையில் ஓடுகிறது. "
    assert len(read(tmp_path / "a.txt", (text * 8).encode())) == 2
    assert texts.words_of("हिन्दी भाषा।") == ["हिन्दी", "भाषा"]
    assert texts.sentences("वह आया। वह गया।") == ["वह आया।", "वह गया।"]


def test_captions_become_sentences() -> None:
    assert texts.as_sentence("a  dog on\nthe beach") == "A dog on the beach."
    assert texts.as_sentence("Is it red?") == "Is it red?"
    assert texts.as_sentence("") == ""


def test_words() -> None:
    assert texts.words_of("The knight’s helmet -- it's RED_blue, 5!") == [
        *("the", "knight’s", "helmet", "it's", "red", "blue", "5"),
    ]


def test_scripts() -> None:
    assert texts.script_of(["A dog runs."]) == "LATIN"
    assert texts.script_of(["Собака бежит."]) == "CYRILLIC"
    assert texts.script_of(["123"]) == "NONE"
