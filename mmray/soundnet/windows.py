"""Which sounds drive each unit of a net the most: the top windows over a whole collection.

One pass over the sounds, on all workers. A shard's answer is its own best windows, so neither the
workers nor the caller ever hold more than units x k windows, however many sounds there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mmray.pipeline.dataset import read_table, tensor, waveform
from mmray.pipeline.stages import failed
from mmray.soundnet.predict import SoundNet, repeat, resample

SHARD = 1 << 32
"""A row's key is `shard * SHARD + row in the shard`."""
MODEL = "the model"
UNTRAINED = "untrained"
FLOAT = "float32"
"""Of `audio` as `ReadSounds` decodes it; else as in a clip dataset."""
MOST_REASONS = 20
SHORTEST_S = 10.0
"""Shorter sounds are repeated, as the published code does: padding would drive units, too."""
_BATCH = 4


class Answer(NamedTuple):
    """What `WatchUnits` says of a shard: `errors`, `top`, `means` or `frames`."""

    kind: str
    layer: str = ""
    net: str = ""
    errors: int = 0
    data: bytes = b""
    rows: dict[int, dict[str, Any]] | None = None


@dataclass
class TopWindows:
    """The `k` windows that drive each of `U` units the most, the best first.

    A source (a video, a file) counts once for each unit. Equal windows go by their keys, so the
    result does not depend on the order in which shards arrive.

    Args:
        values: activations, float32 [U, n <= k]; -inf where there are fewer.
        keys: of the rows, int64 [U, n]; see `SHARD`.
        times_s: centres of the windows from the start of the row's sound, float32 [U, n].
        sources: hashes of what the rows come from, int64 [U, n].
    """

    values: np.ndarray
    keys: np.ndarray
    times_s: np.ndarray
    sources: np.ndarray

    def answered(self, unit: int) -> list[int]:
        """The ranks at which the unit answered at all: a rectified unit is silent at 0."""
        values = self.values[unit]
        silent = 0.0 if values[0] >= 0 else -np.inf
        return np.flatnonzero(values > silent).tolist()

    def best(self, k: int) -> TopWindows:
        """The `k` best of distinct sources."""
        order = np.lexsort((self.keys, -self.values), axis=-1)
        values, keys, times, sources = (
            np.take_along_axis(x, order, 1)
            for x in (self.values, self.keys, self.times_s, self.sources)
        )
        same = sources[:, :, None] == sources[:, None, :]
        again = (same & np.tri(same.shape[1], k=-1, dtype=bool)).any(-1)
        # Stable: those of a source seen before go to the end, the others keep their order.
        order = np.argsort(again, axis=1, kind="stable")[:, :k]
        values = np.where(again, -np.inf, values)
        return TopWindows(
            *(np.take_along_axis(x, order, 1) for x in (values, keys, times, sources))
        )

    def with_others(self, others: TopWindows, k: int) -> TopWindows:
        """The `k` best of both."""
        pairs = (
            (self.values, others.values),
            (self.keys, others.keys),
            (self.times_s, others.times_s),
            (self.sources, others.sources),
        )
        return TopWindows(*(np.concatenate(pair, axis=1) for pair in pairs)).best(k)

    def to_bytes(self) -> bytes:
        """As one string of bytes."""
        parts = (self.values, self.keys, self.times_s, self.sources)
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes, units: int) -> TopWindows:
        """What `to_bytes` made, of so many units."""
        n = len(data) // (units * 24)
        ends = np.cumsum([0, 4, 8, 4, 8]) * units * n
        kinds = (np.float32, np.int64, np.float32, np.int64)
        return cls(
            *(
                np.frombuffer(data[a:b], kind).reshape(units, n)
                for a, b, kind in zip(ends[:-1], ends[1:], kinds, strict=True)
            )
        )


@dataclass
class Survey:
    """What one pass found.

    Args:
        top: the top windows by layer.
        rows: `id, uri, start_s, duration_s` of the rows that they are in, by key.
        frames: activations of the units in the frames of the sample, by layer and name of the net:
            float16 [frames, U].
        means: those of the model's last layer over whole rows of the sample, float16 [rows, U].
        sample: the sampled rows, in the order of `means`.
        errors: rows that could not be heard.
        reasons: why, of the first of them.
    """

    top: dict[str, TopWindows] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    means: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    sample: list[dict[str, Any]] = field(default_factory=list)
    errors: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass
