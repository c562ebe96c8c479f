"""How well a student agrees with its teachers, and whether it hears what is really there.

On the clips of one split, frame by frame; HEAD is `objects` or `scenes`:

- against the teacher, where both have the same classes: `HEAD.top1` (both have the same likeliest
  class), `HEAD.top5` (the teacher's is among the student's five likeliest) and `HEAD.kl` (KL
  divergence from the teacher's posterior to the student's, in nats); beside the prior, which
  always says the mean posterior of the training clips: `HEAD.top1_prior` and so on.
  `HEAD.top1_ci95` is half the width of the 95 % interval, over clips;
- against the truth, where the dataset knows it: `labels.HEAD`, the share of frames in which the
  student's likeliest class is a true one; beside the commonest true class
  (`labels.prior_HEAD`), the teacher itself (`labels.teacher_HEAD`) and a logistic regression on
  MFCCs trained on the true labels, which the student never saw (`labels.mfcc_HEAD`); over
  `labels.frames_HEAD` frames;
- `clips` and `frames`: how many there were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from mmray.cli import console
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor, waveform
from mmray.pipeline.progress import ProgressLine
from mmray.soundnet.baselines import mfcc_statistics
from mmray.soundnet.config import HEADS

if TYPE_CHECKING:
    import pyarrow as pa
    from sklearn.pipeline import Pipeline

    from mmray.soundnet.predict import SoundNet


class NotComparable(UserError):
    """A model and a dataset that have no classes in common."""


TRUTH = {"objects": "object:", "scenes": "place:"}
"""How the true labels of a frame begin, by the head that should name them."""
MFCC_TRAIN_CLIPS = 4000
Named = list[list[str]]
"""The class that a method names in each frame, [N][T]."""
_FLOOR = 1e-8  # of the prior's probabilities: float16 posteriors may hold exact zeros


def evaluate(
    net: SoundNet,
    data: Dataset,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
) -> dict[str, float]:
    """Measure a student on one split of a clip dataset.

    Args:
        net: the student.
        data: clips with the teachers' posteriors.
        split: `train`, `val` or `test`.
        limit: only so many clips.
        batch_size: clips read at once.

    Returns:
        Fractions, and KL in nats, by the flat names that the module's docstring lists.

    Raises:
        UserError: the split is empty, or student and dataset have no classes in common.
    """
    teachers = {h: names for h, names in data.classes.items() if h in HEADS}
    prior = _Prior.of(data, list(teachers))
    agreements = _agreements(net, teachers, prior)
    truths = {h: _Truth(h, prior) for h, names in net.classes.items() if prior.has(h, names)}
    if not agreements and not truths:
        raise NotComparable(f"{data.uri}: no teacher and no true label has the model's classes")
    mfcc = _Mfcc.of(data, list(truths))
    result: dict[str, float] = {"clips": 0, "frames": 0}
    with ProgressLine(console, "clips", _count(data, split, limit)) as progress:
        for batch in _batches(data, split, limit, batch_size, list(teachers)):
            student = net.log_probabilities(
                batch.waves, batch.sample_rate, batch.frame_times, batch.window_s
            )
            heard = mfcc.named(batch)
            for h, agreement in agreements.items():
                agreement.add(batch.posteriors[h], student[h])
            for h, truth in truths.items():
                ours = _likeliest(student[h], net.classes[h])
                seen = _likeliest(batch.posteriors.get(h), teachers.get(h))
                truth.add(batch.truth, {"": ours, "teacher_": seen, "mfcc_": heard.get(h)})
            result["clips"] += len(batch.waves)
            result["frames"] += batch.frame_times.size
            progress.add(len(batch.waves))
    if not result["clips"]:
        raise UserError(f"{data.uri}: has no clips in the split {split!r}")
    for agreement in agreements.values():
        result |= agreement.result()
    for truth in truths.values():
        result |= truth.result()
    return result


def confusion(
    net: SoundNet,
    data: Dataset,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
) -> dict[str, tuple[list[str], np.ndarray]]:
    """How often the student names one class where the teacher names another.

    Returns:
        For each head that student and teacher share, its classes and the counts of frames, int64
        [teacher's class, student's class].
    """
    orders = {
        head: (names, order)
        for head, names in data.classes.items()
        if head in HEADS and (order := _class_order(net.classes.get(head, []), names)) is not None
    }
    found = {h: (names, np.zeros((len(names),) * 2, np.int64)) for h, (names, _) in orders.items()}
    for batch in _batches(data, split, limit, batch_size, [*orders]):
        student = net.log_probabilities(
            batch.waves, batch.sample_rate, batch.frame_times, batch.window_s
        )
        for head, (_, order) in orders.items():
            pairs = batch.posteriors[head].argmax(-1), student[head][..., order].argmax(-1)
            np.add.at(found[head][1], pairs, 1)
    return found


def _agreements(
    net: SoundNet, teachers: dict[str, list[str]], prior: _Prior
) -> dict[str, _Agreement]:
    """A tally for each head that student and teachers share; says so where they do not."""
    tallies = {}
    for head, names in teachers.items():
        order = _class_order(net.classes.get(head, []), names)
        if order is None:
            console.print(f"{head}: the model's classes are not the teacher's; not compared")
        else:
            tallies[head] = _Agreement(head, order, prior.mean[head])
    return tallies


@dataclass
class _Batch:
    """Clips of one dataset: sounds, frames, and what is known about the frames."""

    waves: list[np.ndarray]
    sample_rate: int
    frame_times: np.ndarray
    window_s: np.ndarray
    posteriors: dict[str, np.ndarray]
    truth: list[list[list[str]]]

    def windows(self, clip: int) -> Iterator[np.ndarray]:
        """The sound around each frame of a clip."""
        for t in self.frame_times[clip]:
            low = (t - self.window_s[clip] / 2) * self.sample_rate
            high = low + self.window_s[clip] * self.sample_rate
            yield self.waves[clip][max(0, math.floor(low)) : max(1, math.ceil(high))]


def _batches(
    data: Dataset, split: str, limit: int | None, batch_size: int, heads: Sequence[str]
) -> Iterator[_Batch]:
    encoding = data.manifest["options"]["audio"]
    columns = ["audio", "sample_rate", "duration_s", "frame_times", "frame_labels", *heads]
    for table in data.batches(columns, batch_size, split, limit):
        times = tensor(table["frame_times"]).astype(np.float64)
        rates = set(table["sample_rate"].to_pylist())
        assert len(rates) == 1, "one dataset has one sample rate"
        yield _Batch(
            waves=[waveform(value.as_buffer(), encoding) for value in table["audio"]],
            sample_rate=rates.pop(),
            frame_times=times,
            window_s=np.asarray(table["duration_s"], dtype=np.float64) / times.shape[1],
            posteriors={h: _posterior(table, h) for h in heads},
            truth=_truth(table),
        )


def _posterior(table: pa.Table, head: str) -> np.ndarray:
    """A teacher's posteriors as float64 [N, T, K]; float16 rounding is normalised away."""
    p = tensor(table[head]).astype(np.float64)
    return p / p.sum(axis=-1, keepdims=True)


