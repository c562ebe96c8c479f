"""The words of captions beside people's: how long, how varied, which too often or too rarely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np

from mmray.captioner.evaluate import variety_of
from mmray.captioner.tokenise import tokenise
from mmray.report import charts
from mmray.report.captioner.written import MODEL, Written
from mmray.report.page import Chart, Grid

PEOPLE = "people"
MOST_WORDS = 12
"""Words that are shown of each kind: too often, too rarely."""
SAME = 0.05
"""Uses in 100 captions that are no difference."""
CIDER_STEPS = (0.1, 0.25, 0.5)
"""Widths of bins, of which the first that gives at most 30 is taken."""


def captions_by(written: Written) -> dict[str, list[list[str]]]:
    """All captions as words, by who wrote them: the models, then people."""
    ours = {name: [tokenise(t).split() for t in texts] for name, texts in written.texts.items()}
    return {**ours, PEOPLE: [words for known in written.tokens for words in known]}


def length_chart(captions: dict[str, list[list[str]]]) -> Chart:
    """How many words captions have, as shares of each writer's captions."""
    rows, told = [], []
    for name, texts in captions.items():
        counts = Counter(map(len, texts))
        rows += [
            {"words in a caption": n, "share of captions": counts[n] / len(texts), "of": name}
            for n in sorted(counts)
        ]
        mean = sum(n * count for n, count in counts.items()) / len(texts)
        told.append(f"{name} {mean:.1f} on average ({min(counts)} to {max(counts)})")
    return charts.histogram(
        "How long captions are",
        f"Words in a caption: {'; '.join(told)}.",
        rows,
        "words in a caption",
        "of",
        step=1,
        weight="share of captions",
    )


def cider_chart(written: Written) -> Chart:
    """How CIDEr is distributed over pictures."""
    most = max(float(values.max()) for values in written.cider.values())
    step = next((step for step in CIDER_STEPS if most / step <= 30), CIDER_STEPS[-1])
    rows, told = [], []
    for name, values in written.cider.items():
        counts = Counter(np.floor(values / step + 1e-9).astype(int).tolist())
        rows += [
            {"CIDEr": (i + 0.5) * step, "pictures": counts[i], "of": name} for i in sorted(counts)
        ]
        low, middle, high = np.percentile(values, [10, 50, 90])
        told.append(
            f"{name}: mean {values.mean():.2f}, median {middle:.2f}, a tenth of the pictures at "
            f"{low:.2f} or less, a tenth at {high:.2f} or more"
        )
    return charts.histogram(
        "CIDEr of single pictures",
        f"Of {len(written.ids):,} pictures; {'; '.join(told)}.",
        rows,
        "CIDEr",
        "of",
        step=step,
        weight="pictures",
    )


def use_chart(captions: dict[str, list[list[str]]]) -> Chart | None:
    """The words that the model uses more often, and less often, than people; None if no word is."""
    ours, theirs = (_uses(captions[name]) for name in (MODEL, PEOPLE))
    apart = {word: ours[word] - theirs[word] for word in {*ours, *theirs}}
    order = sorted(apart, key=lambda word: (-apart[word], word))
    much = [word for word in order[:MOST_WORDS] if apart[word] > SAME]
    little = [word for word in order[-MOST_WORDS:] if apart[word] < -SAME]
    if not much and not little:
        return None
    rows = [
        {
            "word": word,
            "more often than people (uses in 100 captions)": apart[word],
            "model": ours[word],
            "people": theirs[word],
        }
        for word in (*much, *little)
    ]
    told = [
        f"{what}: " + ", ".join(f"{w} ({ours[w]:.0f} against {theirs[w]:.0f})" for w in words[:6])
        for what, words in (("Used too often", much), ("Too rarely", little[::-1]))
        if words
    ]
    return charts.bars(
        "Words that the model uses more and less often than people",
        f"Uses in 100 captions. {'. '.join(told)}.",
        rows,
        "word",
        "more often than people (uses in 100 captions)",
        wide=True,
    )


def _uses(captions: Sequence[Sequence[str]]) -> Counter[str]:
    """How often each word is used in 100 captions."""
    counts = Counter(word for words in captions for word in words)
    return Counter({word: 100 * count / len(captions) for word, count in counts.items()})


def variety_grid(captions: dict[str, list[list[str]]], known: Set[str]) -> Grid:
    """How varied captions are, a row for each writer.

    Args:
        captions: see `captions_by`.
        known: the tokenised captions of training; see `mmray.captioner.evaluate.taught`.
    """
    rows = []
    for name, texts in captions.items():
        found = variety_of([" ".join(words) for words in texts], known)
        rows.append(
            [
                name,
                len(texts),
                int(found["words"]),
                found["length"],
                len({*map(tuple, texts)}) / len(texts),
                *((found["novel"], found["untaught"]) if known else (None, None)),
            ]
        )
    columns = [
        "captions of",
        "captions",
        "different words",
        "words each",
        "different captions",
        "not in training",
        "with words not in training",
    ]
    return Grid("How varied captions are (the last three are shares)", columns, rows)
