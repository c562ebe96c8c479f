"""A trained joint model on features and tag sets, without pixels or names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmray.joint.memory import Memory
from mmray.joint.model import JointModel
from mmray.joint.vocabulary import Vocabulary

BATCH = 1024
EPSILON = 1e-4


@dataclass
class Scorer:
    """Probabilities of tags, and vectors, from pictures' features, tag sets, or both.

    Args:
        model: the net.
        vocabulary: its tags.
        memory: of the training pictures.
        calibration: by `picture`, `both` and `tags` the weights of the net's logit, of the
            memory's logit, of the tag's own logit, and a constant (Platt, 1999).
        visual: for each tag how well a picture tells it, as the area under the ROC curve.
        centre: mean vector to search with of `pictures` and of `tags`, float32 [d] each: what
            all pictures have in common says nothing.
        backbone: that made the features, as `describe_backbone` gives it.
    """

    model: JointModel
    vocabulary: Vocabulary
    memory: Memory
    calibration: dict[str, list[float]]
    visual: np.ndarray
    centre: dict[str, np.ndarray] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.model.head.weight.device

    @torch.inference_mode()
    def probabilities(
        self,
        features: np.ndarray | None = None,
        given: np.ndarray | None = None,
        leave_out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Calibrated probability that a person would give each tag.

        Args:
            features: of pictures, [N, D]; None where there are none.
            given: known tags, bool [N, V]; None for none. Their own probability is 1.
            leave_out: as `Memory.votes` takes it.

        Returns:
            float32 [N, V].
        """
        parts = self.evidence(features, given, leave_out)
        which = "both" if given is not None and features is not None else "picture"
        weights = self.calibration["tags" if features is None else which]
        logits = sum(w * part for w, part in zip(weights[:3], parts, strict=True)) + weights[3]
        values = 1 / (1 + np.exp(-np.asarray(logits, np.float32)))
        if given is not None:
            if which == "both":
                # Without any tag the joint model is the picture's.
                bare = ~given.any(axis=1)
                if bare.any() and features is not None:
                    own = None if leave_out is None else leave_out[bare]
                    values[bare] = self.probabilities(features[bare], None, own)
            values[given] = 1.0
        return values

    @torch.inference_mode()
    def evidence(
        self,
        features: np.ndarray | None,
        given: np.ndarray | None,
        leave_out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits [N, V] of the net and of the memory, and of the tags' frequency [V]."""
        vectors = self.vectors(features, given)
        logits = self._batched(self.model.head, vectors)
        frequency = _logit(self.vocabulary.frequency)
        if features is None:
            return logits, np.zeros_like(logits), frequency
        alone = vectors if given is None else self.vectors(features, None)
        return logits, _logit(self.memory.votes(alone, leave_out)), frequency

    @torch.inference_mode()
    def vectors(self, features: np.ndarray | None, given: np.ndarray | None) -> np.ndarray:
        """The joint vectors, float32 [N, H]."""
        count = len(features) if features is not None else len(_there(given))
        parts = [np.zeros((0, self.model.config.hidden), np.float32)]
        for start in range(0, count, BATCH):
            rows = slice(start, start + BATCH)
            picture = None if features is None else self.model.pictures(self._in(features[rows]))
            tags = None if given is None else self.model.tags(self._in(given[rows]))
            parts.append(self.model.joint(picture, tags).float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def picture_vectors(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors to search with, of pictures: [N, D] -> float32 [N, d]."""
        return self._batched(lambda x: self.model.picture_vector(self.model.pictures(x)), features)

    @torch.inference_mode()
    def tag_vectors(self, bags: np.ndarray) -> np.ndarray:
        """Unit vectors to search with, of tag sets: [N, V] -> float32 [N, d]."""
        return self._batched(self.model.tag_vector, bags)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Unit vectors of all tags, float32 [V, d]."""
        return self.tag_vectors(np.eye(len(self.vocabulary), dtype=np.float32))

    @cached_property
    def centred_embeddings(self) -> np.ndarray:
        """Unit vectors of all tags around their mean, float32 [V, d]."""
        vectors = self.embeddings - self.centre["tags"]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def _batched(self, function: Any, values: np.ndarray) -> np.ndarray:
        parts = [
            function(self._in(values[i : i + BATCH])).float().cpu().numpy()
            for i in range(0, max(len(values), 1), BATCH)
        ]
        return np.concatenate(parts)

    def _in(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)


def _logit(values: np.ndarray) -> np.ndarray:
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _there(given: np.ndarray | None) -> np.ndarray:
    assert given is not None, "features or tags must be given"
    return given
