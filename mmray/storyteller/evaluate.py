"""How much of a style, and how much of the picture, is in stories."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from mmray.captioner.evaluate import others_captions, read_captioned
from mmray.errors import UserError
from mmray.models import read_config
from mmray.pipeline.dataset import Dataset
from mmray.storyteller.judge import (
    ContentJudge,
    LanguageModel,
    StyleJudge,
    content_judge,
    copied,
    distinct,
    repeated,
)
from mmray.storyteller.passages import PLAIN, passages_of
from mmray.storyteller.predict import Storyteller

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""That are measured."""
RANDOM = "random"
"""A direction of no style, as long as that of the style: a control."""
RECALL_AT = 10
"""Pictures among which a story should find its own."""
MOST_JUDGED = 2000
"""Passages of a style that judges learn from, and are judged on."""


@dataclass
class Evaluation:
    """What was measured.

    Args:
        metrics: by flat names; those of one style begin with its name.
        examples: of each style, captions and stories at full strength of the first pictures.
        judge: of content.
    """

    metrics: dict[str, float]
    examples: dict[str, list[tuple[str, str]]]
    judge: str


def evaluate(
    storyteller: Storyteller,
    dataset: Dataset,
    passages: Dataset,
    split: str = "test",
    limit: int | None = 100,
    report: Callable[[str], None] = lambda text: None,
    seed: int = 0,
) -> Evaluation:
    """Tell stories of every style and strength about pictures, and judge them.

    Args:
        storyteller: the model; must be able to look at pictures.
        dataset: of captioned pictures.
        passages: that the storyteller was trained on; judges learn from the split val.
        split: of the pictures.
        limit: use only the first pictures.
        report: called with what is done next.
        seed: of the stories and of the shuffled control.

    Raises:
        UserError: model and datasets do not belong together, or there are no captions.
    """
    describer = storyteller.need_describer()
    describer.check(dataset)
    test = read_captioned(dataset, split, describer.column, limit)
    report("captions")
    captions = describer.describe(test.features if describer.column == "features" else test.places)
    truth = [" ".join(texts) for texts in test.captions]
    style_judge, accuracy = _style_judge(passages)
    judge = content_judge(truth)
    metrics: dict[str, float] = {}
    examples = {}
    learned = _names(passages)
    measured = [name for name in storyteller.styles if name in learned]
    if added := sorted({*storyteller.styles} - {*measured}):
        report(f"not measured, for there are no passages to judge by: {', '.join(added)}")
    if not measured:
        raise UserError(
            f"{passages.uri}: has none of the model's styles ({', '.join(storyteller.styles)}); "
            "give the --passages that it was trained on"
        )
    for style in measured:
        report(f"stories: {style}")
        book = _Book(storyteller, style, style_judge, judge, passages)
        metrics |= book.measure(captions, truth, seed)
        examples[style] = [(told[0], text) for told, text in zip(captions, book.full, strict=True)]
    metrics |= _means(metrics, measured)
    more = {"retrieval.r10": metrics["retrieval.r10.0.5"], "judge.accuracy": accuracy}
    return Evaluation({**metrics, **more, "pictures": len(truth)}, examples, judge.name)


def passages_of_model(model: str) -> str:
    """Where the passages are that a storyteller was trained on; "" where its folder does not say.

    Args:
        model: a model folder.
    """
    return str(read_config(model).get("training", {}).get("data", ""))


@dataclass
class _Book:
    """One style under judgement."""

    storyteller: Storyteller
    style: str
    style_judge: StyleJudge
    judge: ContentJudge
    passages: Dataset
    full: list[str] = dataclasses.field(default_factory=list)
    ended: list[bool] = dataclasses.field(default_factory=list)

    def measure(self, captions: list[list[str]], truth: list[str], seed: int) -> dict[str, float]:
        """The numbers of this style, by flat names."""
        language = LanguageModel(texts_of(self.passages, self.style, "val"))
        wanted = self.judge(truth)
        found: dict[str, float] = {}
        for strength in STRENGTHS:
            texts = self._tell(self.storyteller, captions, strength, seed)
            seen = self.judge(texts)
            found[f"style.{strength:g}"] = self._in_style(texts)
            found[f"content.{strength:g}"] = float((seen * wanted).sum(1).mean())
            found[f"retrieval.r10.{strength:g}"] = recall(seen, wanted)
            found[f"perplexity.{strength:g}"] = language.perplexity(texts)
            if strength == 0.5:
                others = self.judge(others_captions(texts, seed))
                found["shuffled.content"] = float((others * wanted).sum(1).mean())
                found["shuffled.retrieval.r10"] = recall(others, wanted)
            self.full = texts
        found |= self._language(self.full)
        found |= self._random(captions, wanted, seed)
        return {f"{self.style}.{name}": value for name, value in found.items()}

    def _language(self, texts: list[str]) -> dict[str, float]:
        learned = (text for text in texts_of(self.passages, self.style, "train"))
        return {
            "copied8": copied(texts, learned),
            "distinct3": distinct(texts),
            "loops4": repeated(texts),
            "empty": float(np.mean([not text.strip() for text in texts])),
            "cut": float(np.mean([not ended for ended in self.ended])),
            "words": float(np.mean([len(text.split()) for text in texts])),
        }

    def _random(self, captions: list[list[str]], wanted: np.ndarray, seed: int) -> dict[str, float]:
        """The same at full strength with a direction drawn by lot."""
        stored = self.storyteller.stored
        plain, book = stored.styles[PLAIN], stored.styles[self.style]
        drawn = np.random.default_rng(seed).normal(size=book.vector.shape)
        length = np.linalg.norm(book.vector - plain.vector)
        vector = plain.vector + (drawn * length / np.linalg.norm(drawn)).astype(np.float32)
        astray = dataclasses.replace(book, vector=vector)
        styles = {**stored.styles, self.style: astray}
        other = Storyteller(
            dataclasses.replace(stored, styles=styles), device=str(self.storyteller.device)
        )
        texts = self._tell(other, captions, 1.0, seed)
        return {
            f"{RANDOM}.style": self._in_style(texts),
            f"{RANDOM}.content": float((self.judge(texts) * wanted).sum(1).mean()),
        }

    def _tell(
        self, storyteller: Storyteller, captions: list[list[str]], strength: float, seed: int
    ) -> list[str]:
        told = storyteller.stories_of(captions, self.style, strength, seed=seed)
        self.ended = [bool(stories and stories[0].ended) for stories in told]
        return [stories[0].story if stories else "" for stories in told]

    def _in_style(self, texts: list[str]) -> float:
        return float(np.mean([name == self.style for name in self.style_judge(texts)]))