class ReadClips:
    """First stage: the first so many clips of a shard of a dataset, by its number.

    Args:
        paths: of all shards.
        rows: how many of each.
    """

    paths: Sequence[str]
    rows: dict[int, int]

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The shard's rows, with `shard`."""
        shard = rows["shard"][0].as_py()
        columns = ["id", "uri", "start_s", "duration_s", "sample_rate", "audio", "frame_times"]
        table = read_table(self.paths[shard], [*columns, "split"])
        table = table.slice(0, self.rows[shard])
        return table.append_column("shard", pa.array([shard] * table.num_rows, pa.int64()))


@dataclass
class ReadItems:
    """First stage: so many rows of a list of sound files, by the number of the part."""

    items: pa.Table
    size: int = 64

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The part's rows, with `shard`."""
        shard = rows["shard"][0].as_py()
        table = self.items.slice(shard * self.size, self.size)
        return table.append_column("shard", pa.array([shard] * table.num_rows, pa.int64()))


@dataclass
class WatchUnits:
    """Last stage: the best windows of a shard, and all activations of its sampled rows.

    Args:
        model: anything that `mmray.load` takes.
        layers: the layers to watch.
        k: windows of each unit.
        encoding: of the column `audio`.
        sample: how many of a shard's first rows of the split `split` belong to the sample.
        split: None for all rows.
        others: nets to measure beside the model on the sample, by name; `UNTRAINED` is made anew.
        threads: CPU threads; None leaves torch's own number.
    """

    model: str
    layers: Sequence[str]
    k: int
    encoding: str
    sample: dict[int, int]
    split: str | None = None
    others: dict[str, str] = field(default_factory=dict)
    threads: int | None = 1

    def setup(self) -> None:
        """Load the nets."""
        import torch

        from mmray.models import load_predictor

        if self.threads and not torch.cuda.is_available():
            torch.set_num_threads(self.threads)
        self._net = load_predictor(self.model)
        self._others = {
            name: self._net.untrained() if where == UNTRAINED else load_predictor(where)
            for name, where in self.others.items()
        }

    def __call__(self, rows: pa.Table) -> pa.Table:
        """One row for each `Answer`, with `shard`, and `rows` as JSON."""
        shard = rows["shard"][0].as_py()
        bad = failed(rows)
        good = [i for i in range(rows.num_rows) if not bad[i]]
        mine = [i for i in good if self.split in (None, _value(rows, "split", i))]
        chosen = mine[: self.sample.get(shard, 0)]
        reasons = {
            i: {"uri": _value(rows, "uri", i), "message": _value(rows, "error_message", i)}
            for i in range(rows.num_rows)
            if bad[i]
        }
        answers = [Answer("errors", errors=len(reasons), rows=reasons)]
        if not good:
            return _table(answers, shard)
        peaks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self.layers}
        frames: dict[str, list[np.ndarray]] = {name: [] for name in self.layers}
        means = []
        for i, maps, wave in self._heard(rows, good):
            for layer in self.layers:
                x, inside = maps[layer], _inside(self._net, layer, maps[layer], wave)
                times = self._net.times(layer, x.shape[1])[inside] % wave.period_s
                best = x[:, inside].argmax(axis=1)
                peaks[layer].append((x[np.arange(len(x)), inside.start + best], times[best]))
                if i in chosen:
                    frames[layer] += _in_frames(self._net, layer, x, _windows(rows, i), inside)
            if i in chosen:
                means.append(x[:, inside].mean(axis=1))
        sources = np.array([source(rows["uri"][i].as_py()) for i in good], np.int64)
        keys = np.array([shard * SHARD + i for i in good], np.int64)
        for layer, found in peaks.items():
            values, times = (np.stack(part, axis=1) for part in zip(*found, strict=True))
            top = best_of_sources(values, keys, times, sources, self.k)
            known = {int(key): _row(rows, int(key % SHARD)) for key in np.unique(top.keys)}
            answers.append(Answer("top", layer, data=top.to_bytes(), rows=known))
        if chosen:
            known = {shard * SHARD + i: _row(rows, i) for i in chosen}
            answers.append(Answer("means", self.layers[-1], data=_half(means), rows=known))
            for layer, vectors in frames.items():
                answers.append(Answer("frames", layer, MODEL, data=_half(vectors)))
            answers += self._of_others(rows, chosen)
        return _table(answers, shard)

    def _heard(
        self, rows: pa.Table, good: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, np.ndarray], Wave]]:
        """Each row with its layers' maps [U, cells], and what they are of."""
        for start in range(0, len(good), _BATCH):
            part = good[start : start + _BATCH]
            waves = [self._wave(rows, i) for i in part]
            samples = [wave.samples for wave in waves]
            found = self._net.many_features(samples, self._net.config.sample_rate, self.layers)
            yield from zip(part, found, waves, strict=True)

    def _of_others(self, rows: pa.Table, chosen: Sequence[int]) -> Iterator[Answer]:
        """The activations of the other nets on the sampled rows, in layers of the same name."""
        for name, net in self._others.items():
            layers = [layer for layer in self.layers if layer in net.layers]
            frames: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
            for i in chosen if layers else ():
                wave = self._wave(rows, i)
                (maps,) = net.many_features([wave.samples], self._net.config.sample_rate, layers)
                for layer, x in maps.items():
                    inside = _inside(net, layer, x, wave)
                    frames[layer] += _in_frames(net, layer, x, _windows(rows, i), inside)
            for layer, values in frames.items():
                yield Answer("frames", layer, name, data=_half(values))

    def _wave(self, rows: pa.Table, i: int) -> Wave:
        """A row's sound at the model's rate, repeated where it is short."""
        value, rate = rows["audio"][i].as_buffer(), self._net.config.sample_rate
        is_float = self.encoding == FLOAT
        wave = np.frombuffer(value, "<f4") if is_float else waveform(value, self.encoding)
        wave = resample(wave, int(_value(rows, "sample_rate", i) or rate), rate)
        return Wave(repeat(wave, round(SHORTEST_S * rate)), len(wave) / rate)


