"""Pictures of a dataset as a joint model sees them, to show, to search and to measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmray.errors import UserError
from mmray.joint.arithmetic import label_kind, label_word, nearest
from mmray.joint.finish import VISUAL_AUC
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures
from mmray.joint.vocabulary import normalised, presence
from mmray.pipeline.dataset import Dataset, tensor
from mmray.report.page import Media

MOST_ASKED = 2_000
"""Pictures of the split that are measured."""
MOST_OTHERS = 2_000
"""Pictures of the other splits that are searched, too."""
NEAREST = 6
"""Pictures that are shown for a query."""
NUM_NAMES = 10
"""Names that have a colour of their own."""
_COLUMNS = ("id", "split", "features", "tags", "labels", "thumbnail")


@dataclass(frozen=True)
class Gallery:
    """N pictures; those of the split that is shown come first.

    Args:
        pictures: all of them; tags are those that the model knows.
        written: what people wrote of each: all tags, normalised.
        thumbnails: of each.
        vectors: to search in, unit vectors [N, d].
        num_asked: how many of them are of the split.
        tagger: the model.
    """

    pictures: Pictures
    written: list[list[str]]
    thumbnails: list[bytes | None]
    vectors: np.ndarray
    num_asked: int
    tagger: Tagger

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def asked(self) -> Pictures:
        """The pictures of the split."""
        return self.pictures.take(np.arange(self.num_asked))

    @cached_property
    def told(self) -> np.ndarray:
        """Which tags pictures tell, bool [V]; the others are not generated."""
        return np.asarray(self.tagger.scorer.visual >= VISUAL_AUC)

    @cached_property
    def near(self) -> np.ndarray:
        """The `NEAREST` pictures of each picture of the split, int64 [A, k]; never itself."""
        return np.stack(
            [self.found(self.vectors[i][None], i) for i in range(self.num_asked)]
        ).astype(np.int64)

    def found(
        self, pictures: np.ndarray, row: int, plus: Sequence[str] = (), minus: Sequence[str] = ()
    ) -> np.ndarray:
        """Rows [k] that `Tagger.combine` of all that finds, the nearest first, without `row`."""
        query = self.tagger.combine(pictures, plus, minus)
        return nearest(self.vectors, query, row, NEAREST)

    def shown(self, items: int) -> dict[str, list[int]]:
        """The first pictures of the split that have tags, and the first of those that have none.

        At most `items` in all; of pictures without tags a quarter, or more where others are few.
        """
        rows = range(self.num_asked)
        bare = [i for i in rows if not self.written[i]]
        tagged = [i for i in rows if self.written[i]]
        few = min(len(bare), max(items // 4, items - len(tagged)))
        return {"with tags": tagged[: items - few], "that nobody gave a tag": bare[:few]}

    def card(self, i: int, media: Media, right: bool = False) -> dict[str, Any]:
        """A picture with its tags, as `joint.html` shows it."""
        return {
            "id": self.pictures.ids[i],
            "picture": media.picture(self.thumbnails[i]),
            "tags": self.written[i],
            "right": right,
        }

    def named(self, rows: Sequence[int]) -> tuple[str, list[str]]:
        """A name for each picture to colour it by, and what kind of name it is.

        Labels of the first kind that there is, where there are any; else tags that pictures tell.
        Names that are not among the commonest are `other`.
        """
        labels = [self.pictures.labels[i] for i in rows]
        kind = next((label_kind(label) for found in labels for label in found), None)
        if kind is None:
            tags, told = self.tagger.vocabulary.tags, self.told
            has = self.pictures.tags
            mine = [[tags[j] for j in np.flatnonzero(has[i] & told)] for i in rows]
        else:
            mine = [[label_word(x) for x in found if label_kind(x) == kind] for found in labels]
        counts = Counter(name for names in mine for name in names)
        most = NUM_NAMES if len(counts) <= NUM_NAMES else NUM_NAMES - 1
        listed = [name for name, _ in counts.most_common(most)]
        chosen = [
            next((name for name in listed if name in names), "other" if names else "none")
            for names in mine
        ]
        return ("tag" if kind is None else kind or "label"), chosen


def read_gallery(tagger: Tagger, dataset: Dataset, split: str, limit: int | None = None) -> Gallery:
    """Read the first pictures of a split, and others to search in; nothing is decoded.

    Args:
        tagger: the model.
        dataset: pictures with features of its backbone.
        split: whose first `MOST_ASKED` pictures are asked about.
        limit: only so many of these.

    Raises:
        UserError: there are fewer than two pictures, or none of the split.
    """
    most = min(limit or MOST_ASKED, MOST_ASKED)
    tables = list(dataset.batches(_COLUMNS, 1024, split, most))
    num_asked = sum(table.num_rows for table in tables)
    if not num_asked:
        raise UserError(f"{dataset.uri}: has no pictures of the split {split!r} to show")
    tables += _others(dataset, split)
    ids = [name for table in tables for name in table["id"].to_pylist()]
    if len(ids) < 2:
        raise UserError(f"{dataset.uri}: has one picture, so that it is near no other")
    features = np.concatenate([tensor(table["features"]).astype(np.float32) for table in tables])
    labels, written, thumbnails = (
        [value for table in tables for value in table[name].to_pylist()]
        for name in ("labels", "tags", "thumbnail")
    )
    written = [normalised(tags or []) for tags in written]
    pictures = Pictures(
        features, presence(tagger.vocabulary, written), [found or [] for found in labels], ids
    )
    vectors = tagger.scorer.picture_vectors(features)
    return Gallery(pictures, written, thumbnails, vectors, num_asked, tagger)


def _others(dataset: Dataset, split: str) -> Iterator[pa.Table]:
    """The first pictures of the other splits."""
    left = MOST_OTHERS
    for table in dataset.batches(_COLUMNS, 1024):
        part = table.filter(pc.not_equal(table["split"], split)).slice(0, left)
        left -= part.num_rows
        if part.num_rows:
            yield part
        if not left:
            return
