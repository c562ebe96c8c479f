"""What a joint model of pictures and tags has to beat, on the same features.

Each baseline of tags learns from pictures with tags and says how probable every tag is for a
picture. Settings (how many neighbours, how much regularisation) are those with the best mean
average precision, over tags and over pictures, on the validation pictures. The
baselines of classes are in `mmray.joint.classes`, the nets in `mmray.joint.dual_encoder`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular, svd
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_array
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from mmray.joint.metrics import quality

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.02, 0.04, 0.08, 0.16)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
PENALTIES = (0.1, 0.03, 0.01, 0.003)
LOGISTIC_STEPS = 40
LOGISTIC_BUDGET = 10**10
"""Largest pictures x features x tags for which a logistic regression is tried beside ridge."""
CALIBRATION_PAIRS = 1_000_000


@dataclass
class TagData:
    """Pictures with their tags: features float32 [N, D], tags bool [N, V]."""

    features: np.ndarray
    tags: np.ndarray


class Baseline(Protocol):
    """Learns tags from pictures; fitting twice gives the same."""

    def fit(self, train: TagData, val: TagData) -> Self:
        """Learn from `train`; settings are chosen on `val`."""

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Probability of each tag, float [N, V], for features [N, D]."""


def tag_prior(tags: np.ndarray) -> np.ndarray:
    """How frequent each tag is, float64 [V], never quite 0 or 1."""
    return (tags.sum(axis=0) + 0.5) / (len(tags) + 1)


class Prior:
    """Every picture gets the frequencies of the tags."""

    def fit(self, train: TagData, val: TagData) -> Self:
        """Count."""
        self.prior = tag_prior(train.tags)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """The same row for every picture."""
        return np.tile(self.prior, (len(pictures), 1))


