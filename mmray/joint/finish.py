"""After the last step: what a model keeps of its dataset, and the model folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from mmray import storage
from mmray.errors import UserError
from mmray.joint.data import Sample
from mmray.joint.dbm import Dbm, DbmConfig
from mmray.joint.historic import DbmScorer
from mmray.joint.memory import Memory
from mmray.joint.model import JointConfig, JointModel
from mmray.joint.regression import KINDS, Kind, Moments, Regression, regressions
from mmray.joint.scorer import Scorer
from mmray.joint.vocabulary import Vocabulary, every_other, presence
from mmray.models import read_config
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.images import backbone_of
from mmray.pipeline.statistics import Statistics
from mmray.teachers.stored import find_nets, keep_nets

KIND = "joint"
FORMAT_VERSION = 3
MEMORY_ROWS = 50_000
CALIBRATION_ROWS = 5_000
CALIBRATION_PAIRS = 2_000_000
"""Pairs of picture and tag that the calibration is fitted on, spread over all of them."""
VISUAL_ROWS = 20_000
LEAST_JUDGED = 10
"""Pictures with a tag that it takes to say that pictures do not tell it."""
VISUAL_AUC = 0.6
"""Tags that pictures tell less well are not generated unless they are asked for."""


def finish(scorer: Scorer, data: str, where: str, training: dict[str, Any]) -> None:
    """Make memory, calibration and the tags' visual scores, and write the model folder.

    Args:
        scorer: a trained net and its vocabulary.
        data: the image dataset it was trained on.
        where: the model folder.
        training: record of the training.
    """
    dataset = Dataset(data, "images")
    vocabulary, statistics = scorer.vocabulary, scorer.statistics
    assert statistics is not None
    limit = training.get("limit")
    scorer.backbone = backbone_of(dataset)
    sample, moments = Sample(MEMORY_ROWS), Moments(len(statistics.mean), len(vocabulary))
    for features, tags in tagged_rows(dataset, "train", vocabulary, limit):
        sample.add(features, tags)
        if scorer.remembers:
            moments.add(scorer.standardised(features), tags)
    features, tags = (np.stack(column) for column in sample.columns())
    held_out = rows_with_tags(dataset, "val", vocabulary, CALIBRATION_ROWS, limit)
    some = np.random.default_rng(0).permutation(len(features))[:VISUAL_ROWS]
    scorer.visual = visual_scores(features[some], tags[some], statistics)
    vectors = scorer.picture_vectors(features)
    scorer.centre = vectors.mean(axis=0)
    scorer.looks = tags.T.astype(np.float32) @ vectors / np.maximum(tags.sum(0), 1)[:, None]
    scorer.looks[tags.sum(axis=0) == 0] = scorer.centre  # nothing is known: no direction
    if scorer.remembers:
        scorer.memory = Memory(scorer.vectors(features, None), tags)
        scorer.regressions = regressions(moments, scorer.standardised(held_out[0]), held_out[1])
    if len(held_out[0]):
        scorer.calibration = calibrate(scorer, *held_out)
    else:  # nothing is held out: the training pictures, each without its own memory
        own = np.arange(min(len(features), CALIBRATION_ROWS))
        scorer.calibration = calibrate(scorer, features[own], tags[own], own)
    save(scorer, where, training)


def tagged_rows(
    dataset: Dataset, split: str, vocabulary: Vocabulary, limit: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features float32 [n, D] and tags bool [n, V] of pictures that have known tags, streamed.

    Only of the first `limit` pictures of the split.
    """
    for table in dataset.batches(["features", "tags"], 1024, split=split, limit=limit):
        known = presence(vocabulary, table["tags"].to_pylist())
        chosen = known.any(axis=1)
        yield tensor(table["features"])[chosen].astype(np.float32), known[chosen]


