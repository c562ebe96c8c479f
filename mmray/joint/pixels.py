"""A backbone that learns the tags from the pixels themselves.

The first layers of a net that knows ImageNet are taken over, the rest is new, and all of it is
trained on the tags. The net becomes an ordinary teacher (`mmray:DIR`), through which pictures are
described as through any other; see `finetune.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from mmray import storage
from mmray.errors import MediaError, UserError
from mmray.joint.losses import tag_loss
from mmray.joint.model import drop
from mmray.joint.task import average_precision
from mmray.joint.vocabulary import Vocabulary, presence
from mmray.media.image import Fit, decode_image, square
from mmray.teachers import alexnet
from mmray.teachers.nets import PictureNet, new_alexnet
from mmray.teachers.recipes import FORMAT_VERSION, TEACHER_KIND
from mmray.training.loader import Batch, Row

DROPOUT = 0.5
SMALLEST_CROP = 0.75
"""Side of the smallest part of a picture that is shown, as a share of the whole side."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelExamples:
    """Pictures as pixels, with their tags.

    A batch has `pixels` uint8 [B, S, S, 3], `tags` float32 [B, V] and `has_tags` float32 [B]; in
    training also `noise` uint8 [B, hidden], from which all dropout is made. In training a picture
    is cropped and mirrored by chance, and one without known tags is black: nothing is learned from
    it. A file that cannot be read is replaced by the thumbnail in its row.

    Args:
        vocabulary: the tags that are known.
        size: S.
        fit: how pictures become squares, as in the dataset.
        unreadable: files that could not be read, filled as they are met; the first is told.
    """

    vocabulary: Vocabulary = field(repr=False)
    size: int
    fit: Fit = "pad"
    unreadable: set[str] = field(default_factory=set, repr=False, compare=False)

    columns = ("uri", "thumbnail", "tags")

    def __call__(
        self, rows: Sequence[Row], neighbours: Sequence[Row], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See `mmray.training.loader.Examples`."""
        tags = presence(self.vocabulary, [row["tags"] for row in rows])
        pixels = np.zeros((len(rows), self.size, self.size, 3), np.uint8)
        for i in np.flatnonzero(tags.any(axis=1)).tolist():
            picture = self._read(rows[i])
            pixels[i] = (
                varied(picture, self.size, self.fit, rngs[i])
                if rngs
                else square(picture, self.size, self.fit)
            )
        batch = {
            "pixels": torch.from_numpy(pixels),
            "tags": torch.from_numpy(tags.astype(np.float32)),
            "has_tags": torch.from_numpy(tags.any(axis=1).astype(np.float32)),
        }
        if rngs:
            noise = [rng.integers(0, 256, alexnet.HIDDEN, dtype=np.uint8) for rng in rngs]
            batch["noise"] = torch.from_numpy(np.stack(noise))
        return batch

    def _read(self, row: Row) -> np.ndarray:
        try:
            with storage.open_file(row["uri"]) as f:
                return decode_image(f.read())
        except (MediaError, UserError, OSError) as e:
            if not self.unreadable:
                log.warning(
                    "%s: cannot be read now (%s); its thumbnail is used instead, and so for others "
                    "like it",
                    row["uri"],
                    e,
                )
            self.unreadable.add(row["uri"])
            return decode_image(row["thumbnail"])


def varied(picture: np.ndarray, size: int, fit: Fit, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture uint8 [H, W, 3], mirrored or not: uint8 [size, size, 3]."""
    whole = size * 8 // 7  # as 256 for 224: cut-outs are then hardly enlarged
    side = whole * rng.uniform(SMALLEST_CROP, 1.0)
    left, top = rng.uniform(0, whole - side, 2)
    part = Image.fromarray(square(picture, whole, fit)).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(part)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


class PixelNet(nn.Module):
    """A picture net as it is trained: pixels uint8 [B, S, S, 3] -> logits of the tags [B, V]."""

    def __init__(self, net: PictureNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Logits; dropout of the features by random bytes uint8 [B, hidden]."""
        features = self.net.body(self.net.normalise(pixels))
        return self.net.head(drop(features, noise, DROPOUT)).float()


@dataclass(frozen=True)
class PixelPretraining:
    """Learn a backbone from pixels and tags; see `mmray.training.loop.Task`.

    Args:
        vocabulary: the tags.
        size: side of the pictures in pixels.
        init: spec of a trained net in AlexNet's layout, `torchvision:alexnet` or
            `torchvision:alexnet=FILE`; None to begin with none.
        weights_sha256: of its weights; empty for none.
        layers: how many of its five convolutional layers are taken over.
        frozen: whether these stay as they are.
        doubt: as in `LossWeights`.
    """

    vocabulary: Vocabulary = field(repr=False)
    size: int
    init: str | None = None
    weights_sha256: str = ""
    layers: int = 5
    frozen: bool = False
    doubt: float = 0.0

    name = "joint-pixels"

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint ranks the tags of held-out pictures best."""
        return "ap", "max"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {
            "num_tags": len(self.vocabulary),
            "size": self.size,
            "weights_sha256": self.weights_sha256,
            "transfer_layers": self.layers if self.init else 0,
            "freeze_transferred": self.frozen,
            "doubt": self.doubt,
        }

    def build(self) -> PixelNet:
        """The net with the layers taken over, and biases at the tags' frequency.

        Raises:
            UserError: the checkpoint is not one of a net in AlexNet's layout.
        """
        net = new_alexnet("alexnet of tags", self.vocabulary.tags, self.size)
        body = net.body
        assert isinstance(body, alexnet.AlexNetBody)
        if self.init is not None:
            alexnet.transfer(body, self.init, self.layers)
            for layer in body.convolutions[: self.layers if self.frozen else 0]:
                layer.requires_grad_(False)
        with torch.no_grad():
            frequency = torch.from_numpy(self.vocabulary.frequency)
            net.head.bias.copy_(torch.logit(frequency.clamp(1e-4, 0.99)))
        return PixelNet(net)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The tags' loss; pictures without tags count as 0."""
        logits = model(batch["pixels"], batch["noise"])
        return (batch["has_tags"] * tag_loss(logits, batch["tags"], self.doubt)).mean(), {}

    def evaluate(self, model: PixelNet, batch: Batch) -> dict[str, Tensor]:
        """For each picture the average precision of its tags, and the loss; NaN without tags."""
        tags, has_tags = batch["tags"], batch["has_tags"] > 0
        logits = model(batch["pixels"])
        values = {"loss": tag_loss(logits, tags), "ap": average_precision(logits, tags)}
        return {name: torch.where(has_tags, v, torch.nan) for name, v in values.items()}

    def save(self, model: PixelNet, where: str, training: dict[str, Any]) -> None:
        """Write the folder of a teacher; `config.json` comes last and makes it complete."""
        net, info = model.net, model.net.info
        storage.remove(storage.join(where, "config.json"))
        tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
        weights = safetensors.torch.save(tensors)
        storage.write_bytes(storage.join(where, "model.safetensors"), weights)
        storage.write_bytes(storage.join(where, "README.md"), self._card(net, training).encode())
        config = {
            "kind": TEACHER_KIND,
            "format_version": FORMAT_VERSION,
            "name": info.name,
            "arch": "alexnet",
            "hidden": info.feature_dim,
            "size": info.size,
            "classes": info.classes,
            "training": training,
        }
        storage.write_json(storage.join(where, "config.json"), config)

    def _card(self, net: PictureNet, training: dict[str, Any]) -> str:
        start = f"the first {self.layers} layers of `{self.init}`" if self.init else "nothing"
        kept = ", which were kept as they were" if self.frozen else ""
        metrics = ", ".join(f"{k} {v:.3f}" for k, v in training.get("val", {}).items())
        return f"""# Backbone: {net.info.name}

A net in AlexNet's layout that was trained to name {len(self.vocabulary)} tags from the pixels, \
beginning with {start}{kept}. On held-out pictures: {metrics or "not measured"}.

    python jobs/prepare_images.py SOURCE --backbone mmray:THIS_FOLDER

Made for its features. What it gives as probabilities adds up to 1 over the tags, of which a \
picture has several: they rank tags, and say no more.
"""

    def pictures(self, model: PixelNet) -> dict[str, bytes]:
        """None."""
        return {}
