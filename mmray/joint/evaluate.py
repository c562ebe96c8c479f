"""A joint model beside its baselines, on pictures that none of them has seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from mmray.errors import UserError
from mmray.joint import arithmetic, metrics
from mmray.joint.baselines import BASELINES, Linear, TagData
from mmray.joint.classes import class_metrics
from mmray.joint.data import Sample
from mmray.joint.predict import Tagger
from mmray.joint.probes import Pictures
from mmray.joint.vocabulary import every_other, presence
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.images import backbone_of
from mmray.teachers.stored import check_same_nets
from mmray.toyworld.words import USELESS_TAGS

MOST_TRAIN = 20_000
"""Training pictures that the baselines learn from, whose cost grows with their square."""
RETRIEVAL_POOL = 1_000
MEASURES = ("tags", "completed", "classes", "retrieval", "arithmetic", "analogies", "useless")


@dataclass(frozen=True)
class Splits:
    """The pictures of each split, and which tags are measured.

    Args:
        train: pictures that baselines and probes learn from.
        val: pictures that settings are chosen on. Never those that are measured: without any,
            and when the split val is measured, every fifth training picture.
        test: pictures that are measured.
        measured: bool [V]: tags of enough training pictures.
    """

    train: Pictures
    val: Pictures
    test: Pictures
    measured: np.ndarray

    def rest(self) -> Pictures:
        """The pictures that are not measured on."""
        return Pictures(
            np.concatenate([self.train.features, self.val.features]),
            np.concatenate([self.train.tags, self.val.tags]),
            [*self.train.labels, *self.val.labels],
            [*self.train.ids, *self.val.ids],
        )

    def tag_data(self, split: str) -> TagData:
        """Features and measured tags of the pictures that have any (of the test split: of all)."""
        pictures: Pictures = getattr(self, split)
        tags = pictures.tags[:, self.measured]
        rows = tags.any(axis=1) if split != "test" else np.ones(len(tags), bool)
        return TagData(pictures.features[rows], tags[rows])


def read_splits(
    tagger: Tagger, dataset: Dataset, split: str, limit: int | None, min_count: int
) -> Splits:
    """The pictures to learn from and to measure on.

    Raises:
        UserError: the dataset was made with another backbone than the model's.
    """
    check_backbone(tagger, dataset)
    train, counts = _sample(tagger, dataset, "train", MOST_TRAIN)
    val, _ = _sample(tagger, dataset, "val", MOST_TRAIN)
    test = _first(tagger, dataset, split, limit)
    if not len(test):
        raise UserError(f"{dataset.uri}: has no pictures of the split {split!r} to measure on")
    if split == "val" or not val.tags.any():
        fifth = np.arange(len(train)) % 5 == 4
        train, val = train.take(~fifth), train.take(fifth)
    measured = counts >= min_count
    if not measured.any():
        raise UserError(
            f"{dataset.uri}: none of the model's {len(tagger.vocabulary)} tags occurs in "
            f"{min_count} or more training pictures; is it the model of another dataset?"
        )
    return Splits(train, val, test, measured)


def check_models(models: dict[str, Tagger], dataset: Dataset) -> None:
    """Refuse models that cannot be compared with `joint` on a dataset.

    Raises:
        UserError: the dataset is of another backbone, or a model knows other tags.
    """
    for name, model in models.items():
        check_backbone(model, dataset)
        if model.vocabulary.tags != models["joint"].vocabulary.tags:
            raise UserError(
                f"--{name}: knows other tags than --model; train both with the same --min-count, "
                "--max-tags and --limit"
            )


def check_backbone(tagger: Tagger, dataset: Dataset) -> None:
    """Refuse features that other nets made than the model's.

    Raises:
        UserError: names both.
    """
    check_same_nets(tagger.scorer.backbone, backbone_of(dataset), dataset.uri)


Columns = tuple[np.ndarray, np.ndarray, list[list[str]], list[str]]
"""Features, tags, labels and ids, as `Pictures` has them."""


def _stream(
    tagger: Tagger, dataset: Dataset, split: str, limit: int | None = None
) -> Iterator[Columns]:
    columns = ["id", "features", "tags", "labels"]
    for table in dataset.batches(columns, 1024, split=split, limit=limit):
        yield (
            tensor(table["features"]).astype(np.float32),
            presence(tagger.vocabulary, table["tags"].to_pylist()),
            [found or [] for found in table["labels"].to_pylist()],
            table["id"].to_pylist(),
        )


def _sample(tagger: Tagger, dataset: Dataset, split: str, most: int) -> tuple[Pictures, np.ndarray]:
    """At most so many of the pictures with known tags or labels, and in how many each tag is."""
    sample, counts = Sample(most), np.zeros(len(tagger.vocabulary), int)
    for features, tags, labels, ids in _stream(tagger, dataset, split):
        counts += tags.sum(axis=0)
        known = tags.any(axis=1) | np.array([bool(found) for found in labels])
        rows = np.flatnonzero(known)
        chosen = [labels[i] for i in rows], [ids[i] for i in rows]
        sample.add(features[rows], tags[rows], *chosen)
    if not len(sample):
        return _joined(tagger, []), counts
    vectors, sets, found, names = sample.columns()
    return Pictures(np.stack(vectors), np.stack(sets), found, names), counts


def _first(tagger: Tagger, dataset: Dataset, split: str, limit: int | None) -> Pictures:
    """The first pictures of a split, with tags or without."""
    return _joined(tagger, list(_stream(tagger, dataset, split, limit)))


def _joined(tagger: Tagger, parts: list[Columns]) -> Pictures:
    dim, words = tagger.scorer.model.config.feature_dim, len(tagger.vocabulary)
    return Pictures(
        np.concatenate([np.zeros((0, dim), np.float32), *(part[0] for part in parts)]),
        np.concatenate([np.zeros((0, words), bool), *(part[1] for part in parts)]),
        [found for part in parts for found in part[2]],
        [name for part in parts for name in part[3]],
    )


def evaluate(
    tagger: Tagger,
    dataset: Dataset,
    split: str = "test",
    *,
    limit: int | None = None,
    min_count: int = 10,
    seed: int = 0,
    others: dict[str, Tagger] | None = None,
    analogies: list[tuple[str, str, str, str]] | None = None,
    useless: Collection[str] = (),
    class_tags: bool = False,
    baselines: Collection[str] | None = None,
    measure: Collection[str] = MEASURES,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Everything that is measured of a joint model, by flat names; see docs/joint.md.

    Args:
        tagger: the model.
        dataset: pictures with features of the model's backbone.
        split: the split to measure on.
        limit: only its first pictures.
        min_count: measure tags of at least so many training pictures.
        seed: of baselines and of what is drawn by lot.
        others: more models for the same table, by name.
        analogies: questions `a is to b as c is to d`.
        useless: tags that are known to tell nothing of a picture.
        class_tags: show tags that name a class when classes are asked for.
        baselines: which of `BASELINES` to run; None for all.
        measure: which of `MEASURES` to take.
        report: called with a line of progress.

    Raises:
        UserError: the model and the dataset do not belong together.
    """
    chosen = list(BASELINES) if baselines is None else list(baselines)
    if unknown := set(chosen) - set(BASELINES):
        known = ", ".join(BASELINES)
        raise UserError(f"--baselines {', '.join(sorted(unknown))}: expected some of {known}")
    models = {"joint": tagger, **(others or {})}
    check_models(models, dataset)
    data = read_splits(tagger, dataset, split, limit, min_count)
    steps: dict[str, Callable[[], dict[str, float]]] = {
        "tags": lambda: tag_metrics(tagger, data, chosen, seed, others or {}, report),
        "completed": lambda: completed_metrics(tagger, data, others or {}),
        "classes": lambda: class_metrics(
            models, data.train, data.val, data.test, seed, not class_tags
        ),
        "retrieval": lambda: _each(models, lambda m: retrieval_metrics(m, data)),
        "arithmetic": lambda: _each(
            models, lambda m: arithmetic.swap_metrics(m, data.test, data.rest(), seed)
        ),
        "analogies": lambda: _each(
            models, lambda m: arithmetic.analogy_metrics(m, analogies or [])
        ),
        "useless": lambda: useless_metrics(tagger, useless),
    }
    found: dict[str, float] = {}
    for name in measure:
        report(f"measuring {name}")
        found |= steps[name]()
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _each(
    models: dict[str, Tagger], measure: Callable[[Tagger], dict[str, float]]
) -> dict[str, float]:
    """What is measured of each model: `GROUP.NAME`, of others than `joint` `GROUP.MODEL.NAME`."""
    found = {}
    for model, tagger in models.items():
        for name, value in measure(tagger).items():
            group, _, rest = name.partition(".")
            found[name if model == "joint" else f"{group}.{model}.{rest}"] = value
    return found