def rows_with_tags(
    dataset: Dataset, split: str, vocabulary: Vocabulary, most: int, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`tagged_rows` as two arrays, [N, D] and [N, V]: a sample of `most` where there are more."""
    sample = Sample(most)
    for features, tags in tagged_rows(dataset, split, vocabulary, limit):
        sample.add(features, tags)
    if not len(sample):
        dim = int(backbone_of(dataset)["dim"])
        return np.zeros((0, dim), np.float32), np.zeros((0, len(vocabulary)), bool)
    features, tags = (np.stack(column) for column in sample.columns())
    return features, tags


def calibrate(
    scorer: Scorer, features: np.ndarray, tags: np.ndarray, own: np.ndarray | None = None
) -> dict[str, list[float]]:
    """Weights by which evidence becomes probability, for each kind of evidence.

    Args:
        scorer: net and memory.
        features: of held-out pictures, [N, D].
        tags: that they have, bool [N, V].
        own: their places in the memory, when they are in it.
    """
    given = every_other(tags)
    cases = {
        "picture": (features, None, tags, np.ones_like(tags)),
        "both": (features, given, tags, ~given),
        "tags": (None, given, tags, ~given),
    }
    weights = {}
    for name, (pictures, shown, wanted, counts) in cases.items():
        parts = scorer.evidence(pictures, shown, own)
        columns = [np.broadcast_to(part, wanted.shape)[counts] for part in parts]
        step = max(1, len(columns[0]) // CALIBRATION_PAIRS)
        x, y = np.stack([column[::step] for column in columns], axis=1), wanted[counts][::step]
        if len(np.unique(y)) < 2:
            weights[name] = [1.0, *[0.0] * len(parts)]
            continue
        fit = LogisticRegression(C=100.0, max_iter=200).fit(x, y)
        weights[name] = [*map(float, fit.coef_[0]), float(fit.intercept_[0])]
    return weights


def visual_scores(
    features: np.ndarray, tags: np.ndarray, statistics: Statistics, folds: int = 5
) -> np.ndarray:
    """How well pictures tell each tag: area under the ROC curve of held-out fifths, [V].

    A linear probe says it: cameras, years and awards are not in the picture, so that no model of
    pictures, however good, does better than chance at them. A tag of fewer than ten pictures
    cannot be judged, and has `VISUAL_AUC`.
    """
    x = ((features - statistics.mean) / statistics.std).clip(-6, 6)
    scores = np.zeros(tags.shape, np.float32)
    if len(x) < 2 * folds:
        return np.full(tags.shape[1], VISUAL_AUC)
    fold = np.arange(len(x)) % folds
    for i in range(folds):
        fit = Ridge(alpha=float(x.shape[1])).fit(x[fold != i], tags[fold != i])
        scores[fold == i] = fit.predict(x[fold == i])
    counts = tags.sum(axis=0)
    judged = (counts >= LEAST_JUDGED) & (counts < len(tags))
    return np.array(
        [
            roc_auc_score(tags[:, j], scores[:, j]) if judged[j] else VISUAL_AUC
            for j in range(tags.shape[1])
        ]
    )


def save(scorer: Scorer, where: str, training: dict[str, Any]) -> None:
    """Write a model folder; `config.json` comes last and makes it complete."""
    storage.remove(storage.join(where, "config.json"))
    state = scorer.model.state_dict().items()
    tensors = {name: t.detach().cpu().contiguous() for name, t in state}
    tensors |= {k: torch.from_numpy(v).contiguous() for k, v in scorer.kept().items()}
    storage.write_bytes(storage.join(where, "model.safetensors"), safetensors.torch.save(tensors))
    visual = [round(float(v), 4) for v in scorer.visual]
    tags = {**scorer.vocabulary.to_json(), "visual": visual}
    storage.write_json(storage.join(where, "tags.json"), tags)
    storage.write_bytes(storage.join(where, "README.md"), _card(scorer, training).encode())
    config = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "arch": scorer.arch,
        "sizes": asdict(scorer.model.config),
        "backbone": keep_nets(scorer.backbone, where),
        "tags_sha256": _sha256(scorer.vocabulary),
        "calibration": scorer.calibration,
        "training": training,
    }
    storage.write_json(storage.join(where, "config.json"), config)


def load(where: str) -> Scorer:
    """Read a model folder.

    Raises:
        UserError: it is not one of a joint model, or its files do not belong together.
    """
    config = read_config(where)
    if config.get("kind") != KIND:
        raise UserError(f"{where}: holds a model of kind {config.get('kind')!r}, expected {KIND!r}")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{where}: has format version {config.get('format_version')!r}; this mmray reads "
            f"version {FORMAT_VERSION}, so train the model again"
        )
    names = storage.join(where, "tags.json")
    record = storage.read_json(names)
    vocabulary = Vocabulary.from_json(record, names)
    try:
        model, kind = _new(config["arch"], config["sizes"])
        with storage.localized(storage.join(where, "model.safetensors")) as path:
            tensors = safetensors.torch.load_file(path)
        kept = {
            k: tensors.pop(k).numpy()
            for k in list(tensors)
            if k.startswith(("memory.", "regression.")) or k in ("search.centre", "search.looks")
        }
        model.load_state_dict(tensors)
        memory = Memory.from_tensors(kept, len(vocabulary))
        found = _regressions(kept)
        backbone = find_nets(config["backbone"], where)
        visual = np.asarray(record["visual"], np.float32)
        if not len(vocabulary) == model.config.num_tags == len(visual):
            raise ValueError("tags.json names another number of tags than the net has")
        if kind.remembers and list(found) != list(KINDS):
            raise ValueError("model.safetensors lacks a regression")
        if _sha256(vocabulary) != config["tags_sha256"]:
            raise ValueError("tags.json is of another model")
        calibration = {str(k): list(map(float, config["calibration"][k])) for k in KINDS}
        if any(len(weights) != kind.num_evidence + 1 for weights in calibration.values()):
            raise ValueError("calibration: expected a weight for each evidence, and a constant")
        return kind(
            model.eval(),
            vocabulary,
            memory,
            found,
            kept["search.looks"],
            calibration,
            visual,
            kept["search.centre"],
            backbone,
        )
    except (
        *(KeyError, TypeError, ValueError, RuntimeError, FileNotFoundError),
        safetensors.SafetensorError,
    ) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{where}: its files do not belong together ({e})") from e


def _sha256(vocabulary: Vocabulary) -> str:
    return hashlib.sha256("\n".join(vocabulary.tags).encode()).hexdigest()


def _regressions(kept: dict[str, np.ndarray]) -> dict[Kind, Regression]:
    names = {kind: f"regression.{kind}" for kind in KINDS}
    return {
        kind: Regression(kept[f"{name}.weight"], kept[f"{name}.offset"])
        for kind, name in names.items()
        if f"{name}.weight" in kept
    }


def _new(arch: str, sizes: dict[str, Any]) -> tuple[JointModel | Dbm, type[Scorer]]:
    if arch == DbmScorer.arch:
        return Dbm(DbmConfig(**sizes)), DbmScorer
    if arch != Scorer.arch:
        raise ValueError(f"arch is {arch!r}, expected {Scorer.arch!r} or {DbmScorer.arch!r}")
    return JointModel(JointConfig(**sizes)), Scorer


def _card(scorer: Scorer, training: dict[str, Any]) -> str:
    useless = [
        t for t, v in zip(scorer.vocabulary.tags, scorer.visual, strict=True) if v < VISUAL_AUC
    ]
    metrics = ", ".join(f"{k} {v:.3f}" for k, v in training.get("val", {}).items())
    return f"""# Joint model of pictures and tags

Knows {len(scorer.vocabulary)} tags, for example {", ".join(scorer.vocabulary.tags[:12])}.
Remembers {len(scorer.memory)} training pictures. On held-out pictures: {metrics or "not measured"}.

    import mmray
    tagger = mmray.load("this folder")
    tagger.tags([picture], k=5)            # picture: uint8 [height, width, 3]
    tagger.search(plus=["sunset"], minus=["beach"], k=10)

Tags that pictures do not tell, and that are not generated unless asked for: \
{", ".join(useless[:30]) or "none"}.

Its tags are those that people gave to the training pictures, with their language, errors and
prejudices; a probability says how likely such a person would give the tag, not that it is true.
"""
