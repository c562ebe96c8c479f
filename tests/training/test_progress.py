"""What a person sees of a training."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from mmray.training.loop import Progress
from mmray.training.progress import TrainingProgress, line

STEP = Progress(10, 40, {"loss": 1.23456, "kl_objects": 0.5}, 99.9, 0.07)
EVALUATION = Progress(20, 40, {"loss": 0.9}, evaluation=True)


def test_lines() -> None:
    assert line(STEP) == (
        "training: step 10/40, loss 1.235, kl_objects 0.5, 99.9 samples/s, 7% waiting for data"
    )
    assert line(dataclasses.replace(STEP, workers=2)).endswith(", 2 workers")
    assert line(EVALUATION) == "evaluation: step 20/40, loss 0.9"


def test_plain_lines_now_and_then_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with TrainingProgress(Console(file=out, width=200)) as show:
        for step in range(1, 41):
            show(Progress(step, 40, {"loss": 1.0}))
            if step == 20:
                show(EVALUATION)
    steps = [text.split(",")[0] for text in out.getvalue().splitlines()]
    assert steps == ["training: step 1/40", "evaluation: step 20/40", "training: step 40/40"]


def test_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, _environ={"TERM": "xterm"})
    with TrainingProgress(console) as show:
        show(STEP)
        show(EVALUATION)
    assert "10/40" in out.getvalue()
    assert "evaluation: step 20/40" in out.getvalue()
