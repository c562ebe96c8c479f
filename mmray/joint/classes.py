"""What pictures and tags tell of classes that no model of them was told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit
from sklearn.preprocessing import StandardScaler, normalize

from mmray.joint import metrics
from mmray.joint.baselines import linear, logistic_path
from mmray.joint.memory import Memory
from mmray.joint.metrics import class_map
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures, class_names, names_class, thinned, truth_of
from mmray.joint.scorer import Scorer

PENALTIES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
REMOVED = (0, 25, 50, 75, 100)
"""Percent of the tags that are taken away."""
VOTES = (0.0, 0.25, 0.5, 1.0)
"""Weights of the nearest pictures' votes that are tried."""
Method = Callable[[Pictures], np.ndarray]
Views = Callable[[Pictures], list[np.ndarray]]


def class_metrics(
    models: dict[str, Tagger],
    train: Pictures,
    val: Pictures,
    test: Pictures,
    seed: int,
    hide: bool = True,
) -> dict[str, float]:
    """`classes.*`, `p50.*` and `missing.*`: what pictures and tags tell of labels.

    Args:
        models: by name; the keys of others than `joint` have the name in them.
        train: pictures that the regressions learn from.
        val: pictures on which settings are chosen.
        test: pictures that are measured.
        seed: of what is drawn by lot.
        hide: do not show tags that name a class.

    Returns:
        Nothing where the pictures of a split have no labels.
    """
    classes = class_names(train)
    if len(classes) < 2:
        return {}
    words = models["joint"].vocabulary.tags
    shown = np.array([not (hide and names_class(word, classes)) for word in words])
    train, val, test = (_of_classes(pictures, classes, shown) for pictures in (train, val, test))
    data = Labelled(train, truth_of(train, classes), val, truth_of(val, classes))
    wanted = truth_of(test, classes)
    if not (data.held_truth.any() and wanted.any()):
        return {}
    scores = _baseline_scores(class_methods(data), test, seed)
    for name, model in models.items():
        scores |= _model_scores(name, model.scorer, data, test, seed)
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
    scores = {f"classes.{key}": methods[name](test) for key, name in names.items()}
    for percent in REMOVED:
        left = replace(test, tags=thinned(test.tags, percent, seed))
        scores[f"missing.linear.{percent}"] = methods["pictures + tags"](left)
    return scores


def _model_scores(
    name: str, scorer: Scorer, data: Labelled, test: Pictures, seed: int
) -> dict[str, np.ndarray]:
    key, group = ("", "missing") if name == "joint" else (f"{name}_", f"missing.{name}")
    probe = ClassProbe(scorer, data)
    scores = {
        f"classes.{key}both": probe.scores(test.features, test.tags),
        f"classes.{key}image": probe.scores(test.features, None),
        f"classes.{key}tags": probe.scores(None, test.tags),
    }
    sides: dict[str, Views] = {
        "pictures": lambda p: [scorer.pathways(p.features, p.tags)["pictures"]],
        "tags": lambda p: [scorer.pathways(p.features, p.tags)["tags"]],
        "jointly": lambda p: [scorer.vectors(p.features, p.tags)],
    }
    for side, views in sides.items():
        scores[f"classes.{key}{side}_pathway"] = data.regression(views)[1](test)
    for percent in REMOVED:
        left = thinned(test.tags, percent, seed)
        told = probe.scores(test.features, left)
        # Who lost all tags is a picture alone; who never had one to show was like that in training.
        lost = ~left.any(axis=1) & (test.tags.any(axis=1) | (percent == 100))
        if lost.any():
            told[lost] = probe.scores(test.features[lost], None)
        scores[f"{group}.{percent}"] = told
    return scores


@dataclass(frozen=True)
class Labelled:
    """Pictures with the tags that may be shown, and their classes.

    Args:
        train: pictures to learn from.
        truth: their classes, bool [N, C].
        held: pictures that no model has learned from: settings are chosen on them.
        held_truth: their classes.
    """

    train: Pictures
    truth: np.ndarray
    held: Pictures
    held_truth: np.ndarray

    def regression(self, views: Views) -> tuple[float, Method]:
        """How well a regression on some views does on the pictures held out, and its scores."""
        found = ClassRegression(views(self.train), self.truth, views(self.held), self.held_truth)
        return found.quality, lambda pictures: found.scores(views(pictures))