class Wave(NamedTuple):
    """A sound, repeated where it is short."""

    samples: np.ndarray
    period_s: float
    """Seconds of the sound itself."""


def best_of_sources(
    values: np.ndarray, keys: np.ndarray, times_s: np.ndarray, sources: np.ndarray, k: int
) -> TopWindows:
    """The `k` best windows of each unit, one a source.

    Args:
        values: each row's highest activation of each unit, [U, rows].
        keys: of the rows, ascending, [rows].
        times_s: where it is, [U, rows].
        sources: of the rows, [rows].
        k: windows of each unit.
    """
    units = np.arange(len(values))[:, None]
    first: list[np.ndarray] = []
    for one in np.unique(sources):
        mine = np.flatnonzero(sources == one)
        first.append(mine[values[:, mine].argmax(axis=1)])
    rows = np.stack(first, axis=1)  # [U, sources]
    best = values[units, rows]
    order = np.lexsort((keys[rows], -best), axis=-1)[:, :k]
    rows = np.take_along_axis(rows, order, 1)
    return TopWindows(
        values[units, rows].astype(np.float32),
        keys[rows],
        times_s[units, rows].astype(np.float32),
        sources[rows],
    )


def collect(answers: Iterator[dict[str, Any]], units: dict[str, int], k: int) -> Survey:
    """Put the shards' answers together as they come.

    Args:
        answers: rows of `WatchUnits`.
        units: of each layer.
        k: windows of each unit.
    """
    survey = Survey()
    rows: dict[str, dict[int, dict[str, Any]]] = {layer: {} for layer in units}
    sampled: dict[tuple[str, str, str], dict[int, bytes]] = {}
    listed: dict[int, list[dict[str, Any]]] = {}
    for answer in answers:
        kind, layer, shard = answer["kind"], answer["layer"], answer["shard"]
        known = {int(key): row for key, row in json.loads(answer["rows"]).items()}
        if kind == "errors":
            survey.errors += answer["errors"]
            survey.reasons += [f"{row['uri']}: {row['message']}" for row in known.values()]
            del survey.reasons[MOST_REASONS:]
        elif kind == "top":
            new = TopWindows.from_bytes(answer["data"], units[layer])
            old = survey.top.get(layer)
            survey.top[layer] = new if old is None else old.with_others(new, k)
            rows[layer] |= known
            kept = set(survey.top[layer].keys.ravel().tolist())
            rows[layer] = {key: row for key, row in rows[layer].items() if key in kept}
        else:
            sampled.setdefault((kind, layer, answer["net"]), {})[shard] = answer["data"]
            if kind == "means":
                listed[shard] = list(known.values())
    for found in rows.values():
        survey.rows |= found
    for (kind, layer, net), parts in sampled.items():
        joined = np.frombuffer(b"".join(parts[shard] for shard in sorted(parts)), np.float16)
        if kind == "means":
            survey.means = joined.reshape(-1, units[layer])
        else:
            survey.frames.setdefault(layer, {})[net] = joined
    survey.sample = [row for shard in sorted(listed) for row in listed[shard]]
    return survey


