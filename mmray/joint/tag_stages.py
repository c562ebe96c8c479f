"""The stages that tag pictures: find features that are stored already, ask the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mmray import storage
from mmray.errors import MediaError
from mmray.pipeline.dataset import Dataset, open_parquet, tensor, tensor_column
from mmray.pipeline.pictures import squares_of
from mmray.pipeline.stages import Errors, failed, with_columns

if TYPE_CHECKING:
    from mmray.joint.predict import Tagger

FILE_SCHEMA = pa.schema({"id": pa.string(), "uri": pa.string()})
"""A picture to decode."""
PLACE_SCHEMA = pa.schema({"part": pa.string(), "group": pa.int32(), "row": pa.int32()})
"""A picture of an image dataset: its shard, the row group in it, and the row in that."""
TAG = pa.struct([("tag", pa.string()), ("probability", pa.float32())])


def places(dataset: Dataset, limit: int | None = None) -> Iterator[pa.Table]:
    """Where the first pictures of an image dataset are, as tables of `PLACE_SCHEMA`."""
    left = dataset.num_rows if limit is None else limit
    for group in dataset.row_groups():
        count = min(group.num_rows, left)
        left -= count
        part = group.path.rsplit("/", 1)[-1]
        rows = {"part": [part] * count, "group": [group.group] * count, "row": range(count)}
        yield pa.table(rows, schema=PLACE_SCHEMA)
        if not left:
            return


@dataclass
class ReadFeatures:
    """The rows of an image dataset, in place of those of a work list that say where they are.

    Args:
        uri: folder of the image dataset.
    """

    uri: str

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `PLACE_SCHEMA` in; `id`, `uri` and `features` out."""
        tables = []
        listed = rows.to_pylist()
        for (part, group), run in itertools.groupby(listed, lambda r: (r["part"], r["group"])):
            # The rows of a group follow one another in the work list.
            chosen = [row["row"] for row in run]
            file = open_parquet(storage.join(self.uri, part))
            table = file.read_row_group(group, columns=["id", "uri", "features"])
            tables.append(table.slice(chosen[0], len(chosen)))
        return pa.concat_tables(tables).append_column("shard", rows["shard"])


@dataclass
class TagPictures:
    """What a joint model says of each picture; pixels and features are dropped.

    Args:
        model: anything that `mmray.load` takes.
        top: how many of the likeliest tags to name.
        useless: also name tags that pictures do not tell.
        size: width and height of the pixels, where rows have pixels.
        device: as `mmray.load` takes it.
        threads: CPU threads of the nets.
    """

    model: str
    top: int = 10
    useless: bool = False
    size: int = 0
    device: str = "auto"
    threads: int = 1

    def setup(self) -> None:
        """Load the model."""
        import torch

        from mmray.models import load_predictor

        if not torch.cuda.is_available():
            torch.set_num_threads(self.threads)
        self._tagger: Tagger = load_predictor(self.model, device=self.device, threads=self.threads)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `pixels` or `features` by the answers.

        Adds `tags` list<struct<tag string, probability float>>, the likeliest first, and `vector`
        float16 [d], the unit vector to search with. A picture of which the nets make no numbers
        fails.
        """
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        features = self._features(rows, good)
        numbers = np.nan_to_num(features)
        answers = self._tagger.tags_of_features(numbers, self.top, useless=self.useless)
        found = self._tagger.scorer.picture_vectors(features)
        vectors = np.zeros((rows.num_rows, found.shape[1]), np.float16)
        vectors[good] = found
        tags: list[list[dict[str, object]] | None] = [None] * rows.num_rows
        errors = Errors(rows.num_rows)
        # NaN is near nothing, so that it is found here too.
        right = np.abs(np.linalg.norm(found, axis=1) - 1) < 0.01
        for i, is_right, answer in zip(good.tolist(), right, answers, strict=True):
            tags[i] = [{"tag": tag, "probability": p} for tag, p in answer]
            if not is_right:
                errors.add(i, MediaError("teacher", "the nets make no numbers of this picture"))
        columns = {
            "tags": pa.array(tags, pa.list_(TAG)),
            "vector": tensor_column(vectors, vectors.shape[1:], "float16"),
        }
        dropped = [n for n in rows.column_names if n in ("pixels", "features", "thumbnail")]
        return with_columns(rows.drop_columns(dropped), columns | errors.columns())

    def _features(self, rows: pa.Table, good: np.ndarray) -> np.ndarray:
        if "features" in rows.column_names:
            return tensor(rows["features"])[good].astype(np.float32)
        return self._tagger.backbone(squares_of(rows, good, self.size))
