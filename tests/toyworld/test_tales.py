"""The books of the toy world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmray.storyteller import texts
from mmray.toyworld.tales import tale, toy_styles


def test_a_tale_is_of_one_thing_in_one_style() -> None:
    told = tale("saga", np.random.default_rng(0))
    assert 3 <= len(told) <= 4
    assert tale("saga", np.random.default_rng(0)) == told
    assert tale("news", np.random.default_rng(0)) != told
    assert all(text[0].isupper() and text.endswith(".") for text in told)


def test_books_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    files = toy_styles()
    assert set(files) == {"saga", "news"}
    for file in files.values():
        found = list(texts.passages(file))
        assert sum(map(len, found)) > 2 * texts.LEAST
        assert all(3 <= len(passage) <= 4 for passage in found)
    before = {file: Path(file).stat().st_mtime_ns for file in files.values()}
    assert toy_styles() == files
    assert {file: Path(file).stat().st_mtime_ns for file in files.values()} == before
