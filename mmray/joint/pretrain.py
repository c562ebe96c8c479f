"""Each modality learned alone, before anything is joined.

Pictures: the tower learns to restore features that were partly dropped (a denoising autoencoder,
Vincent et al., JMLR 2010), from all pictures, tagged or not. Tag sets: embeddings start as a
factorisation of which tags occur together (Levy and Goldberg, NIPS 2014), and the tower learns to
name the tags that were taken out of a set.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import safetensors.torch
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray import storage
from mmray.errors import UserError
from mmray.joint.model import JointConfig, PictureTower, TagTower
from mmray.joint.vocabulary import Vocabulary
from mmray.models import read_config
from mmray.pipeline.statistics import Statistics
from mmray.training.loader import Batch

KINDS = {"pictures": "joint-pictures", "tags": "joint-tags"}


class PictureCompleter(nn.Module):
    """A picture tower, and a layer that restores the features from its vector."""

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.tower = PictureTower(config)
        self.decoder = nn.Linear(config.hidden, config.feature_dim)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Squared error of the standardised features: [B, D] -> [B]."""
        wanted = self.tower.standardise(features)
        return ((self.decoder(self.tower(features, noise)) - wanted) ** 2).mean(dim=1)


class TagCompleter(nn.Module):
    """A tag tower, and a layer that names tags from its vector."""

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.tower = TagTower(config)
        self.head = nn.Linear(config.hidden, config.dim)
        self.bias = nn.Parameter(torch.zeros(config.num_tags))

    def forward(self, given: Tensor) -> Tensor:
        """Logits [B, V] of the tags that are missing in a set [B, V]."""
        return self.head(self.tower(given)) @ self.tower.embeddings.T + self.bias


@dataclass(frozen=True)
class PicturePretraining:
    """Learn the picture tower from all pictures; see `mmray.training.loop.Task`."""

    config: JointConfig
    statistics: Statistics = field(repr=False)

    name = KINDS["pictures"]

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint restores held-out pictures best."""
        return "loss", "min"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return self.config.to_json()

    def build(self) -> PictureCompleter:
        """A new tower."""
        model = PictureCompleter(self.config)
        model.tower.set_statistics(self.statistics)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the features, in deviations."""
        return model(batch["features"], batch["noise"][:, : -self.config.hidden]).mean(), {}

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The same of each picture, nothing dropped."""
        return {"loss": model(batch["features"])}

    def save(self, model: PictureCompleter, where: str, training: dict[str, Any]) -> None:
        """Write the tower."""
        _save(model.tower, where, self.name, self.config, training)

    def pictures(self, model: PictureCompleter) -> dict[str, bytes]:
        """None."""
        return {}


@dataclass(frozen=True)
class TagPretraining:
    """Learn the tag tower from all tag sets; see `mmray.training.loop.Task`.

    Args:
        embeddings: the first embeddings, float32 [V, d].
    """

    config: JointConfig
    vocabulary: Vocabulary = field(repr=False)
    embeddings: np.ndarray = field(repr=False)

    name = KINDS["tags"]

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint completes held-out sets best."""
        return "loss", "min"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return self.config.to_json()

    def build(self) -> TagCompleter:
        """A tower with the first embeddings."""
        model = TagCompleter(self.config)
        with torch.no_grad():
            model.tower.embeddings.copy_(torch.from_numpy(self.embeddings))
            model.tower.idf.copy_(torch.from_numpy(self.vocabulary.idf))
            model.bias.copy_(torch.from_numpy(np.log(self.vocabulary.frequency + 1e-6)))
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the tags that were taken out."""
        return self._losses(model, batch).mean(), {}

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The same of each set that lacks some."""
        losses = self._losses(model, batch)
        return {"loss": torch.where(losses > 0, losses, torch.nan)}

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        given = batch["given"]
        wanted = (batch["tags"] - given).clamp_min(0)
        logits = model(given) - 1e4 * (given > 0)
        share = wanted / wanted.sum(dim=1, keepdim=True).clamp_min(1e-6)
        return -(share * F.log_softmax(logits, dim=1)).sum(dim=1)

    def save(self, model: TagCompleter, where: str, training: dict[str, Any]) -> None:
        """Write the tower."""
        _save(model.tower, where, self.name, self.config, training)

    def pictures(self, model: TagCompleter) -> dict[str, bytes]:
        """A map of the most frequent tags: tags that occur together are near each other."""
        from matplotlib.figure import Figure

        vectors = F.normalize(model.tower.embeddings.detach(), dim=1).cpu().numpy()
        places = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[0][:, :2]
        figure = Figure(figsize=(9, 9), layout="constrained")
        axes = figure.subplots()
        for tag, (x, y) in list(zip(self.vocabulary.tags, places, strict=True))[:150]:
            axes.text(x, y, tag, fontsize=7, ha="center", parse_math=False)
        axes.set(title="tags, two main directions", xlabel="first", ylabel="second")
        low, high = places[:150].min(0), places[:150].max(0)
        axes.set_xlim(low[0] - 0.02, high[0] + 0.02)
        axes.set_ylim(low[1] - 0.02, high[1] + 0.02)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return {"tags.png": png.getvalue()}


def first_embeddings(sets: scipy.sparse.csr_matrix, dim: int) -> np.ndarray:
    """Embeddings by which tags occur together: the SVD of their positive mutual information.

    Args:
        sets: which tags each picture has, [N, V].
        dim: d.

    Returns:
        float32 [V, d]; columns beyond V are zero.
    """
    together = (sets.T @ sets).toarray().astype(np.float64)
    counts = np.diag(together).copy()
    np.fill_diagonal(together, 0)
    total = max(together.sum(), 1.0)
    sums = np.maximum(together.sum(axis=1), 1e-9)
    expected = np.outer(sums, sums) / total
    information = np.log(np.maximum(together / np.maximum(expected, 1e-12), 1e-12))
    positive = np.maximum(information, 0)
    np.fill_diagonal(positive, np.log(total / np.maximum(counts, 1)).clip(0))
    left, values, _ = np.linalg.svd(positive)
    vectors = left[:, :dim] * np.sqrt(values[:dim])
    result = np.zeros((len(together), dim), np.float32)
    result[:, : vectors.shape[1]] = vectors / max(vectors.std() * 10, 1e-9)
    return result


def _save(
    tower: nn.Module, where: str, kind: str, config: JointConfig, training: dict[str, Any]
) -> None:
    storage.remove(storage.join(where, "config.json"))
    tensors = {k: t.detach().cpu().contiguous() for k, t in tower.state_dict().items()}
    storage.write_bytes(storage.join(where, "model.safetensors"), safetensors.torch.save(tensors))
    card = (
        f"# {kind}\n\nOne tower of a joint model of pictures and tags, trained alone. "
        "`jobs/train_joint.py` starts from it.\n"
    )
    storage.write_bytes(storage.join(where, "README.md"), card.encode())
    values = {"kind": kind, "sizes": config.to_json(), "training": training}
    storage.write_json(storage.join(where, "config.json"), values)


def load_tower(tower: nn.Module, where: str, kind: str) -> None:
    """Fill a tower from the folder of its pretraining.

    Raises:
        UserError: the folder holds something else, or a tower of another size.
    """
    found = read_config(where).get("kind")
    if found != kind:
        raise UserError(f"{where}: holds {found!r}, expected a pretrained tower ({kind})")
    with storage.localized(storage.join(where, "model.safetensors")) as path:
        try:
            tower.load_state_dict(safetensors.torch.load_file(path))
        except RuntimeError as e:
            raise UserError(f"{where}: does not fit the model ({e})") from e
