"""What pictures and tags tell of classes that no model of them was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler, normalize

from mmray.joint import metrics
from mmray.joint.baselines import TagData, linear, logistic_path
from mmray.joint.memory import Memory
from mmray.joint.metrics import class_map
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures, class_names, names_class, thinned, truth_of
from mmray.joint.scorer import Scorer

PENALTIES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
HELD_OUT = 0.2
REMOVED = (0, 25, 50, 75, 100)
"""Percent of the tags that are taken away."""
VOTES = (0.0, 0.5, 1.0, 2.0)
"""Weights of the nearest pictures' votes that are tried."""
Method = Callable[[TagData], np.ndarray]


def class_metrics(
    models: dict[str, Tagger], train: Pictures, test: Pictures, seed: int, hide: bool = True
) -> dict[str, float]:
    """`classes.*`, `p50.*` and `missing.*`: what pictures and tags tell of labels.

    Args:
        models: by name; the keys of others than `joint` have the name in them.
        train: pictures that the regressions learn from.
        test: pictures that are measured.
        seed: of what is drawn by lot.
        hide: do not show tags that name a class.

    Returns:
        Nothing where pictures have no labels.
    """
    classes = class_names(train)
    if len(classes) < 2 or not any(test.labels):
        return {}
    words = models["joint"].vocabulary.tags
    shown = np.array([not (hide and names_class(word, classes)) for word in words])
    train, test = (_of_classes(pictures, classes, shown) for pictures in (train, test))
    truth, wanted = truth_of(train, classes), truth_of(test, classes)
    methods = class_methods(TagData(train.features, train.tags), truth, seed)
    scores = _baseline_scores(methods, test, seed)
    for name, model in models.items():
        scores |= _model_scores(name, model.scorer, train, test, truth, seed)
    found = {}
    for name, values in scores.items():
        found[name] = class_map(values, wanted)
        if name.startswith("classes."):
            precision = metrics.class_precision_at_50(values, wanted)
            found[f"p50.{name.removeprefix('classes.')}"] = precision
    return found


def _of_classes(pictures: Pictures, classes: list[str], shown: np.ndarray) -> Pictures:
    """The pictures that have a class, with the tags that may be shown."""
    known = set(classes)
    rows = np.array([bool(known & set(labels)) for labels in pictures.labels], bool)
    chosen = pictures.take(rows)
    return Pictures(chosen.features, chosen.tags & shown, chosen.labels, chosen.ids)


def _baseline_scores(
    methods: dict[str, Method], test: Pictures, seed: int
) -> dict[str, np.ndarray]:
    names = {
        "image_baseline": "pictures",
        "tags_baseline": "tags",
        "concat_baseline": "pictures + tags",
        "average_baseline": "average",
    }
    whole = TagData(test.features, test.tags)
    scores = {f"classes.{key}": methods[name](whole) for key, name in names.items()}
    for percent in REMOVED:
        left = TagData(test.features, thinned(test.tags, percent, seed))
        scores[f"missing.linear.{percent}"] = methods["pictures + tags"](left)
    return scores


def _model_scores(
    name: str, scorer: Scorer, train: Pictures, test: Pictures, truth: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    key, group = ("", "missing") if name == "joint" else (f"{name}_", f"missing.{name}")
    probe = ClassProbe(scorer, train, truth, seed)
    scores = {
        f"classes.{key}both": probe.scores(test.features, test.tags),
        f"classes.{key}image": probe.scores(test.features, None),
        f"classes.{key}tags": probe.scores(None, test.tags),
    }
    known, asked = (
        {**scorer.pathways(p.features, p.tags), "jointly": scorer.vectors(p.features, p.tags)}
        for p in (train, test)
    )
    for side in known:
        found = ClassRegression([known[side]], truth, seed).scores([asked[side]])
        scores[f"classes.{key}{side}_pathway"] = found
    for percent in REMOVED:
        left = thinned(test.tags, percent, seed)
        scores[f"{group}.{percent}"] = probe.scores(test.features, left)
    return scores


class ClassProbe:
    """A class of pictures from the joint vector, by regression and by the nearest pictures.

    Beside the joint vector the regression may see what it was made of, if that does better on a
    held-out part of the training pictures; so is chosen, too, how much the nearest pictures count.

    Args:
        scorer: the model.
        train: pictures with the tags that may be shown.
        truth: their classes, bool [N, C].
        seed: of what is drawn by lot.
    """

    def __init__(self, scorer: Scorer, train: Pictures, truth: np.ndarray, seed: int) -> None:
        self.scorer, self.train, self.truth, self.seed = scorer, train, truth, seed
        self._fitted: dict[tuple[str, ...], _Fitted] = {}

    def scores(self, features: np.ndarray | None, tags: np.ndarray | None) -> np.ndarray:
        """Scores of the classes, [M, C]; without any tag a picture's are those of the picture."""
        scores = self._scores(features, tags)
        if features is not None and tags is not None and len(bare := np.flatnonzero(~tags.any(1))):
            scores[bare] = self._scores(features[bare], None)
        return scores

    def _scores(self, features: np.ndarray | None, tags: np.ndarray | None) -> np.ndarray:
        views = self._views(features, tags)
        key = tuple(views)
        if key not in self._fitted:
            known = self._views(
                None if features is None else self.train.features,
                None if tags is None else self.train.tags,
            )
            tried = [self._fit(known, names) for names in _CHOICES[key]]
            self._fitted[key] = max(tried, key=lambda fitted: fitted.quality)
        return self._fitted[key].scores(views)

    def _views(self, features: np.ndarray | None, tags: np.ndarray | None) -> dict[str, np.ndarray]:
        views = {"joint": self.scorer.vectors(features, tags)}
        if features is not None:
            views["features"] = features
        if tags is not None:
            views["bag"] = tags.astype(np.float32)
        if features is not None and tags is not None:
            views["tags"] = self.scorer.vectors(None, tags)
        return views

    def _fit(self, known: dict[str, np.ndarray], names: tuple[str, ...]) -> _Fitted:
        regression = ClassRegression([known[name] for name in names], self.truth, self.seed)
        near = _scaled(known, known, names)
        learned = np.setdiff1d(np.arange(len(near)), regression.held_rows)
        votes = Memory(near[learned], self.truth[learned]).votes(near[regression.held_rows])
        wanted = self.truth[regression.held_rows]
        quality, weight = max(
            (class_map(regression.held_scores + weight * votes, wanted), weight) for weight in VOTES
        )
        return _Fitted(names, quality, regression, Memory(near, self.truth), weight, known)


_CHOICES: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("joint", "features"): [("joint",), ("joint", "features"), ("features",)],
    ("joint", "bag"): [("joint",), ("joint", "bag")],
    ("joint", "features", "bag", "tags"): [
        ("joint", "tags"),
        ("joint", "tags", "features"),
        ("joint", "tags", "features", "bag"),
    ],
}
"""Views that a probe may see, by those that there are."""


