"""Maps of sounds: as a SoundNet lays them out, and as the teachers do who only saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmray.errors import MediaError
from mmray.pipeline.dataset import tensor
from mmray.report import charts, maps
from mmray.report.page import Chart, Media
from mmray.report.soundnet.units import plain
from mmray.report.sounds import mp3
from mmray.soundnet.config import HEADS
from mmray.soundnet.evaluate import TRUTH
from mmray.soundnet.survey import Collection, Cuts
from mmray.soundnet.windows import Survey

PLAY_S = 2.0
MOST_SHOWN = 150
"""Sounds with a picture and a player; the others are points."""


def sound_maps(
    collection: Collection,
    survey: Survey,
    labels: Sequence[Sequence[str]],
    cuts: Cuts,
    media: Media,
    layer: str,
    seed: int,
) -> list[Chart]:
    """The sampled sounds as the net lays them out, and as the teachers' posteriors do."""
    vectors = survey.means.astype(np.float32)
    if len(vectors) < 3:
        return []
    per_row = max(1, len(labels) // len(vectors))
    named = [_of_row(labels[i * per_row : (i + 1) * per_row]) for i in range(len(vectors))]
    listed = [name for name, _ in Counter(named).most_common(9)]
    named = [name if name in listed else "other" for name in named]
    rows = [
        {"label": name, "sound of": row["uri"].rpartition("/")[2]}
        for name, row in zip(named, survey.sample, strict=True)
    ]
    _illustrate(rows, collection, survey, cuts, media)
    views = {f"Sounds as {layer} hears them": vectors}
    if (seen := _posteriors(collection, len(vectors))) is not None:
        views["The same as the vision teachers see them"] = seen
    near = [maps.neighbours(x) for x in views.values()]
    text = f"t-SNE of {len(vectors)} sounds, coloured by label. Click a point to hear it."
    if len(near) == 2:
        text += f" Of ten nearest neighbours {maps.shared(*near[:2]):.0%} are the same on both."
    pairs = [named[i] == named[j] for i in range(len(named)) for j in range(i)]
    found = []
    for (title, x), ids in zip(views.items(), near, strict=True):
        alike = np.mean([named[i] == named[j] for i, row in enumerate(ids) for j in row])
        told = f"{text} {alike:.0%} of a sound's ten nearest have its label, "
        told += f"of any two sounds {np.mean(pairs):.0%}."
        placed = [
            {"x": float(a), "y": float(b), **row}
            for (a, b), row in zip(maps.plane(x, seed), rows, strict=True)
        ]
        found.append(charts.atlas(title, told, placed, "label", size=18))
    return found


def _of_row(frames: Sequence[Sequence[str]]) -> str:
    """A row's commonest label, of objects before places."""
    counts = Counter(label for each in frames for label in each)
    if not counts:
        return "none"
    objects = [x for x in counts if x.startswith((TRUTH["objects"], "class:"))] or list(counts)
    return plain(max(objects, key=lambda label: (counts[label], label)))


def _illustrate(
    rows: list[dict[str, Any]], collection: Collection, survey: Survey, cuts: Cuts, media: Media
) -> None:
    """Give the first rows a thumbnail and a sound, while there is room."""
    data = collection.data
    columns = ["thumbnail", "audio"] if data is not None else []
    streamed = (
        row
        for table in (data.batches(columns, 32, collection.split, len(rows)) if data else ())
        for row in table.to_pylist()
    )
    for row, sampled in zip(rows[:MOST_SHOWN], survey.sample, strict=False):
        try:
            if data is not None:
                stored = next(streamed)
                row["picture"] = media.picture(stored["thumbnail"])
                wave = cuts.whole(stored["audio"])
            else:
                wave = cuts.sound(0, sampled, 0.0, min(PLAY_S, sampled["duration_s"]))
        except (MediaError, OSError):
            continue
        row["sound"] = media.sound(mp3(loudest(wave, cuts.sample_rate, PLAY_S), cuts.sample_rate))


def loudest(wave: np.ndarray, sample_rate: int, seconds: float) -> np.ndarray:
    """The loudest stretch of a sound, of about so many seconds."""
    length = round(seconds * sample_rate)
    if len(wave) <= length:
        return wave
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    start = int((power[length:] - power[:-length]).argmax())
    return wave[start : start + length]


def _posteriors(collection: Collection, rows: int) -> np.ndarray | None:
    """Square roots of the teachers' mean posteriors, whose angles are Hellinger distances."""
    if collection.data is None:
        return None
    heads = [h for h in collection.data.classes if h in HEADS]
    if not heads:
        return None
    parts = [
        np.concatenate([tensor(table[h]).astype(np.float32).mean(axis=1) for h in heads], axis=1)
        for table in collection.data.batches(heads, 256, collection.split, rows)
    ]
    return np.sqrt(np.concatenate(parts))
