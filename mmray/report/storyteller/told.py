"""Stories about a few pictures, in every style and at several strengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.captioner.evaluate import captioned_rows
from mmray.pipeline.dataset import Dataset, tensor
from mmray.report import charts
from mmray.report.page import Chart, Media
from mmray.storyteller.predict import Story, Storyteller
from mmray.storyteller.texts import words_of

STRENGTHS = (0.0, 0.5, 1.0)
"""That stories are told at. Telling takes most of the time, so not all that are measured."""
COUNTED = 12
"""Stories of a picture whose words are counted. That many are drawn anyway; the best is shown."""
MOST_WORDS = 15
READ = 64
"""Rows that are read at once; a few pictures are wanted of perhaps many."""


@dataclass(frozen=True)
class Told:
    """Stories about N pictures.

    Args:
        ids: of the pictures.
        thumbnails: of each.
        references: what people wrote of each, at least one.
        captions: what its stories are about.
        stories: by style and strength, of each picture up to `COUNTED`, the best first.
    """

    ids: list[str]
    thumbnails: list[bytes | None]
    references: list[list[str]]
    captions: list[list[str]]
    stories: dict[str, dict[float, list[list[Story]]]]


def tell(
    teller: Storyteller,
    dataset: Dataset,
    split: str,
    items: int,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Told:
    """Tell stories about the first captioned pictures of a split.

    Args:
        teller: must be able to look at pictures.
        dataset: with the features that it sees, and captions.
        split: of the dataset.
        items: pictures, at most.
        seed: of the stories.
        report: called with a line of progress.

    Raises:
        UserError: the teller cannot look at these pictures, or none has a caption.
    """
    describer = teller.need_describer()
    describer.check(dataset)
    ids: list[str] = []
    thumbnails: list[bytes | None] = []
    references: list[list[str]] = []
    seen: list[np.ndarray] = []
    columns = [describer.column, "thumbnail"]
    for table, known in captioned_rows(dataset, split, columns, batch_size=READ):
        part = table.slice(0, items - len(ids))
        ids += part["id"].to_pylist()
        thumbnails += part["thumbnail"].to_pylist()
        references += known[: part.num_rows]
        seen.append(tensor(part[describer.column]).astype(np.float32))
        if len(ids) == items:
            break
    captions = describer.describe(np.concatenate(seen))
    stories: dict[str, dict[float, list[list[Story]]]] = {}
    for style in teller.styles:
        report(f"telling: {style}")
        stories[style] = {
            strength: teller.stories_of(captions, style, strength, COUNTED, seed=seed)
            for strength in STRENGTHS
        }
    return Told(ids, thumbnails, references, captions, stories)


def story_cards(told: Told, media: Media) -> list[dict[str, Any]]:
    """For each picture its captions, and by style and strength the best story; None of none."""
    return [
        {
            "id": name,
            "picture": media.picture(told.thumbnails[i]),
            "captions": told.captions[i],
            "references": told.references[i],
            "styles": {
                style: [
                    (strength, each[i][0] if each[i] else None) for strength, each in by.items()
                ]
                for style, by in told.stories.items()
            },
        }
        for i, name in enumerate(told.ids)
    ]


def typical_words(
    stories: Sequence[str], captions: Sequence[str], most: int = MOST_WORDS
) -> list[tuple[str, float, float]]:
    """The words that stories have and captions lack.

    Returns:
        At most so many words with the share of the stories and of the captions that have each, by
        the difference of the two, the largest first.
    """
    ours, theirs = _shares(stories), _shares(captions)
    order = sorted(ours, key=lambda word: (theirs[word] - ours[word], word))
    return [(word, ours[word], theirs[word]) for word in order[:most] if ours[word] > theirs[word]]


def _shares(texts: Sequence[str]) -> Counter[str]:
    """The share of the texts that have each word."""
    counts = Counter(word for text in texts for word in {*words_of(text)})
    return Counter({word: count / len(texts) for word, count in counts.items()})


def word_charts(told: Told) -> list[Chart]:
    """For each style the words that are most typical of its stories, beside the captions."""
    captions = [text for texts in told.captions for text in texts]
    found = []
    for style, by in told.stories.items():
        texts = [story.story for each in by[max(by)] for story in each]
        typical = typical_words(texts, captions)
        if not typical:
            continue
        rows = [
            {"word": word, "share that has it": share, "of": who}
            for word, *shares in typical
            for who, share in zip(("stories", "captions"), shares, strict=True)
        ]
        listed = ", ".join(f"{word} ({a:.0%} against {b:.0%})" for word, a, b in typical[:8])
        text = (
            f"Of {len(texts)} stories at strength {max(by):g}, and of the {len(captions)} captions "
            f"that they are about: {listed}."
        )
        title = f"Typical of {style}"
        found.append(charts.bars(title, text, rows, "word", "share that has it", "of"))
    return found
