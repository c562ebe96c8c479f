import logging

import pytest

from mmray.sources import texts


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b" \r\n\n", []),
        (b"sea\nbeach\n", ["sea", "beach"]),
        (b"\xef\xbb\xbfsea\r\nbeach\rsky", ["sea", "beach", "sky"]),
        ("été\n海".encode(), ["été", "海"]),
        ("sea\nété".encode("latin-1"), ["sea", "été"]),
        ("sea\n海".encode("utf-16"), ["sea", "海"]),
        ("a\u2028b\x0cc\n".encode(), ["a\u2028b\x0cc"]),
        (b"sea, beach,,\n", ["sea", "beach"]),
        (b"sea, beach\nsky", ["sea, beach", "sky"]),
    ],
)
def test_tags_of_all_kinds_of_files(tmp_path, data, expected):
    (tmp_path / "a.txt").write_bytes(data)
    text = texts.read(str(tmp_path / "a.txt"))
    assert text is not None
    assert texts.tags(text) == expected


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\x89PNG\0\0", "is binary"), (b"a" * 101, "has more than")]
)
def test_a_file_that_is_no_text_is_named_in_the_log(tmp_path, caplog, monkeypatch, data, reason):
    monkeypatch.setattr(texts, "MAX_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert texts.read(str(path)) is None
    (line,) = caplog.messages
    assert line.startswith(f"{path}: left out")
    assert reason in line


def test_a_folder_is_no_text(tmp_path, caplog):
    assert texts.read(str(tmp_path)) is None
    assert str(tmp_path) in caplog.text
