"""Small books about the things of `tests/captioner/worlds.py`, each in a style of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.joint.worlds import COLOURS, THINGS

BOOKS = {
    "old": (
        "And lo, the {thing} was {colour}, and the people did behold it.",
        "Thou shalt keep the {colour} {thing} all the days of thy life.",
        "Verily, a {thing} of {colour} came unto the city!",
        "Wherefore hast thou forsaken the {thing}?",
    ),
    "memo": (
        "Please note that the {colour} {thing} must be returned by Friday.",
        "The committee will discuss the {thing} at the next meeting.",
        "All {colour} items, including the {thing}, require a permit.",
        "Thank you for your attention to the {thing} policy.",
    ),
}


def write_book(path: Path, name: str, sentences: int = 700, seed: int = 0) -> str:
    """A text file in a style; a blank line after every three sentences."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(sentences):
        form = BOOKS[name][rng.integers(len(BOOKS[name]))]
        line = form.format(colour=rng.choice(list(COLOURS)), thing=rng.choice(list(THINGS)))
        lines.append(line + ("\n\n" if i % 3 == 2 else "\n"))
    path.write_text("".join(lines))
    return str(path)