def source(uri: str) -> int:
    """A number for a file: the same in every process."""

    return int.from_bytes(
        hashlib.blake2b(uri.encode(), digest_size=8).digest(), "little", signed=True
    )


def _inside(net: SoundNet, layer: str, x: np.ndarray, wave: Wave) -> slice:
    """The cells of a map [U, cells] that see nothing but sound; all where none does."""
    g = net.config.geometry(layer)
    first = -(g.start // g.stride)
    end = min(x.shape[1], (len(wave.samples) - g.start - g.field) // g.stride + 1)
    return slice(first, end) if first < end else slice(0, x.shape[1])


def _in_frames(
    net: SoundNet,
    layer: str,
    x: np.ndarray,
    windows: Sequence[tuple[float, float]],
    inside: slice,
) -> list[np.ndarray]:
    """Mean activations [U] in each of the windows (seconds), of a map [U, cells].

    Where there are no windows, in all of the sound. Cells that are not `inside` do not count; a
    window without any other takes the nearest one.
    """
    times, x = net.times(layer, x.shape[1])[inside], x[:, inside]
    if not windows:
        return [x.mean(axis=1)]
    half = net.config.geometry(layer).stride / net.config.sample_rate / 2
    found = []
    for low, high in windows:
        weights = np.clip(np.minimum(high, times + half) - np.maximum(low, times - half), 0, None)
        if not weights.any():
            weights = np.eye(len(times))[np.abs(times - (low + high) / 2).argmin()]
        found.append(x @ (weights / weights.sum()).astype(np.float32))
    return found


def _windows(rows: pa.Table, i: int) -> list[tuple[float, float]]:
    """Start and end of each of a row's frames; none where it has no frames."""
    if "frame_times" not in rows.column_names:
        return []
    times = tensor(rows["frame_times"].slice(i, 1))[0]
    half = _value(rows, "duration_s", i) / len(times) / 2
    return [(float(t) - half, float(t) + half) for t in times]


def _row(rows: pa.Table, i: int) -> dict[str, Any]:
    return {name: _value(rows, name, i) for name in ("id", "uri", "start_s", "duration_s")}


def _value(rows: pa.Table, name: str, i: int) -> Any:
    return rows[name][i].as_py() if name in rows.column_names else None


def _half(vectors: Sequence[np.ndarray]) -> bytes:
    largest = np.finfo(np.float16).max
    return np.stack(vectors).clip(-largest, largest).astype(np.float16).tobytes()


def _table(answers: Sequence[Answer], shard: int) -> pa.Table:
    return pa.table(
        {
            "kind": pa.array([a.kind for a in answers], pa.string()),
            "layer": pa.array([a.layer for a in answers], pa.string()),
            "net": pa.array([a.net for a in answers], pa.string()),
            "shard": pa.array([shard] * len(answers), pa.int64()),
            "errors": pa.array([a.errors for a in answers], pa.int64()),
            "data": pa.array([a.data for a in answers], pa.binary()),
            "rows": pa.array([json.dumps(a.rows or {}) for a in answers], pa.string()),
        }
    )
