"""Damaged files through the real jobs; `benchmarks/fuzzed_media.py` takes more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzzed_media import fuzz, write_nets, wrong_ids
from tests.media.fuzzing import Kind

SEED = 1


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("kind", "count"), [("videos", 100), ("sounds", 50), ("pictures", 50)])
def test_every_damaged_file_is_accounted_for(kind: Kind, count: int, tmp_path: Path) -> None:
    write_nets(tmp_path / "nets")
    outcome = fuzz(kind, count, SEED, tmp_path)
    assert outcome.problems == []
    assert len(outcome.files) == count
    assert sum(outcome.rows[path] > 0 for path in outcome.files) > count / 5
    assert len(outcome.reasons) > count / 5


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        ([], "in neither"),
        (["a"], ""),
        (["a", "a"], "twice"),
        (["a-00000000", "a-00001000"], ""),
        (["a-00000000", "a-00002000"], "lacks clips"),
        (["a", "a-00000000"], "as a whole and has clips"),
    ],
)
def test_what_is_lost_or_double_is_seen(ids: list[str], wrong: str) -> None:
    assert wrong in wrong_ids("videos", ids)
    assert bool(wrong) == bool(wrong_ids("videos", ids))