def recall(stories: np.ndarray, pictures: np.ndarray, k: int = RECALL_AT) -> float:
    """Share of stories whose own picture is among the k that they are most like.

    Args:
        stories: vectors of length 1, [N, d].
        pictures: of what people wrote about them, [N, d].
        k: at most N.
    """
    scores = stories @ pictures.T
    # Its own is the last of those that are as near: who says the same of all finds nothing.
    as_near = (scores >= np.diag(scores)[:, None]).sum(1)
    return float((as_near <= k).mean())


def _style_judge(passages: Dataset) -> tuple[StyleJudge, float]:
    """A judge that learned from the split val, and how often it is right on the split test."""
    texts: dict[str, tuple[list[str], list[str]]] = {}
    for split in ("val", "test"):
        known = {name: [*texts_of(passages, name, split)] for name in _names(passages)}
        for name, found in known.items():
            if not found:
                raise UserError(
                    f"{passages.uri}: has no passages of {name!r} of the split {split!r} to judge "
                    "by; give more text, or captioned pictures of that split"
                )
        names = [name for name, found in known.items() for _ in found]
        texts[split] = [text for found in known.values() for text in found], names
    judge = StyleJudge(*texts["val"])
    held_out, names = texts["test"]
    right = [a == b for a, b in zip(judge(held_out), names, strict=True)]
    return judge, float(np.mean(right))


def _names(passages: Dataset) -> list[str]:
    return [PLAIN, *passages.manifest["options"]["styles"]]


def texts_of(passages: Dataset, style: str, split: str) -> Iterator[str]:
    """The passages of a style; of the splits val and test the first `MOST_JUDGED`.

    Of captions, which say the same in other words, at most three of each picture.
    """
    told = passages_of(passages, style, split)
    few = told if split == "train" else itertools.islice(told, MOST_JUDGED)
    return (" ".join(sentences[: 3 if style == PLAIN else None]) for sentences in few)


def _means(metrics: dict[str, float], styles: Sequence[str]) -> dict[str, float]:
    """The mean over styles of each number."""
    names = [
        key.removeprefix(f"{styles[0]}.") for key in metrics if key.startswith(f"{styles[0]}.")
    ]
    return {name: float(np.mean([metrics[f"{s}.{name}"] for s in styles])) for name in names}


def story_table(metrics: dict[str, float], styles: Sequence[str], judge: str) -> Table:
    """What was measured, a row for each strength of each style."""
    pictures = int(metrics["pictures"])
    chance = f"R@10 by chance {RECALL_AT / pictures:.2f}"
    title = f"stories about {pictures} pictures ({chance}); content by {judge}"
    table = Table("style", "strength", "in style", "content", "R@10", "perplexity", title=title)
    for style in styles:
        for s in STRENGTHS:
            keys = [f"{style}.{n}.{s:g}" for n in ("style", "content", "retrieval.r10")]
            shown = [f"{metrics[key]:.3f}" for key in keys]
            table.add_row(style, f"{s:g}", *shown, f"{metrics[f'{style}.perplexity.{s:g}']:.0f}")
        others = [f"{metrics[f'{style}.shuffled.{n}']:.3f}" for n in ("content", "retrieval.r10")]
        table.add_row(style, "0.5, shuffled pictures", "-", *others, "-")
        astray = [f"{metrics[f'{style}.{RANDOM}.{n}']:.3f}" for n in ("style", "content")]
        table.add_row(style, "1, random direction", *astray, "-", "-")
    return table


def curve(metrics: dict[str, float], styles: Sequence[str]) -> bytes:
    """Style against content, a line for each style with a point for each strength: a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for style in styles:
        x, y = ([metrics[f"{style}.{n}.{s:g}"] for s in STRENGTHS] for n in ("style", "content"))
        (line,) = axes.plot(x, y, marker="o", label=style)
        for s, a, b in zip(STRENGTHS, x, y, strict=True):
            axes.annotate(f"{s:g}", (a, b), textcoords="offset points", xytext=(5, 5))
        others = metrics[f"{style}.shuffled.content"]
        axes.axhline(others, linestyle=":", linewidth=1, color=line.get_color())
    axes.set_xlabel("share of stories that a classifier takes for the style")
    axes.set_ylabel("cosine with what people wrote about the picture")
    axes.set_title("Style and content by strength (dotted: of other pictures)")
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()