@dataclass(frozen=True)
class _Fitted:
    names: tuple[str, ...]
    quality: float
    regression: ClassRegression
    memory: Memory
    weight: float
    known: dict[str, np.ndarray]

    def scores(self, views: dict[str, np.ndarray]) -> np.ndarray:
        votes = self.memory.votes(_scaled(views, self.known, self.names))
        return self.regression.scores([views[name] for name in self.names]) + self.weight * votes


def _scaled(
    views: dict[str, np.ndarray], like: dict[str, np.ndarray], names: Sequence[str]
) -> np.ndarray:
    """The views side by side, each standardised and of equal weight."""
    parts = [
        (views[n] - like[n].mean(0)) / (like[n].std(0) + 1e-6) / views[n].shape[1] ** 0.5
        for n in names
    ]
    return np.concatenate(parts, axis=1)


def class_methods(train: TagData, classes: np.ndarray, seed: int = 0) -> dict[str, Method]:
    """Classes of pictures from their features, from their tags, and from both, by regression.

    Tags are a bag of words, as it is or with rows of length 1: whichever does better on a held
    out part of `train`.

    Args:
        train: pictures with tags.
        classes: bool [N, C], those of `train`.
        seed: of the held out part.

    Returns:
        What gives probabilities, float [M, C], of M other pictures with tags, by `pictures`,
        `tags`, `pictures + tags` (one regression on both) and `average` (of the first two).
    """
    regression = ClassRegression([train.features], classes, seed)
    found: dict[str, Method] = {"pictures": lambda data: regression.scores([data.features])}
    for name, others in (("tags", False), ("pictures + tags", True)):
        tried = [_regression_of_tags(train, classes, seed, form, others) for form in _FORMS]
        found[name] = max(tried, key=lambda pair: pair[0])[1]
    alone = found["pictures"], found["tags"]
    return {**found, "average": lambda data: (alone[0](data) + alone[1](data)) / 2}


_FORMS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (np.asarray, normalize)


def _regression_of_tags(
    train: TagData,
    classes: np.ndarray,
    seed: int,
    form: Callable[[np.ndarray], np.ndarray],
    pictures: bool,
) -> tuple[float, Method]:
    def views(data: TagData) -> list[np.ndarray]:
        return [data.features] * pictures + [form(data.tags.astype(np.float32))]

    regression = ClassRegression(views(train), classes, seed)
    return regression.quality, lambda data: regression.scores(views(data))


class ClassRegression:
    """One logistic regression a class.

    Args:
        views: one or more views of N things, each float [N, D]. Features are standardised, and
            all views weigh the same.
        y: bool [N, C].
        seed: of the held out part on which the regularisation is chosen; `held_rows` are its
            rows and `held_scores` what was said of them before they were learned from, too.
    """

    def __init__(self, views: Sequence[np.ndarray], y: np.ndarray, seed: int = 0) -> None:
        self.scales = [StandardScaler().fit(view) for view in views]
        x, rows = self._inputs(views), np.arange(len(y))
        learned, self.held_rows = train_test_split(rows, test_size=HELD_OUT, random_state=seed)
        best: tuple[float, float, np.ndarray] | None = None
        for penalty, weights in logistic_path(x[learned], y[learned], PENALTIES):
            scores = expit(linear(x[self.held_rows], weights))
            quality = class_map(scores, y[self.held_rows])
            if best is None or quality > best[0]:
                best = quality, penalty, scores
        assert best is not None
        self.quality, chosen, self.held_scores = best
        *_, (_, self.weights) = logistic_path(x, y, [p for p in PENALTIES if p >= chosen])

    def _inputs(self, views: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(self.scales, views, strict=True)
        return np.hstack([scale.transform(v) / v.shape[1] ** 0.5 for scale, v in pairs])

    def scores(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each class, float [M, C]."""
        return expit(linear(self._inputs(views), self.weights))
