"""The joint net: a tower for pictures, one for tag sets, and what joins them.

    features -> picture tower -+                      +-> joint vector -> logit of every tag
                               +-> fusion (residual) -+
    tag set  -> tag tower     -+

    picture tower -> unit vector  \
                                    one space, for search and arithmetic
    tag embeddings, added -> unit  /

Either side may be missing: a learned vector takes its place. The sums of tag embeddings are linear,
so that tags can be added to a picture's vector and taken away from it (Kiros, Salakhutdinov and
Zemel, *Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models*, 2014).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.pipeline.statistics import Statistics

LARGEST_Z = 6.0
"""Standardised features beyond are cut: the deviation of some is that of a few outliers."""


@dataclass(frozen=True)
class JointConfig:
    """Sizes of a joint net.

    Args:
        feature_dim: D, length of the backbone's vectors.
        num_tags: V.
        hidden: H, length of the towers' vectors and of the joint vector.
        dim: d, length of tag embeddings and of the vectors to search with.
        dropout: of the towers' and of the joint vector.
        input_dropout: of the features.
    """

    feature_dim: int
    num_tags: int
    hidden: int = 1024
    dim: int = 256
    dropout: float = 0.5
    input_dropout: float = 0.2

    @property
    def noise(self) -> int:
        """Random bytes that dropout needs for an example."""
        return self.feature_dim + 2 * self.hidden

    def to_json(self) -> dict[str, Any]:
        """As it is written into a model folder."""
        return asdict(self)


def drop(x: Tensor, noise: Tensor | None, share: float) -> Tensor:
    """Dropout by given random bytes uint8 [B, n]; without them nothing is dropped."""
    if noise is None or share <= 0:
        return x
    return x * (noise >= round(share * 256)) / (1 - round(share * 256) / 256)


class PictureTower(nn.Module):
    """Features of a picture, float32 [B, D] -> [B, H]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.feature_dim))
        self.register_buffer("std", torch.ones(config.feature_dim))
        self.layer = nn.Linear(config.feature_dim, config.hidden)
        self.norm = nn.LayerNorm(config.hidden)

    def set_statistics(self, statistics: Statistics) -> None:
        """Take the mean and deviation of the training features."""
        self.mean.copy_(torch.from_numpy(statistics.mean))
        self.std.copy_(torch.from_numpy(statistics.std))

    def standardise(self, features: Tensor) -> Tensor:
        """Features with mean 0 and deviation 1, outliers cut."""
        return ((features - self.mean) / self.std).clamp(-LARGEST_Z, LARGEST_Z)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """See the class."""
        split = self.config.feature_dim
        head, tail = (None, None) if noise is None else (noise[:, :split], noise[:, split:])
        x = drop(self.standardise(features), head, self.config.input_dropout)
        return drop(F.gelu(self.norm(self.layer(x))), tail, self.config.dropout)


class TagTower(nn.Module):
    """A set of tags, as weights float32 [B, V] (0 where a tag is not in the set) -> [B, H]."""

    idf: Tensor

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(config.num_tags, config.dim) * 0.1)
        self.register_buffer("idf", torch.ones(config.num_tags))
        self.layers = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, config.hidden),
            nn.LayerNorm(config.hidden),
            nn.GELU(),
        )

    def add(self, bag: Tensor) -> Tensor:
        """The sum of the tags' embeddings, rare tags more than common ones: [B, V] -> [B, d]."""
        return (bag * self.idf) @ self.embeddings

    def forward(self, bag: Tensor) -> Tensor:
        """See the class (DeepSets: Zaheer et al., NIPS 2017)."""
        return self.layers(self.add(bag))


class JointModel(nn.Module):
    """The joint net."""

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.pictures = PictureTower(config)
        self.tags = TagTower(config)
        self.no_picture = nn.Parameter(torch.zeros(hidden))
        self.no_tags = nn.Parameter(torch.zeros(hidden))
        self.fusion = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
        last = self.fusion[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Linear(hidden, config.num_tags)
        self.search = nn.Linear(hidden, config.dim)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def joint(self, picture: Tensor | None, tags: Tensor | None) -> Tensor:
        """The joint vector [B, H] of the towers' vectors; None for what is missing."""
        known = picture if picture is not None else tags
        assert known is not None, "one of both must be there"
        left = self.no_picture.expand(len(known), -1) if picture is None else picture
        right = self.no_tags.expand(len(known), -1) if tags is None else tags
        return left + right + self.fusion(torch.cat([left, right], dim=1))

    def picture_vector(self, picture: Tensor) -> Tensor:
        """Unit vectors to search with, of the picture tower's: [B, H] -> [B, d]."""
        return F.normalize(self.search(picture), dim=1)

    def tag_vector(self, bag: Tensor) -> Tensor:
        """Unit vectors to search with, of tag sets: [B, V] -> [B, d]; zeros for an empty one."""
        return F.normalize(self.tags.add(bag), dim=1)

    def forward(
        self, features: Tensor, tags: Tensor, given: Tensor, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All that the losses are made of.

        Args:
            features: of pictures, float32 [B, D].
            tags: that they have, float32 [B, V].
            given: the tags that the model is shown, float32 [B, V].
            noise: uint8 [B, config.noise] in training.

        Returns:
            `logits_picture`, `logits_both`, `logits_tags` [B, V]: from the picture alone, from
            picture and given tags, from the given tags alone; `picture`, `tags` [B, d]: unit
            vectors of the picture and of all its tags; `scale`: what their products are
            multiplied with; and `target` [B, V]: probabilities from the whole picture, undropped,
            which nothing is learned through.
        """
        hidden = self.config.hidden
        cut = None if noise is None else noise[:, -hidden:]
        picture = self.pictures(features, None if noise is None else noise[:, :-hidden])
        tag_set = self.tags(given)
        pairs = {"picture": (picture, None), "both": (picture, tag_set), "tags": (None, tag_set)}
        results = {
            f"logits_{name}": self.head(drop(self.joint(*pair), cut, self.config.dropout))
            for name, pair in pairs.items()
        }
        with torch.no_grad():
            target = self.head(self.joint(self.pictures(features), None)).sigmoid()
        return {
            **results,
            "picture": self.picture_vector(picture),
            "tags": self.tag_vector(tags),
            "scale": self.log_scale.exp(),
            "target": target,
        }
