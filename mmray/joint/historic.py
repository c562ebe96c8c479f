"""The historic model (`--arch dbm`) in the places of the modern one: training and use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.joint.dbm import Dbm, DbmConfig
from mmray.joint.scorer import BATCH, Scorer, logit
from mmray.joint.task import average_precision
from mmray.joint.vocabulary import Vocabulary
from mmray.pipeline.statistics import Statistics
from mmray.training.loader import Batch


@dataclass(frozen=True)
class DbmTask:
    """Train a multimodal DBM layer by layer; see `mmray.training.loop.Task`."""

    config: DbmConfig
    vocabulary: Vocabulary = field(repr=False)
    statistics: Statistics = field(repr=False)
    data: str

    name = "joint"

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint ranks the tags of held-out pictures best, from the picture alone."""
        return "ap_picture", "max"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {"arch": "dbm", "centred": True, **asdict(self.config)}

    def build(self) -> Dbm:
        """A new machine that knows the statistics of features and tags."""
        model = Dbm(self.config)
        mean, std = torch.from_numpy(self.statistics.mean), torch.from_numpy(self.statistics.std)
        model.set_statistics(mean, std, torch.tensor(self.vocabulary.counts))
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the five RBMs' contrastive divergences, and each of them."""
        losses = model(batch["features"], batch["tags"], batch["has_tags"] > 0)
        means = {name: values.mean() for name, values in losses.items()}
        total = sum(means.values())
        assert isinstance(total, Tensor)
        return total, means

    def evaluate(self, model: Dbm, batch: Batch) -> dict[str, Tensor]:
        """Average precision of each picture's tags, from the picture alone; NaN without tags."""
        scores = model.tag_probabilities(batch["features"])
        values = average_precision(scores, batch["tags"])
        return {"ap_picture": torch.where(batch["has_tags"] > 0, values, torch.nan)}

    def save(self, model: Dbm, where: str, training: dict[str, Any]) -> None:
        """Write the model folder."""
        from mmray.joint.finish import finish

        scorer = DbmScorer(model.eval(), self.vocabulary, statistics=self.statistics)
        finish(scorer, self.data, where, training)

    def pictures(self, model: Dbm) -> dict[str, bytes]:
        """None."""
        return {}


class DbmScorer(Scorer):
    """A `Dbm` on features and tag sets; joint vectors are the activities of its joint layer."""

    arch: ClassVar[str] = "dbm"
    remembers: ClassVar[bool] = False
    num_evidence: ClassVar[int] = 2

    def evidence(
        self,
        features: np.ndarray | None,
        given: np.ndarray | None,
        leave_out: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Logits of the machine, and of the tags' frequency; it remembers no pictures."""
        shares = self._by_batch(self.model.tag_probabilities, features, given)
        return [logit(shares), logit(self.vocabulary.frequency)]

    def vectors(self, features: np.ndarray | None, given: np.ndarray | None) -> np.ndarray:
        """The joint layer, float32 [N, H]."""
        return self._by_batch(lambda x, t: self.model.infer(x, t)["joint"], features, given)

    def pathways(self, features: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
        """The top layer of each pathway, where its input is there and the other one is not."""
        return {
            "pictures": self._by_batch(
                lambda x, t: self.model.infer(x, t)["picture_hidden2"], features, None
            ),
            "tags": self._by_batch(
                lambda x, t: self.model.infer(x, t)["text_hidden2"], None, given
            ),
        }

    def picture_vectors(self, features: np.ndarray) -> np.ndarray:
        """The joint layer of the picture alone, at length 1."""
        return self._unit(self.vectors(features, None))

    def tag_vectors(self, bags: np.ndarray) -> np.ndarray:
        """The joint layer of the tags alone, at length 1."""
        return self._unit(self.vectors(None, bags))

    @staticmethod
    def _unit(vectors: np.ndarray) -> np.ndarray:
        return F.normalize(torch.from_numpy(vectors), dim=1).numpy()

    def _by_batch(
        self,
        function: Callable[[Tensor | None, Tensor | None], Tensor],
        features: np.ndarray | None,
        given: np.ndarray | None,
    ) -> np.ndarray:
        known = features if features is not None else given
        assert known is not None, "features or tags must be given"
        parts = []
        for start in range(0, max(len(known), 1), BATCH):
            rows = slice(start, start + BATCH)
            pair = [None if x is None else self._in(x[rows]) for x in (features, given)]
            parts.append(function(*pair).float().cpu().numpy())
        return np.concatenate(parts)
