"""Which of several passages is told: the one that is about the picture, in style, and whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

import numpy as np

from mmray.captioner.decode import END, UNKNOWN
from mmray.storyteller.decode import LOOP
from mmray.storyteller.styles import Style
from mmray.storyteller.texts import words_of

STYLE, ODDS = 2.0, 3.0
"""Weight of the style at full strength, and log-odds of which more hardly counts."""
FLUENCY = 0.25
"""Weight of the mean log-probability of a passage's pieces."""
LENGTH, LONG = 0.5, 40
"""What a passage of so many pieces, or more, has ahead of an empty one."""
STRANGE = 1.0
"""What a word costs that no text has."""
FAULT = 20.0
"""What a fault costs: more than all else together, so that faulty passages come last."""


def values(
    match: np.ndarray,
    log_odds: np.ndarray,
    fluency: np.ndarray,
    length: np.ndarray,
    strange: np.ndarray,
    faulty: np.ndarray,
    strength: float,
) -> np.ndarray:
    """How good passages are, all float [B, n]; see `Story` for what is told of them.

    At strength .5 the vector alone decides of the style: what is asked for, and no more.
    """
    style = STYLE * (2 * strength - 1) * np.tanh(log_odds / ODDS)
    costs = STRANGE * np.minimum(strange, 4) + FAULT * faulty
    told = match + style + FLUENCY * np.maximum(fluency, -5)
    return told + LENGTH * np.minimum(length / LONG, 1) - costs


def log_odds(told: list[list[list[int]]], style: Style, plain: Style) -> np.ndarray:
    """By how much texts tell of a style rather than of captions: float [N].

    The mean over pieces of the difference of the logarithms of their shares.

    Args:
        told: the pieces of the sentences of each text.
        style: of the book.
        plain: of captions.
    """
    difference = style.preference - plain.preference
    pieces = [[piece for sentence in text for piece in sentence] for text in told]
    return np.array([float(difference[p].mean()) if p else 0.0 for p in pieces])


def strange_words(texts: list[str], known: Set[str]) -> np.ndarray:
    """How many words of each text are none: float [N]."""
    counts = [
        sum(word not in known and not any(map(str.isdigit, word)) for word in words_of(text))
        for text in texts
    ]
    return np.array(counts, np.float32)


def faults(tokens: np.ndarray) -> np.ndarray:
    """1 for passages that loop, that do not end, or that are empty: [B, n, L] -> float [B, n]."""
    found = np.zeros(tokens.shape[:2], np.float32)
    for place in np.ndindex(*found.shape):
        pieces = [int(t) for t in tokens[place] if t > UNKNOWN]
        runs = Counter(tuple(pieces[i : i + LOOP]) for i in range(len(pieces) - LOOP + 1))
        loops = any(count > 1 for count in runs.values())
        found[place] = float(loops or len(pieces) < 2 or END not in tokens[place])
    return found
