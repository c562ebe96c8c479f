"""METEOR 1.5, by the program of its authors, where it is installed.

It aligns words by form, stem, synonym and paraphrase (Denkowski and Lavie: *Meteor Universal*,
WMT 2014). The program needs Java and 60 MB of paraphrases, which the package pycocoevalcap brings;
neither is needed for anything else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mmray.captioner.scores import check
from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError

_JAR = "meteor-1.5.jar"


def why_not() -> str:
    """Why METEOR cannot be computed here, and what to do; empty where it can."""
    if not shutil.which("java"):
        return "METEOR needs Java: install a Java runtime so that `java` is on the PATH"
    if _folder() is None:
        return "METEOR needs its program: pip install --no-deps pycocoevalcap==1.2"
    return ""


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of a whole set of captions, as pycocoevalcap 1.2 scores them.

    Texts are tokenised first, as for `mmray.captioner.scores`. The counts of all captions are
    added up, so the score is not a mean over captions.

    Args:
        candidates: one caption for each of N images; may be empty texts.
        references: for each image people's captions, at least one, in any number.

    Returns:
        From 0 to 1.

    Raises:
        UserError: as for `scores`, and where `why_not` has a reason.
    """
    return meteors([candidates], references)[0]


def meteors(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """`meteor` of several sets of captions of the same images; the program is started once."""
    for candidates in sets:
        check(candidates, references)
    return _ask(
        [[tokenise(text) for text in candidates] for candidates in sets],
        [[tokenise(text) for text in texts] for texts in references],
    )


def meteor_tokenised(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """`meteor` of texts that are tokens parted by spaces. Errors and result as there."""
    check(candidates, references)
    return _ask([candidates], references)[0]


def _ask(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """The scores of several sets of captions, by one run of the program."""
    reason, folder = why_not(), _folder()
    if reason or folder is None:
        raise UserError(reason)
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", _JAR]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    # A file, because a pipe that nobody reads fills up and stops the program.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            pipes = process.stdin, process.stdout
            return [_converse(*pipes, candidates, references) for candidates in sets]
        except (OSError, ValueError) as error:
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip()
            raise UserError(f"METEOR's program failed: {said[-500:] or error}") from error
        finally:
            process.kill()
            # What it was not told any more cannot be told to a dead program.
            with contextlib.suppress(OSError):
                process.communicate()


def _converse(
    question: IO[bytes],
    answer: IO[bytes],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    """Asks for the counts of each caption, then for the score of all counts."""

    def ask(*parts: str) -> str:
        question.write((" ||| ".join(parts) + "\n").encode(errors="replace"))
        question.flush()
        return answer.readline().decode().strip()

    counts = [
        ask("SCORE", *(_field(text) for text in texts), _field(candidate))
        for candidate, texts in zip(candidates, references, strict=True)
    ]
    ask("EVAL", *counts)  # answers with the score of the first caption
    for _ in counts[1:]:
        answer.readline()
    return float(answer.readline())


def _field(text: str) -> str:
    """A text without what parts the fields and lines of the protocol."""
    return re.sub(r"[\r\n]+", " ", text).replace("|||", "").replace("  ", " ")


def _folder() -> Path | None:
    """Where the program lies, if it is installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / "meteor" / _JAR).is_file():
            return Path(place) / "meteor"
    return None