class ClassProbe:
    """A class of pictures from the joint vector, by regression and by the nearest pictures.

    Beside the joint vector the regression may see what it was made of, if that does better on the
    pictures held out; so is chosen, too, how much the nearest pictures count. The training
    pictures cannot say it: the model has learned their tags, those that name classes among them.
    """

    def __init__(self, scorer: Scorer, data: Labelled) -> None:
        self.scorer, self.data = scorer, data
        self._fitted: dict[tuple[str, ...], _Fitted] = {}

    def scores(self, features: np.ndarray | None, tags: np.ndarray | None) -> np.ndarray:
        """Scores of the classes, [M, C], of pictures, tag sets, or both."""
        views = self._views(features, tags)
        key = tuple(views)
        if key not in self._fitted:
            known, held = (
                self._views(
                    None if features is None else pictures.features,
                    None if tags is None else pictures.tags,
                )
                for pictures in (self.data.train, self.data.held)
            )
            tried = [self._fit(known, held, names) for names in _CHOICES[key]]
            self._fitted[key] = max(tried, key=lambda fitted: fitted.quality)
        return self._fitted[key].scores(views)

    def _views(self, features: np.ndarray | None, tags: np.ndarray | None) -> dict[str, np.ndarray]:
        views = {"joint": self.scorer.vectors(features, tags)}
        if features is not None:
            views["features"] = features
        if tags is not None and features is not None:
            views["tags"] = self.scorer.vectors(None, tags)
        return views

    def _fit(
        self, known: dict[str, np.ndarray], held: dict[str, np.ndarray], names: tuple[str, ...]
    ) -> _Fitted:
        views = [[side[name] for name in names] for side in (known, held)]
        truth, wanted = self.data.truth, self.data.held_truth
        regression = ClassRegression(views[0], truth, views[1], wanted)
        memory = Memory(_scaled(known, known, names), truth)
        votes = memory.votes(_scaled(held, known, names))
        quality, weight = max(
            (class_map(regression.held_scores + weight * votes, wanted), weight) for weight in VOTES
        )
        return _Fitted(names, quality, regression, memory, weight, known)


_CHOICES: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("joint",): [("joint",)],
    ("joint", "features"): [("joint",), ("joint", "features")],
    ("joint", "features", "tags"): [("joint", "tags"), ("joint", "tags", "features")],
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
        told = self.regression.scores([views[name] for name in self.names])
        # From 0 to 1, so that pictures with tags and without can be ranked together.
        return (told + self.weight * votes) / (1 + self.weight)


def _scaled(
    views: dict[str, np.ndarray], like: dict[str, np.ndarray], names: Sequence[str]
) -> np.ndarray:
    """The views side by side, each standardised and of equal weight."""
    parts = [
        (views[n] - like[n].mean(0)) / (like[n].std(0) + 1e-6) / views[n].shape[1] ** 0.5
        for n in names
    ]
    return np.concatenate(parts, axis=1)


def class_methods(data: Labelled) -> dict[str, Method]:
    """Classes of pictures from their features, from their tags, and from both, by regression.

    Tags are a bag of words, as it is or with rows of length 1: whichever does better on the
    pictures held out.

    Returns:
        What gives probabilities, float [M, C], of M other pictures with tags, by `pictures`,
        `tags`, `pictures + tags` (one regression on both) and `average` (of the first two).
    """
    found = {"pictures": data.regression(lambda p: [p.features])[1]}
    for name, use_pictures in (("tags", False), ("pictures + tags", True)):
        tried = [data.regression(_views_of_tags(form, use_pictures)) for form in _FORMS]
        found[name] = max(tried, key=lambda pair: pair[0])[1]
    alone = found["pictures"], found["tags"]
    return {**found, "average": lambda p: (alone[0](p) + alone[1](p)) / 2}


_FORMS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (np.asarray, normalize)


def _views_of_tags(form: Callable[[np.ndarray], np.ndarray], use_pictures: bool) -> Views:
    return lambda p: [p.features] * use_pictures + [form(p.tags.astype(np.float32))]


class ClassRegression:
    """One logistic regression a class.

    Args:
        known: one or more views of N things, each float [N, D]. Features are standardised, and
            all views weigh the same.
        truth: bool [N, C].
        held: the same views of other things, on which the regularisation is chosen.
        held_truth: their classes. `held_scores` is what is said of them.
    """

    def __init__(
        self,
        known: Sequence[np.ndarray],
        truth: np.ndarray,
        held: Sequence[np.ndarray],
        held_truth: np.ndarray,
    ) -> None:
        self.scales = [StandardScaler().fit(view) for view in known]
        self.quality = -math.inf
        inputs, asked = self._inputs(known), self._inputs(held)
        for _, weights in logistic_path(inputs, truth, PENALTIES):
            scores = expit(linear(asked, weights))
            quality = class_map(scores, held_truth) if held_truth.any() else 0.0
            if quality > self.quality:
                self.quality, self.weights, self.held_scores = quality, weights, scores

    def _inputs(self, views: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(self.scales, views, strict=True)
        return np.hstack([scale.transform(v) / v.shape[1] ** 0.5 for scale, v in pairs])

    def scores(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each class, float [M, C]."""
        return expit(linear(self._inputs(views), self.weights))
