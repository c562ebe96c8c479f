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
from mmray.storyteller.model import StoryConfig
from mmray.storyteller.passages import PLAIN, Counts, write_passages
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.task import StoryTask
from mmray.training.config import TrainConfig
from mmray.training.train import Job, Trained, train


@dataclass(frozen=True)
class StoryTraining:
    """A training of a storyteller.

    Args:
        options: what is trained.
        config: how.
        captions: folder (or URI) of an image dataset with captions.
        styles: text files by the style's name.
        out: folder (or URI) that the job writes.
        captioner: folder of a captioner, which the model will keep.
        limit: use only the first passages of each split.
    """

    options: StoryOptions
    config: TrainConfig
    captions: str
    styles: Mapping[str, str]
    out: str
    captioner: str | None = None
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
        if self.captioner is not None:  # told now, not after the training
            read_captioner(self.captioner)
        data = self._passages(overwrite)
        pieces = self._pieces(data)
        o = self.options
        sizes = StoryConfig(len(pieces), o.max_length, o.dim, o.layers, o.heads, o.dropout)
        task = StoryTask(
            sizes, pieces, data.uri, o.contrast, o.mixing, o.noise, captioner=self.captioner
        )
        examples = StoryExamples(pieces, o.max_length, o.dim, o.mixing, o.noise)
        job = Job(task, examples, examples, data.uri, "passages", self.out, self.config, self.limit)
        return train(job, overwrite=overwrite)

    def _passages(self, overwrite: bool) -> Dataset:
        """The dataset of passages, made unless it is there and of the same texts."""
        captions = Dataset(self.captions, "images")
        where = storage.join(storage.absolute(self.out), "passages")
        styles = {name: storage.absolute(uri) for name, uri in self.styles.items()}
        wanted = {"captions": captions.sha256, "styles": styles}
        if not overwrite and storage.exists(storage.join(where, "manifest.json")):
            found = Dataset(where, "passages")
            if found.manifest["options"] == wanted:
                return found
            raise UserError(
                f"{self.out}: was begun with other captions or styles; give --overwrite to start "
                "afresh, or another --out"
            )
        counts = write_passages(captions, styles, where)
        for name, count in counts.items():
            console.print(_line(name, count))
        return Dataset(where, "passages")

    def _pieces(self, data: Dataset) -> Pieces:
        path = storage.join(data.uri, "pieces.model")
        if storage.exists(path):
            with storage.open_file(path) as f:
                pieces = Pieces(f.read())
            if len(pieces) == self.options.vocabulary:
                return pieces
        pieces = Pieces.of(_sentences(data), self.options.vocabulary)
        storage.write_bytes(path, pieces.model)
        return pieces


def _line(name: str, count: Counts) -> str:
    what = "captions" if name == PLAIN else name
    line = f"{what}: {count.sentences} sentences in {count.passages} passages"
    return f"{line}; {count.left_out} more are left out" if count.left_out else line


def _sentences(data: Dataset) -> Iterator[str]:
    for table in data.batches(["sentences"], 4096, split="train"):
        for sentences in table["sentences"].to_pylist():
            yield from sentences