class Index:
    """The nearest training pictures by the cosine of standardised features."""

    def __init__(self, train: TagData) -> None:
        self.scale = StandardScaler().fit(train.features)
        self.tags = csr_array(train.tags.astype(np.float32))
        self.search = NearestNeighbors(algorithm="brute").fit(self._unit(train.features))

    def _unit(self, features: np.ndarray) -> np.ndarray:
        return normalize(self.scale.transform(features)).astype(np.float32)

    def nearest(self, pictures: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and rows, both [N, k], of the k nearest of each picture, nearest first.

        There are fewer than k where there are not so many training pictures.
        """
        units = self._unit(pictures)
        distances, rows = self.search.kneighbors(units, min(k, self.tags.shape[0]))
        return 1 - distances**2 / 2, rows

    def votes(self, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The sum of the neighbours' tags, float32 [N, V], for weights and rows [N, k]."""
        n, k = rows.shape
        starts = np.arange(n + 1) * k
        shape = (n, self.tags.shape[0])
        chosen = csr_array((weights.ravel().astype(np.float32), rows.ravel(), starts), shape=shape)
        return (chosen @ self.tags).toarray()


class Neighbours:
    """kNN, softened: neighbours vote with a softmax of their cosines, beside a faint prior."""

    PRIOR_SHARE = 0.02  # orders the tags that no neighbour has

    def fit(self, train: TagData, val: TagData) -> Self:
        """Choose how many neighbours and the temperature."""
        self.index, self.prior = Index(train), tag_prior(train.tags)
        near = self.index.nearest(val.features, max(NEIGHBOURS))
        self.k, self.temperature = max(
            itertools.product(NEIGHBOURS, TEMPERATURES),
            key=lambda setting: quality(self._soft(*near, *setting), val.tags),
        )
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """The weighted share of neighbours with each tag."""
        near = self.index.nearest(pictures, self.k)
        return self._soft(*near, self.k, self.temperature)

    def _soft(
        self, cosines: np.ndarray, rows: np.ndarray, k: int, temperature: float
    ) -> np.ndarray:
        weights = softmax(cosines[:, :k] / temperature, axis=1)
        votes = self.index.votes(weights, rows[:, :k])
        return (1 - self.PRIOR_SHARE) * votes + self.PRIOR_SHARE * self.prior


class TagVote:
    """Neighbours' votes minus the votes that chance would give.

    Li, Snoek, Worring: *Learning Social Tag Relevance by Neighbor Voting*, IEEE TMM 2009.
    """

    def fit(self, train: TagData, val: TagData) -> Self:
        """Choose how many neighbours."""
        self.index, self.prior = Index(train), tag_prior(train.tags)
        near = self.index.nearest(val.features, max(NEIGHBOURS))
        self.k = max(NEIGHBOURS, key=lambda k: quality(self._relevance(*near, k), val.tags))
        self.calibration = Calibration().fit([self._relevance(*near, self.k)], val.tags)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Calibrated relevance."""
        return self.calibration([self._relevance(*self.index.nearest(pictures, self.k), self.k)])

    def _relevance(self, cosines: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
        rows = rows[:, :k]
        return self.index.votes(np.full(rows.shape, 1 / rows.shape[1]), rows) - self.prior


class TagProp:
    """Neighbours weighted by a learned scale of distance, and a sigmoid for each tag.

    Guillaumin, Mensink, Verbeek, Schmid: *TagProp: Discriminative Metric Learning in Nearest
    Neighbor Models for Image Auto-Annotation*, ICCV 2009, with one distance. The likelihood that
    both parts maximise, of training pictures told by the others, counts all pairs alike, so that
    the results are probabilities.
    """

    NEIGHBOURS, FIRST_SCALE, LARGEST_SCALE = 200, 20.0, 200.0
    ROUNDS = 3  # of learning the sigmoids and the scale in turn
    PICTURES = 5_000  # to learn from: plenty for two numbers a tag
    FLOOR = 1e-5  # the paper's epsilon: what is said of a tag that no neighbour has

    def fit(self, train: TagData, val: TagData) -> Self:
        """Learn; nothing is chosen on `val`."""
        self.index, self.scale = Index(train), self.FIRST_SCALE
        tags = train.tags[: self.PICTURES].astype(np.float32)
        cosines, rows = self.index.nearest(train.features[: len(tags)], self.NEIGHBOURS + 1)
        cosines[rows == np.arange(len(tags))[:, None]] = -np.inf  # nobody votes for themselves

        def loss(scale: float) -> float:
            return cross_entropy(slopes * self._told(cosines, rows, scale) + offsets, tags)

        for _ in range(self.ROUNDS):
            slopes, offsets = self.sigmoids = learn_sigmoids(
                self._told(cosines, rows, self.scale), tags
            )
            bounds, options = (1.0, self.LARGEST_SCALE), {"maxiter": 12}
            found = minimize_scalar(loss, bounds=bounds, method="bounded", options=options)
            self.scale = float(found.x)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """What the neighbours tell, through the sigmoid of each tag."""
        slopes, offsets = self.sigmoids
        told = self._told(*self.index.nearest(pictures, self.NEIGHBOURS), self.scale)
        return expit(slopes * told + offsets)

    def _told(self, cosines: np.ndarray, rows: np.ndarray, scale: float) -> np.ndarray:
        votes = self.index.votes(softmax(scale * cosines, axis=1), rows)
        return self.FLOOR + (1 - 2 * self.FLOOR) * votes


def learn_sigmoids(x: np.ndarray, y: np.ndarray, penalty: float = 1e-6) -> np.ndarray:
    """Slopes and offsets, [2, V], with which sigmoids of x, [N, V], best tell y, [N, V]."""

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        slopes, offsets = flat.reshape(2, -1)
        logits = slopes * x + offsets
        errors = (expit(logits) - y) / len(y)
        gradient = [(errors * x).sum(axis=0) + penalty * slopes, errors.sum(axis=0)]
        return cross_entropy(logits, y) + penalty / 2 * (slopes**2).sum(), np.hstack(gradient)

    start = np.hstack([np.ones(y.shape[1]), logit(tag_prior(y))])
    options = {"maxiter": LOGISTIC_STEPS}
    return minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(2, -1)


class Cca:
    """Canonical correlation of pictures and tags, both regularised; rare tags weigh more.

    A picture and a single tag are compared by their cosine in the space of the canonical
    directions, each scaled by a power of its correlation (Gong, Ke, Isard, Lazebnik: *A
    Multi-View Embedding Space for Modeling Internet Images, Tags, and their Semantics*, IJCV
    2014). A logistic regression on that cosine and on the tag's prior makes it a probability.
    """

    DIMENSIONS, POWER = 256, 4.0

    def fit(self, train: TagData, val: TagData) -> Self:
        """Choose the regularisation; the logistic regression is learned on `val`."""
        self.scale = StandardScaler().fit(train.features)
        self.prior = tag_prior(train.tags)
        x, z = self.scale.transform(train.features), self.scale.transform(val.features)
        y = train.tags * -np.log(self.prior).astype(np.float32)
        self.tags = -np.diag(np.log(self.prior)) - y.mean(axis=0)  # each tag alone, as a bag
        y -= y.mean(axis=0)
        xx, xy, yy = ((a.T @ b / len(x)).astype(float) for a, b in ((x, x), (x, y), (y, y)))
        best = -np.inf
        for ridge in RIDGES:
            pictures, tags = canonical(xx, xy, yy, ridge, self.DIMENSIONS, self.POWER)
            cosines = normalize(z @ pictures) @ normalize(self.tags @ tags).T
            if (found := quality(cosines, val.tags)) > best:
                best, self.pictures, self.words = found, pictures, tags
        self.calibration = Calibration().fit(self._evidence(val.features), val.tags)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Calibrated cosines."""
        return self.calibration(self._evidence(pictures))

    def _evidence(self, features: np.ndarray) -> list[np.ndarray]:
        pictures = normalize(self.scale.transform(features) @ self.pictures)
        cosines = pictures @ normalize(self.tags @ self.words).T
        return [cosines, np.broadcast_to(logit(self.prior), cosines.shape)]


def canonical(
    xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, ridge: float, dimensions: int, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Canonical directions of two views, each scaled by a power of its correlation.

    Args:
        xx: covariance [D, D] of the one view.
        xy: between both, [D, V].
        yy: of the other, [V, V].
        ridge: added to both diagonals, as a share of their mean.
        dimensions: how many directions at most.
        power: that of the correlation.

    Returns:
        Float [D, K] and [V, K], the most correlated first.
    """
    roots = [
        cholesky(c + ridge * np.trace(c) / len(c) * np.eye(len(c)), lower=True) for c in (xx, yy)
    ]
    whitened = solve_triangular(roots[0], xy, lower=True)
    whitened = solve_triangular(roots[1], whitened.T, lower=True).T
    left, correlations, right = svd(whitened, full_matrices=False)
    views = zip(roots, (left, right.T), strict=True)
    powers = correlations[:dimensions] ** power
    x, y = (solve_triangular(r, u[:, :dimensions], lower=True, trans="T") for r, u in views)
    return x * powers, y * powers


class Linear:
    """One linear classifier a tag: ridge or logistic regression, whichever is better on `val`."""

    def fit(self, train: TagData, val: TagData) -> Self:
        """Choose the kind and the regularisation."""
        self.scale = StandardScaler().fit(train.features)
        x, z = self.scale.transform(train.features), self.scale.transform(val.features)
        paths = [ridge_path(x, train.tags, RIDGES)]
        if x.size * train.tags.shape[1] <= LOGISTIC_BUDGET:
            paths.append(logistic_path(x, train.tags, PENALTIES))
        _, _, self.weights = best_of(itertools.chain(*paths), z, val.tags, quality)
        self.calibration = Calibration().fit([linear(z, self.weights)], val.tags)
        return self

    def scores(self, pictures: np.ndarray) -> np.ndarray:
        """Calibrated outputs."""
        return self.calibration([linear(self.scale.transform(pictures), self.weights)])


Path = Iterator[tuple[float, np.ndarray]]
"""Linear models, each as its regularisation and weights [D + 1, V]; the last row is the offset."""


def linear(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Outputs [N, V] for inputs [N, D] and weights [D + 1, V]."""
    return x @ weights[:-1] + weights[-1]


def ridge_path(x: np.ndarray, y: np.ndarray, ridges: Iterable[float]) -> Path:
    """Ridge regressions of y, bool [N, V], on centred x, [N, D]; `ridges` are per picture."""
    mean = y.mean(axis=0)
    xx, xy = (x.T @ b.astype(np.float64) / len(x) for b in (x, y - mean))
    for ridge in ridges:
        factor = cho_factor(xx + ridge * np.eye(len(xx)))
        yield ridge, np.vstack([cho_solve(factor, xy), mean])


def logistic_path(x: np.ndarray, y: np.ndarray, penalties: Iterable[float]) -> Path:
    """Logistic regressions of y, bool [N, V], on x, [N, D], all tags at once.

    Penalties are per picture and of half the squared weights. Each regression starts where the
    one before it ended and makes `LOGISTIC_STEPS` steps at most: strong penalties go first.
    """
    x, y = x.astype(np.float32), y.astype(np.float32)
    weights = np.zeros((x.shape[1] + 1, y.shape[1]))
    weights[-1] = logit(tag_prior(y))
    for penalty in penalties:
        weights = minimize(
            _logistic_loss,
            weights.ravel(),
            args=(x, y, penalty),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": LOGISTIC_STEPS},
        ).x.reshape(weights.shape)
        yield penalty, weights


def _logistic_loss(
    flat: np.ndarray, x: np.ndarray, y: np.ndarray, penalty: float
) -> tuple[float, np.ndarray]:
    weights = flat.reshape(-1, y.shape[1]).astype(np.float32)
    outputs = linear(x, weights)
    errors = (expit(outputs) - y) / len(y)
    gradient = np.vstack([x.T @ errors + penalty * weights[:-1], errors.sum(axis=0)])
    squares = float((weights[:-1].astype(np.float64) ** 2).sum())
    value = cross_entropy(outputs, y) + penalty / 2 * squares
    return value, gradient.ravel().astype(np.float64)


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    """The sum over tags, in nats, meaned over pictures."""
    return float((np.logaddexp(0, logits) - y * logits).sum(dtype=np.float64) / len(y))


def best_of(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], float],
) -> tuple[float, float, np.ndarray]:
    """The linear model that does best on x, [N, D], and y, bool [N, V].

    Returns:
        How well it does, its regularisation and its weights.
    """
    tried = ((measure(linear(x, w), y), strength, w) for strength, w in path)
    return max(tried, key=lambda found: found[0])


