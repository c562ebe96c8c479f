"""From an image dataset and a few choices to the training jobs of a captioner."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from mmray import storage
from mmray.captioner.config import CaptionOptions
from mmray.captioner.data import CaptionExamples, caption_lists, frequencies_of
from mmray.captioner.model import CaptionConfig
from mmray.captioner.naming import Names, names_of
from mmray.captioner.task import CaptionTask, RewardTask
from mmray.captioner.tokenise import tokenise
from mmray.captioner.vocabulary import Words
from mmray.cli import console
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import backbone_of, grid_of
from mmray.pipeline.statistics import feature_statistics
from mmray.training.checkpoint import Checkpoints
from mmray.training.config import TrainConfig
from mmray.training.loader import rows_of
from mmray.training.train import Job, Trained, train


@dataclass(frozen=True)
class CaptionTraining:
    """A training of a captioner.

    Args:
        options: what is trained.
        config: how.
        data: folder (or URI) of the image dataset.
        out: folder (or URI) that the job writes.
        limit: use only the first pictures of each split.
    """

    options: CaptionOptions
    config: TrainConfig
    data: str
    out: str
    limit: int | None = None

    def run(self, *, overwrite: bool = False) -> Trained:
        """Train, or go on; then, with `scst`, on what it writes itself.

        Raises:
            UserError: bad options, or a dataset that they do not fit.
        """
        self.options.check()
        self.config.check()
        dataset = Dataset(self.data, "images")
        words = self._words(dataset)
        task = self._task(dataset, words)
        if not self.options.scst:
            return train(self._job(task, self.out, self.config), overwrite=overwrite)
        self._check_rewards(dataset, overwrite)
        console.print("first on people's captions")
        first = storage.join(self.out, "cross_entropy")
        found = train(self._job(task, first, self.config), overwrite=overwrite)
        console.print("now on what it writes itself")
        rewarded = self._rewarded(task, dataset, found.path)
        config = dataclasses.replace(
            self.config,
            steps=None,
            epochs=self.options.scst_epochs,
            lr=self.options.scst_lr,
            schedule="constant",
            warmup=0,
        )
        trained = train(self._job(rewarded, self.out, config), overwrite=overwrite)
        if "cider" in trained.metrics:
            before, after = found.metrics["cider"], trained.metrics["cider"]
            console.print(f"CIDEr on the split val: {before:.3f} before rewards, {after:.3f} after")
        return trained

    def _check_rewards(self, dataset: Dataset, overwrite: bool) -> None:
        """Refuse early what would fail after the first of the two trainings."""
        state = None if overwrite else Checkpoints(storage.absolute(self.out)).newest()
        if state is not None and not state.settings.get("rewards"):
            raise UserError(
                f"--scst: {self.out} holds a training without it; choose another --out, or give "
                "--overwrite"
            )
        pictures = itertools.islice(caption_lists(dataset, "train", self.limit), 2)
        if len(list(pictures)) < 2:
            raise UserError(
                "--scst: rewards need the captions of two or more training pictures; with one, "
                "every phrase weighs nothing"
            )

    def _words(self, dataset: Dataset) -> Words:
        """The vocabulary; says what of the captions is used."""
        texts = pictures = cut = 0

        def told() -> Iterator[str]:
            nonlocal texts, pictures, cut
            for captions in caption_lists(dataset, "train", self.limit):
                pictures += 1
                texts += len(captions)
                cut += sum(len(tokenise(c).split()) > self.options.max_length for c in captions)
                yield from captions

        if next(caption_lists(dataset, "train", self.limit), None) is None:
            others = sum(1 for s in ("val", "test") for _ in caption_lists(dataset, s))
            raise UserError(
                f"{dataset.uri}: no picture of the split 'train' has a caption, {others} of the "
                "others have; give captions, or put more captioned pictures into 'train'"
            )
        words = Words.of(told(), self.options.min_count, self.options.max_words)
        total = min(len(rows_of(dataset, "train")), self.limit or 10**12)
        console.print(
            f"{self.data}: {texts} captions of {pictures} training pictures, "
            f"{len(words.words)} words"
        )
        if cut:
            console.print(f"cut {cut} captions longer than --max-length {self.options.max_length}")
        if pictures < total:
            console.print(f"{total - pictures} training pictures have no caption and teach nothing")
        return words

    def _task(self, dataset: Dataset, words: Words) -> CaptionTask:
        options, grid = self.options, grid_of(dataset)
        if options.arch == "attention" and grid is None:
            raise UserError(
                f"--arch attention: {dataset.uri} has only pooled features, no places to look at; "
                "prepare the pictures with --grid, or take --arch transformer or lstm"
            )
        use_grid = grid is not None and options.arch != "lstm"
        column = "grid" if use_grid else "features"
        names = self._names(dataset, words, column)
        config = CaptionConfig(
            arch=options.arch,
            feature_dim=grid[2] if grid and use_grid else int(backbone_of(dataset)["dim"]),
            places=grid[0] * grid[1] if grid and use_grid else 1,
            num_tokens=len(words),
            num_names=len(names.words) if names else 0,
            num_classes=len(names.classes) if names else 0,
            max_length=options.max_length,
            dim=options.dim,
            layers=options.layers,
            heads=options.heads,
            dropout=options.dropout,
        )
        limits = [n for n in (self.limit, self.config.eval_limit) if n is not None]
        val = list(caption_lists(dataset, "val", min(limits)))
        if not val and len(rows_of(dataset, "val")):
            raise UserError(
                f"{dataset.uri}: no picture of the split 'val' has a caption, so that nothing says "
                "which checkpoint is the best; give some of them captions"
            )
        return CaptionTask(
            config,
            dataclasses.replace(words, names=names.words) if names else words,
            feature_statistics(dataset, self.limit, column),
            frequencies_of(iter(val), end=False) if len(val) > 1 else None,
            storage.absolute(self.data),
            options.captions,
            options.smoothing,
            names=names,
        )

    def _names(self, dataset: Dataset, words: Words, column: str) -> Names | None:
        """What the backbone calls things, if asked for; says how much of it is new."""
        if not self.options.copy_names:
            return None
        names = names_of(dataset, column)
        new = len({*names.words} - {*words.words})
        console.print(
            f"{len(names.classes)} classes of the backbone have {len(names.words)} different names "
            f"(their last words), {new} of which no training caption has"
        )
        return names

    def _rewarded(self, task: CaptionTask, dataset: Dataset, start: str) -> RewardTask:
        known = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
        frequencies = frequencies_of(caption_lists(dataset, "train", self.limit), end=True)
        return RewardTask(
            **{**known, "start": start}, train_frequencies=frequencies, samples=self.options.samples
        )

    def _job(self, task: CaptionTask, out: str, config: TrainConfig) -> Job:
        rewarded = isinstance(task, RewardTask)
        examples = CaptionExamples(
            task.words,
            self.options.max_length,
            task.config.places > 1,
            self.options.captions,
            rewards=rewarded,
            samples=self.options.samples if rewarded else 0,
            names=task.names is not None,
        )
        held_out = dataclasses.replace(
            examples, rewards=task.val_frequencies is not None, samples=0
        )
        return Job(task, examples, held_out, self.data, "images", out, config, self.limit)
