"""What finds sentences about a picture, for stories to be about: a captioner, or a joint model.

A captioner writes its best captions. A joint model of pictures and tags knows which captioned
pictures are the most like this one, and what people wrote about those, as in the original.
A storyteller's folder keeps the one that it was trained with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from mmray import storage
from mmray.captioner.data import as_places
from mmray.captioner.evaluate import check_backbone
from mmray.captioner.predict import Captioner
from mmray.errors import UserError
from mmray.joint.index import Index
from mmray.joint.predict import Tagger
from mmray.media.image import Fit
from mmray.models import read_config
from mmray.pipeline.dataset import Dataset, read_table, tensor, write_table
from mmray.pipeline.images import backbone_of
from mmray.storyteller import texts
from mmray.teachers.stored import check_same_nets

CAPTIONS = 5
"""Sentences about each picture."""
CAPTIONER, NEAREST = "captioner", "nearest"
"""Folders in a storyteller's folder, one of which is there or none."""


class Describer(Protocol):
    """Finds sentences about pictures."""

    @property
    def backbone(self) -> Mapping[str, Any]:
        """The record of the frozen nets that see the pictures."""

    @property
    def column(self) -> str:
        """The column of an image dataset that it sees."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the sentences depend on."""

    @property
    def square(self) -> tuple[int, Fit]:
        """The side in pixels, and the fit, of the squares that the nets see."""

    def check(self, dataset: Dataset) -> None:
        """Raise a `UserError` when the dataset's features are of other nets."""

    def see(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """What the nets make of pixels uint8 [H, W, 3]: float32 [B, ...], as in the column."""

    def describe(self, seen: np.ndarray) -> list[list[str]]:
        """Up to `CAPTIONS` sentences about each picture, of what `see` gave."""


class Writing:
    """The best captions that a captioner writes.

    Args:
        captioner: ready to use.
    """

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.backbone = captioner.stored.backbone
        self.column = captioner.stored.column

    @property
    def fingerprint(self) -> str:
        """See `Describer`."""
        return self.captioner.fingerprint

    @property
    def square(self) -> tuple[int, Fit]:
        """See `Describer`."""
        return self.captioner.backbone.size, self.captioner.backbone.fit

    def check(self, dataset: Dataset) -> None:
        """See `Describer`."""
        check_backbone("--model", self.captioner, dataset)

    def see(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """See `Describer`."""
        return self.captioner.see(pixels)

    def describe(self, seen: np.ndarray) -> list[list[str]]:
        """See `Describer`."""
        found = self.captioner.captions_of(as_places(seen), CAPTIONS, CAPTIONS)
        return [[caption.caption for caption in captions] for captions in found]


class Nearest:
    """What people wrote about the pictures that a joint model finds the most alike.

    Args:
        tagger: the joint model.
        index: of captioned pictures.
        captions: of each of those.
    """

    column = "features"

    def __init__(self, tagger: Tagger, index: Index, captions: list[list[str]]) -> None:
        self.tagger, self.index, self.captions = tagger, index, captions
        self.backbone = tagger.scorer.backbone

    @property
    def fingerprint(self) -> str:
        """See `Describer`."""
        return f"{self.tagger.fingerprint} {hash_of(self.captions)}"

    @property
    def square(self) -> tuple[int, Fit]:
        """See `Describer`."""
        return self.tagger.backbone.size, self.tagger.backbone.fit

    def check(self, dataset: Dataset) -> None:
        """See `Describer`."""
        check_same_nets(self.tagger.scorer.backbone, backbone_of(dataset), dataset.uri)

    def see(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """See `Describer`."""
        return self.tagger.backbone(pixels)

    def describe(self, seen: np.ndarray) -> list[list[str]]:
        """See `Describer`; one sentence of each of the nearest pictures, the first they have."""
        if not len(seen):
            return []
        found = self.index.search(self.tagger.scorer.picture_vectors(seen), CAPTIONS).positions
        return [[self.captions[i][0] for i in row if i >= 0] for row in found.tolist()]


def write_nearest(joint: str, dataset: Dataset, where: str) -> None:
    """Make the folder of a `Nearest`, unless it is there.

    Args:
        joint: folder of a joint model.
        dataset: of captioned pictures; those of the split train will be found.
        where: the folder.

    Raises:
        UserError: no joint model, features of other nets than its own, or no captions.
    """
    if (kind := read_config(joint).get("kind")) != "joint":
        raise UserError(f"--joint {joint}: holds a model of kind {kind!r}, expected 'joint'")
    tagger = Tagger.load(joint, "cpu")
    check_same_nets(tagger.scorer.backbone, backbone_of(dataset), dataset.uri)
    made_of = {"joint": tagger.fingerprint, "captions": dataset.sha256}
    record = storage.join(where, "nearest.json")
    if storage.exists(record) and storage.read_json(record) == made_of:
        return
    storage.remove(where)
    blocks: list[np.ndarray] = []
    captions: list[list[str]] = []
    for features, known in _captioned(dataset):
        blocks.append(tagger.scorer.picture_vectors(features))
        captions += known
    if not captions:
        raise UserError(f"{dataset.uri}: no picture of the split 'train' has a caption")
    numbers = [str(i) for i in range(len(captions))]
    copy_folder(joint, storage.join(where, "joint"))
    index = Index.build(np.concatenate(blocks), numbers, model=tagger.fingerprint)
    index.save(storage.join(where, "index"))
    table = pa.table({"captions": pa.array(captions, pa.list_(pa.string()))})
    write_table(storage.join(where, "captions.parquet"), table)
    storage.write_json(record, made_of)


def load_describer(where: str, kind: str, device: str, threads: int) -> Describer:
    """The describer in a folder that is called `kind` in a storyteller's folder.

    Raises:
        UserError: nothing usable is there.
    """
    if kind == CAPTIONER:
        return Writing(Captioner.load(where, device, threads))
    tagger = Tagger.load(storage.join(where, "joint"), device, None, threads)
    index = Index.load(storage.join(where, "index"), model=tagger.fingerprint)
    captions = read_table(storage.join(where, "captions.parquet"))["captions"].to_pylist()
    return Nearest(tagger, index, captions)


def copy_folder(source: str, target: str) -> None:
    """Copy a folder, with the folders in it."""
    if storage.absolute(source) == storage.absolute(target):
        return
    storage.remove(target)
    for file in storage.walk(source):
        with storage.open_file(storage.join(source, file)) as f:
            storage.write_bytes(storage.join(target, file), f.read())


def hash_of(captions: Sequence[Sequence[str]]) -> str:
    """A hash of captions."""
    return hashlib.sha256(json.dumps(captions).encode()).hexdigest()


def _captioned(dataset: Dataset) -> Iterator[tuple[np.ndarray, list[list[str]]]]:
    """Features and captions of the training pictures that have captions."""
    for table in dataset.batches(["features", "captions"], 1024, split="train"):
        known = [
            [texts.as_sentence(c) for c in row or [] if texts.mostly_letters(c)]
            for row in table["captions"].to_pylist()
        ]
        there = [i for i, found in enumerate(known) if found]
        if there:
            features = tensor(table["features"])[there].astype(np.float32)
            yield features, [known[i] for i in there]