class Calibration:
    """Makes a probability of a score, the same way for all tags, without changing the order.

    A logistic regression sums up what speaks for a tag (Platt: *Probabilistic Outputs for Support
    Vector Machines*, 1999); an isotonic one corrects its probabilities (Zadrozny, Elkan:
    *Transforming Classifier Scores into Accurate Multiclass Probability Estimates*, KDD 2002).
    """

    PLATT_SHARE = 0.01  # of the first in the result: the second makes steps, which are ties

    def fit(self, evidence: Sequence[np.ndarray], truth: np.ndarray) -> Self:
        """Learn from arrays [N, V], each one kind of evidence, and truth, bool [N, V]."""
        some = np.random.default_rng(0).permutation(len(truth))
        some = some[: max(1, CALIBRATION_PAIRS // truth.shape[1])]
        x, y = np.stack([e[some].ravel() for e in evidence], axis=1), truth[some].ravel()
        self.platt = make_pipeline(StandardScaler(), LogisticRegression(C=1e3)).fit(x, y)
        self.isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        self.isotonic.fit(self.platt.predict_proba(x)[:, 1], y)
        return self

    def __call__(self, evidence: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities [N, V]."""
        x = np.stack([e.ravel() for e in evidence], axis=1)
        smooth = self.platt.predict_proba(x)[:, 1]
        corrected = self.isotonic.predict(smooth)
        p = self.PLATT_SHARE * smooth + (1 - self.PLATT_SHARE) * corrected
        return p.reshape(evidence[0].shape)


def _nets() -> ModuleType:
    from mmray.joint import dual_encoder  # which imports this file

    return dual_encoder


BASELINES: dict[str, Callable[[TagData, TagData, int], Baseline]] = {
    "prior": lambda train, val, seed: Prior().fit(train, val),
    "kNN": lambda train, val, seed: Neighbours().fit(train, val),
    "TagVote": lambda train, val, seed: TagVote().fit(train, val),
    "TagProp": lambda train, val, seed: TagProp().fit(train, val),
    "CCA": lambda train, val, seed: Cca().fit(train, val),
    "linear": lambda train, val, seed: Linear().fit(train, val),
    "MLP": lambda train, val, seed: _nets().Mlp(seed).fit(train, val),
    "MLP + kNN": lambda train, val, seed: _nets().MlpAndNeighbours(seed).fit(train, val),
    "dual encoder": lambda train, val, seed: _nets().DualEncoder(seed).fit(train, val),
}
"""Baselines of tags in the order of a table: from training pictures, validation pictures and a
seed to what has learned from them."""
