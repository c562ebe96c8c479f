from __future__ import annotations

import io

import pytest
from rich.console import Console

from mmray.pipeline import progress


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *[float(t) for t in (15, 15, 15, 15, 15, 15, 16, 20, 20, 20)]])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    console = Console(file=out, force_terminal=False)
    with progress.ProgressLine(console, "clips", total=100, done=10) as line:
        line.add(30, errors=2)
        line.add(30)
    lines = out.getvalue().splitlines()
    assert lines[0] == "clips: 40/100, 2.0 clips/s, 2 errors, 30 s left"
    assert lines[-1].startswith("clips: 70/100, ")


def test_duration() -> None:
    assert progress._duration(59) == "59 s"
    assert progress._duration(61) == "1 min 01 s"
    assert progress._duration(7322) == "2 h 02 min"


def test_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with progress.ProgressLine(console, "clips", total=4) as line:
        line.add(4, errors=1)
    assert "1 errors" in out.getvalue()
