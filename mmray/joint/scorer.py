"""A trained joint model on features and tag sets, without pixels or names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmray.joint.memory import Memory
from mmray.joint.regression import Kind, Regression, inputs_of
from mmray.joint.vocabulary import Vocabulary
from mmray.pipeline.statistics import Statistics

BATCH = 1024
EPSILON = 1e-4


@dataclass
class Scorer:
    """Probabilities of tags, and vectors, from pictures' features, tag sets, or both.

    Args:
        model: the net.
        vocabulary: its tags.
        memory: of the training pictures.
        regressions: of the tags on standardised features, given tags, and both; empty for none.
        looks: mean vector of the training pictures that have a tag, float32 [V, d]: what the tag
            looks like, to search with.
        calibration: by `picture`, `both` and `tags` the weights of the evidence (the logits of
            the net, of the memory, of the regression and of the tag's frequency), and a constant
            (Platt, 1999).
        visual: for each tag how well a picture tells it, as the area under the ROC curve.
        centre: mean vector of all training pictures, float32 [d]: what they have in common says
            nothing.
        backbone: that made the features, as `describe_backbone` gives it.
        statistics: of the features.
    """

    model: Any
    vocabulary: Vocabulary
    memory: Memory = field(default_factory=Memory.empty)
    regressions: dict[Kind, Regression] = field(default_factory=dict)
    looks: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    calibration: dict[str, list[float]] = field(default_factory=dict)
    visual: np.ndarray = field(default_factory=lambda: np.zeros(0))
    centre: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    backbone: dict[str, Any] = field(default_factory=dict)
    statistics: Statistics | None = None

    arch: ClassVar[str] = "joint"
    remembers: ClassVar[bool] = True
    num_evidence: ClassVar[int] = 4

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return torch.device(next(self.model.parameters()).device)

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
        which = kind_of(features, given)
        weights = self.calibration[which]
        logits = sum(w * part for w, part in zip(weights[:-1], parts, strict=True)) + weights[-1]
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
    ) -> list[np.ndarray]:
        """Logits [N, V] of net, memory and regression, and of the tags' frequency [V]."""
        vectors = self.vectors(features, given)
        logits = self._batched(self.model.head, vectors)
        told = logit(self._regression(features, given))
        frequency = logit(self.vocabulary.frequency)
        if features is None:
            return [logits, np.zeros_like(logits), told, frequency]
        alone = vectors if given is None else self.vectors(features, None)
        return [logits, logit(self.memory.votes(alone, leave_out)), told, frequency]

    def _regression(self, features: np.ndarray | None, given: np.ndarray | None) -> np.ndarray:
        kind = kind_of(features, given)
        pictures = None if features is None else self.standardised(features)
        return self.regressions[kind](inputs_of(kind, pictures, given))

    def standardised(self, features: np.ndarray) -> np.ndarray:
        """Features at mean 0 and deviation 1, outliers cut, float32 [N, D]."""
        return self._batched(self.model.pictures.standardise, features)

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

    def pathways(self, features: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
        """What each tower makes of its own side alone, float32 [N, H] by `pictures`, `tags`."""
        towers = self.model.pictures, self.model.tags
        parts = zip(("pictures", "tags"), towers, (features, given), strict=True)
        return {name: self._batched(tower, values) for name, tower, values in parts}

    @torch.inference_mode()
    def picture_vectors(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors to search with, of pictures: [N, D] -> float32 [N, d]."""
        return self._batched(lambda x: self.model.picture_vector(self.model.pictures(x)), features)

    @torch.inference_mode()
    def tag_vectors(self, bags: np.ndarray) -> np.ndarray:
        """Unit vectors to search with, of tag sets: [N, V] -> float32 [N, d]."""
        return self._batched(self.model.tag_vector, bags)

    @cached_property
    def tag_directions(self) -> np.ndarray:
        """Unit vectors of all tags in the space to search in, float32 [V, d].

        Where the pictures with a tag lie, seen from the middle of all pictures. Tags that mean
        the same then lie together, however seldom they are used together.
        """
        around = self.looks - self.centre
        return around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-6)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the answers depend on."""
        weights = {name: t.cpu().numpy() for name, t in self.model.state_dict().items()}
        digest = hashlib.sha256(json.dumps(self.calibration, sort_keys=True).encode())
        for name, values in sorted({**weights, **self.kept()}.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def kept(self) -> dict[str, np.ndarray]:
        """What is stored beside the net's weights."""
        return {
            **self.memory.tensors(),
            "search.centre": self.centre,
            "search.looks": self.looks,
            **{f"regression.{k}.weight": r.weight for k, r in self.regressions.items()},
            **{f"regression.{k}.offset": r.offset for k, r in self.regressions.items()},
        }

    @torch.inference_mode()
    def _batched(self, function: Any, values: np.ndarray) -> np.ndarray:
        parts = [
            function(self._in(values[i : i + BATCH])).float().cpu().numpy()
            for i in range(0, max(len(values), 1), BATCH)
        ]
        return np.concatenate(parts)

    def _in(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)


def kind_of(features: np.ndarray | None, given: np.ndarray | None) -> Kind:
    """What is known: of a picture, of its tags, or of both."""
    if features is None:
        return "tags"
    return "picture" if given is None else "both"


def logit(values: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, which are kept off 0 and 1."""
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)


def _there(given: np.ndarray | None) -> np.ndarray:
    assert given is not None, "features or tags must be given"
    return given
