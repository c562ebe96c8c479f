"""From captions and plain text to the training job of a storyteller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmray import storage
from mmray.captioner.folder import load as read_captioner
from mmray.cli import console
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.storyteller.config import StoryOptions
from mmray.storyteller.data import StoryExamples
from mmray.storyteller.describers import CAPTIONER, NEAREST, write_nearest
from mmray.storyteller.model import StoryConfig
from mmray.storyteller.passages import PLAIN, Counts, options_of, write_passages
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.splice import pivots_of
from mmray.storyteller.task import StoryTask
from mmray.training.config import TrainConfig
from mmray.training.train import Job, Trained, train

_SAMPLE = 20_000
"""Passages in which frequent words are counted."""


@dataclass(frozen=True)
class StoryTraining:
    """A training of a storyteller.

    Args:
        options: what is trained.
        config: how.
        captions: folder (or URI) of an image dataset with captions.
        styles: text files by the style's name.
        out: folder (or URI) that the job writes.
        captioner: folder of a captioner, which the model will keep to look at pictures.
        joint: folder of a joint model, in its place: the model will keep it, with the captions.
        limit: use only the first passages of each split.
    """

    options: StoryOptions
    config: TrainConfig
    captions: str
    styles: Mapping[str, str]
    out: str
    captioner: str | None = None
    joint: str | None = None
    limit: int | None = None

    def run(self, *, overwrite: bool = False) -> Trained:
        """Train, or go on.

        Raises:
            UserError: bad options, or texts that cannot be used.
        """
        self.options.check()
        self.config.check()
        if not self.styles:
            raise UserError("--style: give one or more, as NAME=FILE; any plain text is a style")
        describer = self._describer()
        data = self._passages(overwrite)
        pieces = self._pieces(data)
        o, pivots = self.options, _pivots(data)
        sizes = StoryConfig(
            len(pieces), len(pivots), o.max_length, o.dim, o.layers, o.heads, o.dropout
        )
        task = StoryTask(
            sizes, pieces, data.uri, o.contrast, o.splice, o.noise, describer=describer
        )
        examples = StoryExamples(pieces, o.max_length, o.dim, pivots, o.splice, o.noise)
        job = Job(task, examples, examples, data.uri, "passages", self.out, self.config, self.limit)
        return train(job, overwrite=overwrite)

    def _passages(self, overwrite: bool) -> Dataset:
        """The dataset of passages, made unless it is there and of the same texts."""
        captions = Dataset(self.captions, "images")
        where = storage.join(storage.absolute(self.out), "passages")
        if not overwrite and storage.exists(storage.join(where, "manifest.json")):
            found = Dataset(where, "passages")
            if found.manifest["options"] == options_of(captions, self.styles):
                return found
            raise UserError(
                f"{self.out}: was begun with other captions or styles (or their files have "
                "changed since); give --overwrite to start afresh, or another --out"
            )
        counts = write_passages(captions, self.styles, where)
        for name, count in counts.items():
            console.print(_line(name, count))
        return Dataset(where, "passages")

    def _describer(self) -> tuple[str, str] | None:
        """What the model will look at pictures with; what is wrong with it is told now."""
        if self.captioner is not None and self.joint is not None:
            raise UserError("--captioner, --joint: give one of them")
        if self.captioner is not None:
            read_captioner(self.captioner)
            return CAPTIONER, storage.absolute(self.captioner)
        if self.joint is None:
            return None
        where = storage.join(storage.absolute(self.out), NEAREST)
        write_nearest(storage.absolute(self.joint), Dataset(self.captions, "images"), where)
        return NEAREST, where

    def _pieces(self, data: Dataset) -> Pieces:
        path = storage.join(data.uri, f"pieces-{self.options.vocabulary}.model")
        if storage.exists(path):
            with storage.open_file(path) as f:
                return Pieces(f.read())
        pieces = Pieces.of(_sentences(data), self.options.vocabulary)
        storage.write_bytes(path, pieces.model)
        return pieces


def _line(name: str, count: Counts) -> str:
    what = "captions" if name == PLAIN else name
    line = f"{what}: {count.sentences} sentences in {count.passages} passages"
    line += f", those to learn from {count.repeats} times" if count.repeats > 1 else ""
    return f"{line}; what comes after them is left out" if count.cut else line


def _sentences(data: Dataset) -> Iterator[str]:
    for table in data.batches(["sentences"], 4096, split="train"):
        for sentences in table["sentences"].to_pylist():
            yield from sentences


def _pivots(data: Dataset) -> dict[str, frozenset[str]]:
    """Of each style, captions first, the words that it shares with captions."""
    names = [PLAIN, *data.manifest["options"]["styles"]]
    told: dict[str, list[str]] = {name: [] for name in names}
    sample = data.read(["style", "sentences"], split="train", limit=_SAMPLE)
    for row in sample.to_pylist():
        told[row["style"]] += row["sentences"]
    return {name: pivots_of(texts, told[PLAIN]) for name, texts in told.items()}