def tag_metrics(
    tagger: Tagger,
    data: Splits,
    baselines: Sequence[str],
    seed: int,
    others: dict[str, Tagger],
    report: Callable[[str], None],
) -> dict[str, float]:
    """`tags.METHOD.MEASURE`, from the picture alone."""
    train, val, test = (data.tag_data(name) for name in ("train", "val", "test"))
    scores = {}
    for name in baselines:
        report(f"baseline: {name}")
        scores[name] = BASELINES[name](train, val, seed).scores(test.features)
    for name, model in {**others, "joint": tagger}.items():
        scores[name] = model.scorer.probabilities(test.features)[:, data.measured]
    return _flat("tags", scores, test.tags)


def completed_metrics(tagger: Tagger, data: Splits, others: dict[str, Tagger]) -> dict[str, float]:
    """`completed.METHOD.MEASURE`: half of the tags, from the picture, the other half, or both."""
    halves = {}
    for name in ("train", "val", "test"):
        pictures: Pictures = getattr(data, name)
        pictures = pictures.take(np.flatnonzero(pictures.tags.any(axis=1)))
        shown = every_other(pictures.tags)
        halves[name] = (pictures.features, shown, pictures.tags & ~shown)
    features, shown, hidden = halves["test"]
    rows, measured = hidden.any(axis=1), data.measured
    scores = {}
    for name, use in (("linear pictures", "p"), ("linear tags", "t"), ("linear both", "pt")):
        views = {
            k: np.concatenate([*([x] if "p" in use else []), *([s] if "t" in use else [])], axis=1)
            for k, (x, s, _) in halves.items()
        }
        parts = {
            k: TagData(views[k].astype(np.float32), halves[k][2][:, measured])
            for k in ("train", "val")
        }
        scores[name] = Linear().fit(parts["train"], parts["val"]).scores(views["test"])
    for name, model in {**others, "joint": tagger}.items():
        scores[f"{name} tags"] = model.scorer.probabilities(None, shown)[:, measured]
        scores[f"{name} both"] = model.scorer.probabilities(features, shown)[:, measured]
    scores = {k: np.where(shown[:, measured], 0, v)[rows] for k, v in scores.items()}
    return _flat("completed", scores, hidden[rows][:, measured])


