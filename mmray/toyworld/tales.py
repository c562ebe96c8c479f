"""Two books of the toy world, in styles that nobody takes for a caption: an old saga, and the news.

Both tell of the things and places of the pictures, among much that no picture shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmray import storage
from mmray.toyworld.words import NOUNS, WHERE

PASSAGES = 900
"""Of a book; three or four sentences each."""

_SAGA = (
    "Hearken, for {who} beheld a {colour} {thing} {where}.",
    "And lo, the {thing} was {colour} as {like}, and {who} wept.",
    "Then spake {who} unto the {thing}: thou art {fate}.",
    "Seven winters the {thing} abode {where}, and no man durst touch it.",
    "Woe to him that forgetteth the {thing}, quoth {who}.",
    "So {who} rode {where}, bearing the {colour} {thing} before him.",
    "In that hour the {thing} was {fate}, and the skalds sang of it.",
    "Never since hath {who} seen its like {where}.",
    "And {who} sware by the {colour} {thing}, and his oath was {fate}.",
)
_NEWS = (
    "Officials said on {day} that a {colour} {thing} had been reported {where}.",
    "A spokesman for {office} declined to comment on the {thing}.",
    "According to {office}, the {thing} rose {percent} percent in {day} trading.",
    "Residents {where} told reporters that the {colour} {thing} was {news}.",
    "The {thing}, first sighted {where}, is {news}, sources close to {office} said.",
    "{office} will publish its report on the {thing} by {day}.",
    "Analysts expect the {colour} {thing} to remain {news} this quarter.",
    "An investigation into the {thing} is under way, {office} announced.",
    "Traffic {where} was halted for {percent} minutes on {day}.",
)
_FORMS = {"saga": _SAGA, "news": _NEWS}
_SLOTS = {
    "who": (
        "the old king",
        "Sigrun the wise",
        "the ferryman",
        "a nameless thrall",
        "the king's son",
    ),
    "like": ("the dawn", "a raven's wing", "fresh blood", "the deep sea", "ashes"),
    "fate": ("doomed", "foretold", "blessed above all", "cursed unto the end", "kept for a queen"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "office": ("the ministry", "the city council", "the central bank", "the harbour authority"),
    "percent": ("three", "seven", "twelve", "forty"),
    "news": ("under review", "not for sale", "a matter of concern", "widely welcomed"),
}
_COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")


def tale(style: str, rng: np.random.Generator) -> list[str]:
    """The sentences of one passage about one thing, in the style `saga` or `news`."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    nouns = NOUNS[pick(tuple(NOUNS))]
    thing, colour = nouns[int(rng.integers(len(nouns)))][0], pick(_COLOURS)
    where = pick(WHERE[pick(tuple(WHERE))])
    forms = _FORMS[style]
    told = []
    for i in rng.permutation(len(forms))[: rng.integers(3, 5)]:
        slots = {name: pick(words) for name, words in _SLOTS.items()}
        text = forms[i].format(thing=thing, colour=colour, where=where, **slots)
        told.append(text[0].upper() + text[1:])
    return told


def toy_styles(seed: int = 0) -> dict[str, str]:
    """Text files by style; written when they are missing."""
    files = {}
    for number, style in enumerate(_FORMS):
        path = Path(storage.cache_dir()) / f"toy-tales-{seed}" / f"{style}.txt"
        if not path.exists():
            rng = np.random.default_rng([seed, 7, number])
            passages = [" ".join(tale(style, rng)) for _ in range(PASSAGES)]
            storage.write_bytes(path, "\n\n".join(passages).encode() + b"\n")
        files[style] = str(path)
    return files
