"""How useful a net's features are for other sounds: a linear SVM on each layer.

Protocol, for each layer on its own: the mean and the maximum over time of its output, for the
sound repeated, as a whole, to at least 10 s (as the published code does); features standardised on
the training folds; a linear SVM with C = 0.01; mean accuracy over folds. The folds are the set's
own where it has them (ESC-50), else 5 stratified ones over the classes with at least 5 sounds.
Beside each layer stands the same layer of an untrained net, and beside all of them MFCC
statistics under the same SVM.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from mmray import storage
from mmray.cli import console
from mmray.errors import MediaError, UserError
from mmray.pipeline.progress import ProgressLine
from mmray.soundnet.baselines import mfcc_statistics
from mmray.soundnet.predict import SoundNet

if TYPE_CHECKING:
    from mmray.sources import SoundItem

FOLDS = 5
MIN_S = 10.0
SVM_C = 0.01
FIRST_LAYER = "conv3"


def transfer(
    net: SoundNet,
    items: Iterable[SoundItem],
    layers: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, float]:
    """Classify a set of sounds by the features of each layer.

    Args:
        net: the net whose layers are tried.
        items: sounds with their class, and with their fold where the set has folds.
        layers: which layers; default all from `conv3` up.
        seed: of the stratified folds and of the untrained net.

    Returns:
        `transfer.LAYER`, `transfer.untrained_LAYER`, `transfer.mfcc` (accuracies),
        `transfer.commonest` (share of the commonest class), and the numbers of
        `transfer.sounds`, `transfer.classes`, `transfer.folds` and unreadable
        `transfer.skipped`.

    Raises:
        UserError: fewer than two classes are left, or the net has no such layer.
    """
    layers = list(layers) or net.layers[net.layers.index(FIRST_LAYER) :]
    for layer in layers:
        net.config.path(layer)
    usable = _usable(items)
    untrained = net.untrained(seed)
    rows: dict[str, list[np.ndarray]] = {}
    kept: list[SoundItem] = []
    for item, wave in _read(usable, net.config.sample_rate):
        kept.append(item)
        for name, x in _features(net, untrained, wave, layers).items():
            rows.setdefault(name, []).append(x)
    labels = np.array([item.label for item in kept])
    folds = _folds(kept, labels, seed)
    counts = Counter(labels.tolist())
    result: dict[str, float] = {
        f"transfer.{name}": _accuracy(np.stack(x), labels, folds) for name, x in rows.items()
    }
    return result | {
        "transfer.commonest": counts.most_common(1)[0][1] / len(kept),
        "transfer.sounds": len(kept),
        "transfer.classes": len(counts),
        "transfer.folds": len(set(folds.tolist())),
        "transfer.skipped": len(usable) - len(kept),
    }


def pooled(features: np.ndarray) -> np.ndarray:
    """Mean and maximum over time of [channels, time], as one vector."""
    return np.concatenate([features.mean(axis=1), features.max(axis=1)])


def _features(
    net: SoundNet, untrained: SoundNet, wave: np.ndarray, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """One vector for each row of the table."""
    rate = net.config.sample_rate
    long = np.tile(wave, math.ceil(MIN_S * rate / len(wave)))
    vectors = {"mfcc": mfcc_statistics(wave, rate)}
    for prefix, one in (("", net), ("untrained_", untrained)):
        outputs = one.many_features([long], rate, layers)[0]
        vectors |= {f"{prefix}{layer}": pooled(x) for layer, x in outputs.items()}
    return vectors


def _usable(items: Iterable[SoundItem]) -> list[SoundItem]:
    """Labelled sounds, of classes large enough to be split where the set has no folds."""
    usable = [item for item in items if item.label is not None]
    if not all(item.fold is not None for item in usable):
        sizes = Counter(item.label for item in usable)
        usable = [item for item in usable if sizes[item.label] >= FOLDS]
    classes = {item.label for item in usable}
    if len(classes) < 2:
        raise UserError(
            f"--sounds: holds {len(classes)} usable classes; expected at least 2 "
            f"(with {FOLDS} or more sounds each, where the set has no folds)"
        )
    return usable


def _read(items: Sequence[SoundItem], sample_rate: int) -> Iterator[tuple[SoundItem, np.ndarray]]:
    """The sounds one after another; unreadable ones are counted and left out."""
    from mmray.media.sound import read_sound

    with ProgressLine(console, "sounds", len(items)) as progress:
        for item in items:
            try:
                with storage.localized(item.uri) as path:
                    wave = read_sound(str(path), sample_rate=sample_rate)
            except MediaError as e:
                console.print(f"left out: {item.key}: {e.reason}", markup=False)
                progress.add(1, errors=1)
                continue
            yield item, wave
            progress.add(1)
    if progress.errors > len(items) // 5:
        raise UserError(f"--sounds: {progress.errors} of {len(items)} sounds cannot be read")


def _folds(items: Sequence[SoundItem], labels: np.ndarray, seed: int) -> np.ndarray:
    """The test fold of each sound."""
    from sklearn.model_selection import StratifiedKFold

    own = [item.fold for item in items]
    if all(fold is not None for fold in own):
        if len(set(own)) < 2:
            raise UserError("--sounds: all sounds are in one fold; expected at least 2 folds")
        return np.array(own)
    folds = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(labels, labels)):
        folds[test] = number
    return folds


def _accuracy(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Mean over folds of the accuracy of a linear SVM trained on the others."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    accuracies = []
    for fold in np.unique(folds):
        test = folds == fold
        # The dual solver and about the tolerance of liblinear, which the paper used; sklearn's
        # default is 1000 times stricter and takes minutes a layer on 50 classes.
        solver = LinearSVC(C=SVM_C, dual=True, tol=0.01, random_state=0)
        svm = make_pipeline(StandardScaler(), solver)
        svm.fit(features[~test], labels[~test])
        accuracies.append(np.mean(svm.predict(features[test]) == labels[test]))
    return float(np.mean(accuracies))


def transfer_table(metrics: dict[str, float]) -> Table:
    """The result of `transfer` as a table by layer."""
    sounds, classes, folds = (metrics[f"transfer.{x}"] for x in ("sounds", "classes", "folds"))
    table = Table(
        *("features", "accuracy", "the same untrained"),
        title=f"linear SVM on {sounds} sounds of {classes} classes, {folds} folds",
        title_justify="left",
    )
    for key in metrics:
        name = key.removeprefix("transfer.")
        untrained = f"transfer.untrained_{name}"
        if untrained in metrics:
            table.add_row(name, f"{metrics[key]:.3f}", f"{metrics[untrained]:.3f}")
    table.add_row("MFCC", f"{metrics['transfer.mfcc']:.3f}", "")
    table.add_row("always the commonest class", f"{metrics['transfer.commonest']:.3f}", "")
    return table
