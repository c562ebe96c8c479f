"""The stage that tags pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mmray.pipeline.asking import answered, load_in_worker, seen
from mmray.pipeline.dataset import tensor_column
from mmray.pipeline.stages import failed

if TYPE_CHECKING:
    from mmray.joint.predict import Tagger

TAG = pa.struct([("tag", pa.string()), ("probability", pa.float32())])


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
        self._tagger: Tagger = load_in_worker(self.model, self.device, self.threads)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `pixels` or `features` by the answers.

        Adds `tags` list<struct<tag string, probability float>>, the likeliest first, and `vector`
        float16 [d], the unit vector to search with. A picture of which the nets make no numbers
        fails.
        """
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        features = seen(rows, good, "features", self.size, lambda x: self._tagger.backbone(x))
        numbers = np.nan_to_num(features)
        answers = self._tagger.tags_of_features(numbers, self.top, useless=self.useless)
        found = self._tagger.scorer.picture_vectors(features)
        vectors = np.zeros((rows.num_rows, found.shape[1]), np.float16)
        vectors[good] = found
        tags: list[list[dict[str, object]] | None] = [None] * rows.num_rows
        for i, answer in zip(good.tolist(), answers, strict=True):
            tags[i] = [{"tag": tag, "probability": p} for tag, p in answer]
        columns = {
            "tags": pa.array(tags, pa.list_(TAG)),
            "vector": tensor_column(vectors, vectors.shape[1:], "float16"),
        }
        # NaN is near nothing, so that it is found here too.
        right = np.abs(np.linalg.norm(found, axis=1) - 1) < 0.01
        return answered(rows, columns, good[~right].tolist())
