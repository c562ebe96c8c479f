"""Choices of a joint model. Light: the job's command line is made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from mmray.errors import UserError

ALEXNET, RANDOM = "torchvision:alexnet", "random"


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What counts how much."""

    tags_weight: float = 0.5
    """Weight of completing a tag set without its picture (the picture alone has weight 1)."""
    both_weight: float = 0.5
    """Weight of completing a picture's tags, given the picture and some of them."""
    contrastive_weight: float = 0.5
    """Weight of finding pictures by their tags and tags by their pictures."""
    untagged_weight: float = 0.5
    """Weight of agreeing with itself on pictures without tags, seen whole and seen in part."""
    doubt: float = 0.5
    """How far an absent tag is taken for an omission where the model believes in it; 0: never."""


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """What is open about a joint model."""

    arch: Literal["joint", "dbm"] = "joint"
    """The modern model, or the multimodal Boltzmann machine of 2012."""
    min_count: int = 3
    """A tag of fewer training pictures is not learned."""
    max_tags: int = 2000
    """Learn at most so many tags, the most frequent."""
    hidden: int = 1024
    """Length of the joint vector."""
    dim: int = 256
    """Length of tag embeddings and of the vectors to search with."""
    dropout: float = 0.5
    """Dropout of the towers and of the joint vector."""
    mixup: float = 0.4
    """Parameter of the mixing of examples; 0 for none."""
    pretrain_epochs: float = 10.0
    """Passes over the data for each modality alone; 0 for none."""
    backbone_init: str | None = None
    """First train a backbone on the pixels, from torchvision:alexnet, torchvision:alexnet=FILE (a
    checkpoint) or random; default: the backbone of the dataset as it is."""
    transfer_layers: int = 5
    """Take so many of the five convolutional layers over from --backbone-init."""
    freeze_transferred: bool = False
    """Keep these layers as they are, for few pictures; default: they are trained too."""
    pixel_epochs: float = 10.0
    """Passes over the pictures that train the backbone."""
    pixel_size: int = 224
    """Side of the squares that the backbone takes, in pixels."""
    weights: Annotated[LossWeights, tyro.conf.arg(name="")] = field(default_factory=LossWeights)

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if self.max_tags < 2:
            raise UserError(f"--max-tags {self.max_tags}: expected 2 or more")
        for name in ("min_count", "hidden", "dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: expected 1 or more")
        values = {"mixup": self.mixup, "pretrain_epochs": self.pretrain_epochs}
        for name, value in {**values, **dataclasses.asdict(self.weights)}.items():
            if not 0 <= value < float("inf"):
                raise UserError(f"{_flag(name)} {value:g}: expected 0 or more")
        if not 0 <= self.dropout <= 0.95:
            raise UserError(f"--dropout {self.dropout:g}: expected 0 to .95")
        self._check_backbone()

    def _check_backbone(self) -> None:
        init = self.backbone_init
        if init not in (None, RANDOM, ALEXNET) and not str(init).startswith(f"{ALEXNET}="):
            raise UserError(
                f"--backbone-init {init}: expected a net in AlexNet's layout: {ALEXNET}, "
                f"{ALEXNET}=FILE (a checkpoint) or {RANDOM}"
            )
        if not 0 <= self.transfer_layers <= 5:
            raise UserError(f"--transfer-layers {self.transfer_layers}: expected 0 to 5")
        if self.freeze_transferred and (init in (None, RANDOM) or not self.transfer_layers):
            raise UserError("--freeze-transferred: no layers are transferred; see --backbone-init")
        if not 0 < self.pixel_epochs < float("inf"):
            raise UserError(f"--pixel-epochs {self.pixel_epochs:g}: expected more than 0")
        if self.pixel_size < 64:
            raise UserError(f"--pixel-size {self.pixel_size}: expected 64 or more")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
