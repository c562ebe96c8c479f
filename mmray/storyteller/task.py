"""Training a storyteller: the task that the shared training loop runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.storyteller.model import StoryConfig, StoryNet
from mmray.storyteller.pieces import Pieces
from mmray.training.gather import Everyone
from mmray.training.loader import Batch

SHARPNESS = 14.0
"""Products of unit vectors are multiplied by it when sentences look for their neighbours."""
_TAKEN = ("sentences", "share", "read_style", "style", "strength", "tokens")


@dataclass(frozen=True)
class StoryTask:
    """Write passages from the mean of their sentences, and know sentences that stand together.

    The second is that of quick-thoughts (Logeswaran & Lee, ICLR 2018), with the sentences of the
    whole batch to choose from.

    Args:
        config: sizes of the net.
        pieces: the vocabulary.
        data: the dataset of passages.
        contrast: weight of the second.
        splice: share of spliced passages, for the record.
        noise: for the record.
        describer: kind and folder of what finds sentences about pictures, which the model keeps.
    """

    config: StoryConfig
    pieces: Pieces = field(repr=False)
    data: str
    contrast: float = 0.3
    splice: float = 0.5
    noise: float = 0.3
    describer: tuple[str, str] | None = None

    name = "storyteller"
    leading: tuple[str, Literal["min", "max"]] = ("loss", "min")

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {
            **self.config.to_json(),
            "contrast": self.contrast,
            "splice": self.splice,
            "noise": self.noise,
        }

    def build(self) -> StoryNet:
        """The net with its first weights."""
        return StoryNet(self.config)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over passages of the mean cross-entropy of their pieces, and of finding pairs."""
        losses, vectors = model(*(batch[name] for name in _TAKEN), batch.get("noise"))
        told = losses.mean()
        found = {"cross_entropy": told, "contrast": neighbours(vectors, batch["pair"]).mean()}
        return told + self.contrast * found["contrast"], found

    def evaluate(self, model: StoryNet, batch: Batch) -> dict[str, Tensor]:
        """For each passage the cross-entropy of its pieces."""
        losses, _ = model(*(batch[name] for name in _TAKEN))
        return {"loss": losses}

    def save(self, model: StoryNet, where: str, training: dict[str, Any]) -> None:
        """Write the model folder, with the styles that the dataset has."""
        from mmray.storyteller.folder import save
        from mmray.storyteller.styles import styles_of

        styles = styles_of(model.eval(), self.pieces, self.data)
        save(model, self.pieces, styles, where, training, self.describer)

    def pictures(self, model: StoryNet) -> dict[str, bytes]:
        """None."""
        return {}


def neighbours(vectors: Tensor, pair: Tensor) -> Tensor:
    """How badly one sentence of each passage finds another one among those of all: [B].

    Args:
        vectors: of sentences, of length 1, [B, N, d].
        pair: the two sentences' numbers, [B, 2]; where they are the same, nothing is lost.
    """
    first, second = (
        vectors.gather(1, pair[:, i, None, None].expand(-1, 1, vectors.shape[-1]))[:, 0]
        for i in range(2)
    )
    two = (pair[:, 0] != pair[:, 1]).float()
    everyone = Everyone(two)
    there = everyone.rows(two)
    mine = torch.arange(len(first), device=first.device) + everyone.before
    logits = SHARPNESS * first.float() @ everyone.rows(second).float().T
    logits = logits.masked_fill(there[None] == 0, -1e4)
    return F.cross_entropy(logits, mine, reduction="none") * two