def _flat(group: str, scores: dict[str, np.ndarray], truth: np.ndarray) -> dict[str, float]:
    return {
        f"{group}.{method_key(method)}.{name}": value
        for method, values in scores.items()
        for name, value in metrics.evaluate_tags(values, truth).items()
    }


def method_key(method: str) -> str:
    """What a method of tags is called in names of metrics."""
    return method.replace(" + ", "_").replace(" ", "_").lower()


def useless_of(dataset: Dataset) -> Collection[str]:
    """Tags that are known to tell nothing of a picture: the toy world's, where it is of it."""
    toy = str(dataset.manifest.get("source", "")).split(":")[0] == "toy"
    return USELESS_TAGS if toy else ()


def useless_metrics(tagger: Tagger, useless: Collection[str]) -> dict[str, float]:
    """`useless.auc`: how surely a useless tag is told from a useful one, .5 to 1."""
    truth = np.array([tag not in useless for tag in tagger.vocabulary.tags])
    if truth.all() or not truth.any():
        return {}
    return {"useless.auc": float(roc_auc_score(truth, tagger.scorer.visual))}


def retrieval_metrics(tagger: Tagger, data: Splits) -> dict[str, float]:
    """`retrieval.image_to_tags.*` and `retrieval.tags_to_image.*` among 1,000 pairs."""
    tags = data.test.tags[:, data.measured]
    rows = np.flatnonzero(tags.any(axis=1))[:RETRIEVAL_POOL]
    if len(rows) < 2:
        return {}
    pool = data.test.take(rows)
    pictures = tagger.scorer.picture_vectors(pool.features)
    sets = tagger.scorer.tag_vectors(pool.tags.astype(np.float32))
    ways = metrics.retrieval_both_ways(pictures @ sets.T)
    names = {"to_tags": "image_to_tags", "to_images": "tags_to_image"}
    found = {}
    for key, value in ways.items():
        way, measure = key.split(".")
        found[f"retrieval.{names[way]}.{measure}"] = value
    return found
