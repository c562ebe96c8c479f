"""The two errors that people see: wrong input, and media that cannot be used."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input by the user; the command line prints it as one line and exits with 2.

    The message names the file or flag, says what was expected and what to do.
    """


class MediaError(UserError):
    """A picture, video or sound that cannot be used.

    Inside a pipeline it becomes a quarantined row and never stops the job.

    Args:
        stage: where it happened: `open`, `probe`, `image`, `frames`, `sound` or `teacher`.
        reason: one sentence on what is wrong with the media.
        uri: the file, where it is known.
    """

    def __init__(self, stage: str, reason: str, uri: str = "") -> None:
        self.stage = stage
        self.reason = reason
        self.uri = uri
        self.cause = ""  # class of the error behind it, where that error stayed in a child process
        super().__init__(stage, reason, uri)

    def __str__(self) -> str:
        where = f"{self.uri}: " if self.uri else ""
        return f"{where}{self.reason} (stage: {self.stage})"