def _truth(table: pa.Table) -> list[list[list[str]]]:
    return [row or [] for row in table["frame_labels"].to_pylist()]


def _names(labels: Sequence[str], head: str) -> list[str]:
    """The true classes of one frame that `head` should name."""
    return [x.removeprefix(TRUTH[head]) for x in labels if x.startswith(TRUTH[head])]


def _count(data: Dataset, split: str, limit: int | None) -> int:
    rows = data.read(["split"], split).num_rows
    return rows if limit is None else min(rows, limit)


def _class_order(ours: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Where each of the teacher's classes is among the student's; None when they differ."""
    if sorted(ours) != sorted(theirs):
        return None
    return list(range(len(ours))) if list(ours) == list(theirs) else [ours.index(x) for x in theirs]


def _likeliest(scores: np.ndarray | None, classes: Sequence[str] | None) -> Named | None:
    """The likeliest class of each frame, [N][T], from [N, T, K]; None where there is no head."""
    if scores is None or classes is None:
        return None
    return [[classes[i] for i in clip] for clip in scores.argmax(-1)]


@dataclass
class _Prior:
    """What the training clips say before anything is heard."""

    mean: dict[str, np.ndarray] = field(default_factory=dict)
    truth: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Dataset, heads: Sequence[str]) -> _Prior:
        """Read the posteriors and labels of the training split; no sound."""
        prior = cls(truth={h: Counter() for h in HEADS})
        sums: dict[str, np.ndarray] = {}
        for table in data.batches([*heads, "frame_labels"], 512, "train"):
            for h in heads:
                sums[h] = sums.get(h, 0.0) + _posterior(table, h).sum(axis=(0, 1))
            for frame in (frame for clip in _truth(table) for frame in clip):
                for h, counts in prior.truth.items():
                    counts.update(_names(frame, h))
        if not sums:
            raise UserError(f"{data.uri}: has no training clips, which the prior is made from")
        for h, total in sums.items():
            floored = np.maximum(total / total.sum(), _FLOOR)
            prior.mean[h] = floored / floored.sum()
        return prior

    def has(self, head: str, classes: Sequence[str]) -> bool:
        """Whether any of these classes is a true one of the dataset."""
        return bool(self.truth[head].keys() & set(classes))

    def commonest(self, head: str) -> str:
        """The commonest true class."""
        return self.truth[head].most_common(1)[0][0]


@dataclass
class _Agreement:
    """Sums over frames of how a student and the prior agree with a teacher."""

    head: str
    order: list[int]
    prior: np.ndarray
    clips: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, teacher: np.ndarray, student: np.ndarray) -> None:
        """Add clips: the teacher's posteriors and the student's log-probabilities, [N, T, K]."""
        student = student[..., self.order]
        log_teacher = np.log(teacher, out=np.zeros_like(teacher), where=teacher > 0)
        best = teacher.argmax(-1)
        for suffix, log_q in (("", student.astype(np.float64)), ("_prior", np.log(self.prior))):
            log_q = np.broadcast_to(log_q, teacher.shape)
            # Rank of the teacher's class among the student's; ties count against the student.
            chosen = np.take_along_axis(log_q, best[..., None], -1)
            rank = (log_q >= chosen).sum(-1) - 1
            values = {
                "top1": rank < 1,
                "top5": rank < 5,
                "kl": (teacher * (log_teacher - log_q)).sum(-1),
            }
            for name, x in values.items():
                self.clips.setdefault(name + suffix, []).append(x.mean(axis=1))

    def result(self) -> dict[str, float]:
        """Means over frames, by flat name."""
        values = {name: np.concatenate(parts) for name, parts in self.clips.items()}
        means = {name: float(x.mean()) for name, x in values.items()}
        # Frames of one clip are alike, so the interval is over clips.
        top1 = values["top1"]
        means["top1_ci95"] = float(1.96 * top1.std() / math.sqrt(len(top1)))
        return {f"{self.head}.{name}": value for name, value in means.items()}


@dataclass
class _Truth:
    """Counts the frames in which each method names a true class of one head."""

    head: str
    prior: _Prior
    frames: int = 0
    right: dict[str, int] = field(default_factory=dict)

    def add(self, truth: list[list[list[str]]], named: dict[str, Named | None]) -> None:
        """Add clips: true labels of each frame [N][T], and what each method that can names."""
        commonest = self.prior.commonest(self.head)
        methods = {who: names for who, names in named.items() if names is not None}
        for i, clip in enumerate(truth):
            for t, labels in enumerate(clip):
                wanted = _names(labels, self.head)
                if not wanted:
                    continue
                self.frames += 1
                answers = {"prior_": commonest, **{who: x[i][t] for who, x in methods.items()}}
                for who, answer in answers.items():
                    self.right[who] = self.right.get(who, 0) + (answer in wanted)

    def result(self) -> dict[str, float]:
        """Accuracies by flat name; none where the split has no labelled frame."""
        if not self.frames:
            return {}
        return {
            f"labels.frames_{self.head}": self.frames,
            **{f"labels.{who}{self.head}": n / self.frames for who, n in self.right.items()},
        }


@dataclass
class _Mfcc:
    """Logistic regression on the MFCCs around a frame, trained on the frames' true labels."""

    classifiers: dict[str, Pipeline]

    @classmethod
    def of(cls, data: Dataset, heads: Sequence[str]) -> _Mfcc:
        """Train on the training split."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features: dict[str, list[np.ndarray]] = {h: [] for h in heads}
        labels: dict[str, list[str]] = {h: [] for h in heads}
        for batch in _batches(data, "train", MFCC_TRAIN_CLIPS, 16, []) if heads else ():
            vectors = _mfcc_vectors(batch)
            for i, clip in enumerate(batch.truth):
                for t, frame in enumerate(clip):
                    for h in heads:
                        if names := _names(frame, h):
                            features[h].append(vectors[i, t])
                            labels[h].append(names[0])
        classifiers = {
            h: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
                np.stack(features[h]), labels[h]
            )
            for h in heads
            if len(set(labels[h])) > 1
        }
        return cls(classifiers)

    def named(self, batch: _Batch) -> dict[str, Named]:
        """The class heard in each frame, [N][T], by head."""
        if not self.classifiers:
            return {}
        vectors = _mfcc_vectors(batch)
        flat = vectors.reshape(-1, vectors.shape[-1])
        return {
            h: classifier.predict(flat).reshape(vectors.shape[:2]).tolist()
            for h, classifier in self.classifiers.items()
        }


def _mfcc_vectors(batch: _Batch) -> np.ndarray:
    """MFCC statistics around each frame, [N, T, features]."""
    rate = batch.sample_rate
    clips = range(len(batch.waves))
    return np.stack([np.stack([mfcc_statistics(w, rate) for w in batch.windows(i)]) for i in clips])


def agreement_table(metrics: dict[str, float]) -> Table:
    """The result of `evaluate` as a table, each number beside its baselines."""
    table = Table(
        *("", "student", "prior", "teacher", "MFCC"),
        title=f"{metrics['clips']} clips, {metrics['frames']} frames",
        title_justify="left",
        caption="agreement and KL: with the teacher; accuracy: against the truth, never seen by "
        "the student; MFCC: a linear baseline trained on the true labels",
        caption_justify="left",
    )

    def cell(name: str) -> str:
        return f"{metrics[name]:.3f}" if name in metrics else ""

    for head in HEADS:
        for name, text in (("top1", "top-1"), ("top5", "top-5"), ("kl", "KL")):
            if (key := f"{head}.{name}") in metrics:
                ours = cell(key)
                if name == "top1":
                    ours += f" ± {metrics[f'{head}.top1_ci95']:.3f}"
                table.add_row(f"{head}: {text}", ours, cell(f"{key}_prior"))
    for head in HEADS:
        if f"labels.{head}" in metrics:
            columns = (f"labels.{who}{head}" for who in ("", "prior_", "teacher_", "mfcc_"))
            table.add_row(f"{head}: accuracy", *map(cell, columns))
    return table
