"""The protocol of MIR-Flickr: 38 classes, 10,000/5,000/10,000 pictures, five random splits."""

from __future__ import annotations

import numpy as np

from mmray.errors import UserError
from mmray.joint import metrics
from mmray.joint.classes import ClassRegression
from mmray.joint.evaluate import check_models
from mmray.joint.predict import Tagger
from mmray.joint.vocabulary import presence
from mmray.pipeline.dataset import Dataset, tensor

SIZES = (10_000, 5_000, 10_000)
SPLITS = 5


def mirflickr_protocol(
    models: dict[str, Tagger],
    dataset: Dataset,
    seed: int = 0,
    sizes: tuple[int, int, int] = SIZES,
) -> dict[str, float]:
    """Classes from the joint vector by logistic regression, as in Srivastava and Salakhutdinov.

    The joint model knows the pictures and their tags, never the classes. Each split draws
    pictures anew: the regression learns from the first part, its penalty is chosen on the second,
    and the third part is measured.

    Args:
        models: by name; the keys of others than `joint` have the name in them.
        dataset: all labelled pictures; their own splits are not used.
        seed: of the splits.
        sizes: pictures to train on, to validate and to test.

    Returns:
        `classes.both`, `classes.image`, `classes.tags` and `classes.*_baseline` (regression on
        features and tags as they are), MAP over classes, and `p50.*`, each
        as the mean over five splits, with the deviation as `*.std`; `p51.*` is the precision that
        the published code calls prec50.

    Raises:
        UserError: too few labelled pictures, or features of another backbone.
    """
    check_models(models, dataset)
    features, tags, truth = _labelled(models["joint"], dataset)
    if len(features) < sum(sizes):
        raise UserError(
            f"{dataset.uri}: has {len(features)} labelled pictures, the protocol needs "
            f"{sum(sizes)}: is it mirflickr:DIR of 25,000 pictures, with its annotations?"
        )
    views = _views(models, features, tags)
    runs = [_split(views, truth, sizes, [seed, i]) for i in range(SPLITS)]
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        found[name] = float(np.mean(values))
        found[f"{name}.std"] = float(np.std(values))
    return found


def _labelled(tagger: Tagger, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, tags, labels = [], [], []
    for table in dataset.batches(["features", "tags", "labels"], 1024):
        features.append(tensor(table["features"]).astype(np.float32))
        tags.append(presence(tagger.vocabulary, table["tags"].to_pylist()))
        labels += [set(found or []) for found in table["labels"].to_pylist()]
    classes = sorted(set().union(*labels)) if labels else []
    if not classes:
        raise UserError(f"{dataset.uri}: its pictures have no labels; the protocol needs classes")
    truth = np.array([[name in found for name in classes] for found in labels], bool)
    return np.concatenate(features), np.concatenate(tags), truth


def _views(
    models: dict[str, Tagger], features: np.ndarray, tags: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """What each regression sees of all pictures: joint vectors, and the inputs as they are."""
    bags = tags.astype(np.float32)
    views = {
        "image_baseline": [features],
        "tags_baseline": [bags],
        "concat_baseline": [features, bags],
    }
    for model, tagger in models.items():
        prefix = "" if model == "joint" else f"{model}_"
        views[f"{prefix}both"] = [tagger.scorer.vectors(features, tags)]
        views[f"{prefix}image"] = [tagger.scorer.vectors(features, None)]
        views[f"{prefix}tags"] = [tagger.scorer.vectors(None, tags)]
    return views


def _split(
    views: dict[str, list[np.ndarray]],
    truth: np.ndarray,
    sizes: tuple[int, int, int],
    seed: list[int],
) -> dict[str, float]:
    order = np.random.default_rng(seed).permutation(len(truth))
    learned, held, measured = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    found = {}
    for name, whole in views.items():
        known, asked, tested = ([x[rows] for x in whole] for rows in (learned, held, measured))
        regression = ClassRegression(known, truth[learned], asked, truth[held])
        scores = regression.scores(tested)
        found[f"classes.{name}"] = metrics.class_map(scores, truth[measured])
        found[f"p50.{name}"] = metrics.class_precision_at_50(scores, truth[measured])
        found[f"p51.{name}"] = metrics.class_precision_at_50(scores, truth[measured], deepnet=True)
    return found
