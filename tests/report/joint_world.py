"""A dataset with two joint models, for tests of their page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmray.joint.predict import Tagger
from mmray.models import load_kind
from mmray.pipeline.dataset import Dataset, tensor
from mmray.report.joint.gallery import NEAREST

METRICS = {
    "tags.prior.map_tags": 0.05,
    "tags.mlp_knn.map_tags": 0.21,
    "tags.dual_encoder.map_tags": 0.22,
    "tags.joint.map_tags": 0.2345,
    "tags.joint.map_images": 0.4567,
    "completed.joint_both.map_tags": 0.31,
    "missing.0": 0.9,
    "missing.100": 0.8,
    "missing.linear.0": 0.7,
    "missing.linear.100": 0.6,
    "arithmetic.success10": 0.75,
    "arithmetic.queries": 40.0,
    "retrieval.image_to_tags.median_rank": 7.5,
}
QUESTIONS = "red, rojo, blue, azul\ndog, perro, car, coche\n\nred, rojo, pink, rosa\n"


@dataclass
class World:
    """A dataset with two models that know the same tags, and metrics and questions as files."""

    data: str
    model: str
    other: str
    metrics: str
    analogies: str

    def __post_init__(self) -> None:
        self.tagger: Tagger = load_kind(self.model, "joint", "cpu")
        table = Dataset(self.data, "images").read(["id", "split", "tags", "labels", "features"])
        self.features = tensor(table["features"]).astype(np.float32)
        self.vectors = self.tagger.scorer.picture_vectors(self.features)
        self.rows = {row["id"]: row for row in table.drop_columns("features").to_pylist()}
        self.ids = list(self.rows)

    def place(self, name: str) -> int:
        return self.ids.index(name)

    def nearest(self, query: np.ndarray, name: str) -> list[str]:
        """The pictures of the whole dataset nearest to a vector, by brute force."""
        near = sorted(
            (other for other in self.ids if other != name),
            key=lambda other: -float(self.vectors[self.place(other)] @ query),
        )
        return near[:NEAREST]
