"""Progress of a training: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mmray.training.loop import Progress

LINE_EVERY_S = 10.0


class TrainingProgress:
    """Shows what the loop reports; use as a context manager and call with each report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._said = 0.0

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def __call__(self, progress: Progress) -> None:
        """Show a report; those of evaluations and of the last step always get their line."""
        if self._console.is_terminal:
            self._update(progress)
        last = progress.step == progress.total
        now = time.monotonic()
        quiet = self._bar is not None or now - self._said < LINE_EVERY_S
        if progress.evaluation or last or not quiet:
            self._said = now
            self._console.print(line(progress), highlight=False, markup=False)

    def _update(self, progress: Progress) -> None:
        if self._bar is None:
            columns = (
                TextColumn("step"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=progress.total, values="")
            self._bar.start()
        if not progress.evaluation:
            self._bar.update(self._task, completed=progress.step, values=_numbers(progress))


def line(progress: Progress) -> str:
    """A report as one line of text."""
    what = "evaluation" if progress.evaluation else "training"
    return f"{what}: step {progress.step}/{progress.total}, {_numbers(progress)}"


def _numbers(progress: Progress) -> str:
    values = [f"{name} {value:.4g}" for name, value in progress.values.items()]
    if not progress.evaluation:
        values.append(f"{progress.samples_per_s:.1f} samples/s")
        values.append(f"{progress.waiting:.0%} waiting for data")
        if progress.workers > 1:
            values.append(f"{progress.workers} workers")
    return ", ".join(values)
