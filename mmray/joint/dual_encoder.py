"""Baselines of tags that are small nets: an MLP with one output a tag, and a dual encoder.

Both see standardised picture features, are trained by AdamW under a one-cycle schedule, and keep
the weights of the epoch that did best on the validation pictures. The same seed gives the same
net on the same machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mmray.joint.baselines import Calibration, Neighbours, TagData, quality, tag_prior

HIDDEN = 1024
EMBEDDING = 256
EPOCHS = 24
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.02
INPUT_DROPOUT, DROPOUT = 0.2, 0.5
MIXUP = 0.4
LARGEST_Z = 6.0
INFERENCE_BATCH = 4096


class Mlp:
    """A net with one hidden layer and one sigmoid a tag, trained with binary cross-entropy.

    Pictures and their tags are mixed in pairs (Zhang, Cisse, Dauphin, Lopez-Paz: *mixup: Beyond
    Empirical Risk Minimization*, ICLR 2018).
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, train: TagData, val: TagData) -> Self:
        """Train; the best epoch is chosen on `val`."""
        self.inputs = _Inputs(train.features)
        x, y = self.inputs(train.features), torch.from_numpy(train.tags.astype(np.float32))
        chances = torch.distributions.Beta(MIXUP, MIXUP)

        def loss(rows: Tensor) -> Tensor:
            ours, others = chances.sample((len(rows), 1)), rows[torch.randperm(len(rows))]
            mixed = torch.lerp(x[others], x[rows], ours)
            told = torch.lerp(y[others], y[rows], ours)
            out = F.binary_cross_entropy_with_logits(self.net(mixed), told, reduction="none")
            return out.sum(dim=1).mean()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = nn.Linear(HIDDEN, y.shape[1])
            head.bias.data = torch.from_numpy(logit(tag_prior(train.tags))).float()
            self.net = nn.Sequential(*_hidden(x.shape[1]), head)
            _train(self.net, len(x), loss, lambda: quality(self.scores(val.features), val.tags))
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """What the sigmoids say."""
        return torch.sigmoid(_outputs(self.net, self.inputs(pictures))).numpy()


class MlpAndNeighbours:
    """The mean of what the MLP and the softened kNN say."""

    def __init__(self, seed: int = 0) -> None:
        self.parts = (Mlp(seed), Neighbours())

    def fit(self, train: TagData, val: TagData) -> Self:
        """Fit both."""
        for part in self.parts:
            part.fit(train, val)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """The mean of both probabilities."""
        return np.mean([part.scores(pictures) for part in self.parts], axis=0)


class DualEncoder(nn.Module):
    """A net for pictures and a linear map of bags of tags into one space, trained on pairs.

    The loss asks of every pair in the batch whether it belongs together (Zhai, Mustafa,
    Kolesnikov, Beyer: *Sigmoid Loss for Language Image Pre-Training*, ICCV 2023); pairs of a
    picture with another that has the very same tags are left out. Rare tags weigh more in a bag,
    and half of a bag is hidden at random, so that it comes closer to the single tags that are
    asked for in the end. A logistic regression on the cosine of a picture and a tag and on the
    tag's prior makes it a probability.
    """

    HIDDEN_TAGS = 0.5
    FIRST_SCALE, FIRST_BIAS = 10.0, -6.0

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def fit(self, train: TagData, val: TagData) -> Self:
        """Train on the pictures with tags; the best epoch is chosen on `val`."""
        tagged = train.tags.any(axis=1)
        self.prior = tag_prior(train.tags)
        self.inputs = _Inputs(train.features)
        x = self.inputs(train.features[tagged])
        y = torch.from_numpy(train.tags[tagged])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._build(x.shape[1], y.shape[1])
            _train(
                self,
                len(x),
                lambda rows: self._loss(x[rows], y[rows]),
                lambda: quality(self._cosines(val.features), val.tags),
            )
        self.calibration = Calibration().fit(self._evidence(val.features), val.tags)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Calibrated cosines."""
        return self.calibration(self._evidence(pictures))

    def _build(self, num_features: int, num_tags: int) -> None:
        self.pictures = nn.Sequential(*_hidden(num_features), nn.Linear(HIDDEN, EMBEDDING))
        self.tags = nn.Parameter(torch.randn(num_tags, EMBEDDING) / EMBEDDING**0.5)
        self.scale = nn.Parameter(torch.tensor(self.FIRST_SCALE).log())
        self.bias = nn.Parameter(torch.tensor(self.FIRST_BIAS))
        self.idf = torch.from_numpy(-np.log(self.prior)).float()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        kept = y & (torch.rand(y.shape) > self.HIDDEN_TAGS)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, y)
        bags = F.normalize((kept * self.idf) @ self.tags, dim=1)
        logits = self.scale.exp() * F.normalize(self.pictures(x), dim=1) @ bags.T + self.bias
        own = torch.eye(len(x))
        shared = y.float() @ y.float().T
        sizes = y.sum(dim=1)
        same = (shared == sizes[:, None]) & (shared == sizes) & (own == 0)
        losses = F.binary_cross_entropy_with_logits(logits, own, reduction="none")
        return losses.masked_fill(same, 0).sum() / len(x)

    def _cosines(self, features: np.ndarray) -> np.ndarray:
        """Of each picture to each tag alone, [N, V]."""
        pictures = F.normalize(_outputs(self.pictures, self.inputs(features)), dim=1)
        return (pictures @ F.normalize(self.tags.detach(), dim=1).T).numpy()

    def _evidence(self, features: np.ndarray) -> list[np.ndarray]:
        cosines = self._cosines(features)
        return [cosines, np.broadcast_to(logit(self.prior), cosines.shape)]


class _Inputs:
    """Features as standardised tensors, without outliers."""

    def __init__(self, features: np.ndarray) -> None:
        self.scale = StandardScaler().fit(features)

    def __call__(self, features: np.ndarray) -> Tensor:
        z = self.scale.transform(features).clip(-LARGEST_Z, LARGEST_Z)
        return torch.from_numpy(z.astype(np.float32))


def _hidden(num_features: int) -> list[nn.Module]:
    layers = [nn.Linear(num_features, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU()]
    return [nn.Dropout(INPUT_DROPOUT), *layers, nn.Dropout(DROPOUT)]


def _outputs(net: nn.Module, x: Tensor) -> Tensor:
    net.eval()
    with torch.inference_mode():
        return torch.cat([net(part) for part in x.split(INFERENCE_BATCH)])


def _train(
    net: nn.Module, num_rows: int, loss: Callable[[Tensor], Tensor], measure: Callable[[], float]
) -> None:
    """Train on batches of rows, and leave `net` as it was after the epoch that measured best."""
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-num_rows // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    best, weights = -np.inf, net.state_dict()
    for _ in range(EPOCHS):
        net.train()
        for rows in torch.randperm(num_rows).split(BATCH):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
            schedule.step()
        if (found := measure()) > best:
            best, weights = found, copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    net.eval()
