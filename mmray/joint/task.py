"""Training the joint net: the task that the shared training loop runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmray.joint.config import LossWeights
from mmray.joint.losses import contrastive_loss, tag_loss
from mmray.joint.model import JointConfig, JointModel
from mmray.joint.pretrain import KINDS, load_tower
from mmray.joint.vocabulary import Vocabulary
from mmray.pipeline.statistics import Statistics
from mmray.training.loader import Batch


@dataclass(frozen=True)
class JointTask:
    """Learn tags from pictures, from other tags, and from both, and one space to search in.

    Args:
        config: sizes of the net.
        vocabulary: the tags.
        statistics: of the features.
        weights: of the losses.
        towers: folders of the pretrained towers by `pictures` and `tags`; empty for none.
        data: the dataset, from which the model's memory and calibration are made at the end.
        mixup: of the examples, for the record.
    """

    config: JointConfig
    vocabulary: Vocabulary = field(repr=False)
    statistics: Statistics = field(repr=False)
    weights: LossWeights
    towers: dict[str, str]
    data: str
    mixup: float = 0.0

    name = "joint"

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint ranks the tags of held-out pictures best, from the picture alone."""
        return "ap_picture", "max"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {
            "arch": "joint",
            **self.config.to_json(),
            **asdict(self.weights),
            "pretrained": bool(self.towers),
            "mixup": self.mixup,
        }

    def build(self) -> JointModel:
        """The net with its first weights: pretrained towers, and biases at the tags' frequency."""
        model = JointModel(self.config)
        model.pictures.set_statistics(self.statistics)
        with torch.no_grad():
            model.tags.idf.copy_(torch.from_numpy(self.vocabulary.idf))
            frequency = torch.from_numpy(self.vocabulary.frequency)
            model.head.bias.copy_(torch.logit(frequency.clamp(1e-4, 0.99)))
        for name, tower in (("pictures", model.pictures), ("tags", model.tags)):
            if name in self.towers:
                load_tower(tower, self.towers[name], KINDS[name])
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all losses, and each of them, as means over the batch."""
        losses = self._losses(model, batch)
        weights = {
            "picture": 1.0,
            "both": self.weights.both_weight,
            "tags": self.weights.tags_weight,
            "contrastive": self.weights.contrastive_weight,
            "untagged": self.weights.untagged_weight,
        }
        total = sum(weights[name] * values.mean() for name, values in losses.items())
        assert isinstance(total, Tensor)
        return total, {name: values.mean() for name, values in losses.items()}

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        tags, given, has_tags = batch["tags"], batch["given"], batch["has_tags"]
        out = model(batch["features"], tags, given, batch.get("noise"))
        shown = (given > 0).float()
        doubt = self.weights.doubt
        agree = tag_loss(out["logits_picture"], out["target"])
        bags = tags * torch.as_tensor(self.vocabulary.idf, device=tags.device)
        return {
            "picture": has_tags * tag_loss(out["logits_picture"], tags, doubt),
            "both": has_tags * tag_loss(out["logits_both"], tags, doubt, shown),
            "tags": has_tags * tag_loss(out["logits_tags"], tags, doubt, shown),
            "contrastive": contrastive_loss(
                out["picture"], out["tags"], bags, has_tags, out["scale"]
            ),
            "untagged": (1 - has_tags) * agree,
        }

    def evaluate(self, model: JointModel, batch: Batch) -> dict[str, Tensor]:
        """For each picture the average precision of its tags, and the loss; NaN without tags."""
        tags, given, has_tags = batch["tags"], batch["given"], batch["has_tags"] > 0
        out = model(batch["features"], tags, given)
        hidden = tags - given
        rest = out["logits_both"] - 1e4 * given
        values = {
            "loss_picture": tag_loss(out["logits_picture"], tags),
            "ap_picture": average_precision(out["logits_picture"], tags),
            "ap_both": average_precision(rest, hidden),
        }
        known = {"ap_both": hidden.sum(1) > 0}
        return {k: torch.where(known.get(k, has_tags), v, torch.nan) for k, v in values.items()}

    def save(self, model: JointModel, where: str, training: dict[str, Any]) -> None:
        """Write the model folder, with what is made of the whole dataset (see `finish.py`)."""
        from mmray.joint.finish import finish
        from mmray.joint.scorer import Scorer

        scorer = Scorer(model.eval(), self.vocabulary, statistics=self.statistics)
        finish(scorer, self.data, where, training)

    def pictures(self, model: JointModel) -> dict[str, bytes]:
        """None."""
        return {}


def average_precision(logits: Tensor, tags: Tensor) -> Tensor:
    """Average precision of each row's tags, ranked by their logits: [B, V] -> [B]."""
    order = logits.float().argsort(dim=1, descending=True)
    hits = tags.gather(1, order)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / hits.sum(dim=1).clamp_min(1e-6)
