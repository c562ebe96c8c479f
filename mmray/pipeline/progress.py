"""Progress of a long job: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


class ProgressLine:
    """Counts items and errors, and says how fast it goes and how long it will take.

    Use as a context manager.

    Args:
        console: where to show it.
        what: name of the items, for example `clips`.
        total: number of items, done ones included.
        done: items that were done before; they do not count for the speed.
        errors: errors among them.
    """

    def __init__(
        self, console: Console, what: str, total: int, done: int = 0, errors: int = 0
    ) -> None:
        self.what, self.total, self.done, self.errors = what, total, done, errors
        self._console = console
        self._before = done
        self._start = self._said = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[rate]:.1f}/s"),
                TextColumn("{task.fields[errors]} errors"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(
                self.what, total=self.total, completed=self.done, rate=0.0, errors=self.errors
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._console.print(self.line())

    @property
    def rate(self) -> float:
        """Items a second since the start."""
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-6)

    def line(self) -> str:
        """The state as one line of text."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("nan")
        rest = f", {_duration(left)} left" if self.done < self.total and left == left else ""
        return (
            f"{self.what}: {self.done}/{self.total}, {self.rate:.1f} {self.what}/s, "
            f"{self.errors} errors{rest}"
        )

    def add(self, items: int, errors: int = 0) -> None:
        """Count `items` more, `errors` of them bad, and show it when it is time."""
        self.done += items
        self.errors += errors
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=self.rate, errors=self.errors)
        elif self.done < self.total and time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            self._console.print(self.line())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
