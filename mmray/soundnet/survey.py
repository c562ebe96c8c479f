"""Watching a net over a whole collection of sounds: clips of a dataset, or files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import MediaError, UserError
from mmray.media.frames import read_frames
from mmray.media.image import thumbnail
from mmray.media.sandbox import Sandbox
from mmray.media.sound import read_sound
from mmray.models import absolute
from mmray.pipeline import run
from mmray.pipeline.clips import local_file
from mmray.pipeline.dataset import Dataset, num_rows, read_table, row_groups_of, tensor, waveform
from mmray.pipeline.placement import decode_and_ask
from mmray.pipeline.stages import Pool, Stage
from mmray.soundnet.config import HEADS
from mmray.soundnet.evaluate import TRUTH
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.stages import SOUND_SCHEMA, ReadSounds, SplitSounds
from mmray.soundnet.windows import (
    FLOAT,
    MODEL,
    SHARD,
    UNTRAINED,
    ReadClips,
    ReadItems,
    Survey,
    WatchUnits,
    collect,
)
from mmray.sources.items import SoundItem

PART_S = 120.0
"""Longer files are heard in parts."""


@dataclass(frozen=True)
class SurveyOptions:
    """What to look for.

    Args:
        layers: the layers to watch.
        k: windows of each unit.
        sample: rows to measure on.
        others: nets to measure beside the model, by name.
        limit: use only the first rows.
    """

    layers: tuple[str, ...]
    k: int = 9
    sample: int = 500
    others: tuple[tuple[str, str], ...] = ((UNTRAINED, UNTRAINED),)
    limit: int | None = None

    def check(self, net: SoundNet) -> None:
        """Raise a `UserError` when a layer is none of the net's."""
        for layer in self.layers:
            if layer not in net.layers:
                raise UserError(f"--layers {layer}: the model has {', '.join(net.layers)}")


@dataclass(frozen=True)
class Collection:
    """What a net is watched on.

    Args:
        data: clips with what a teacher saw; None for files.
        items: files with sound, where there is no dataset.
        split: of the dataset, to measure on.
    """

    data: Dataset | None
    items: Sequence[SoundItem] = ()
    split: str = "test"

    @property
    def sample_rate(self) -> int | None:
        """Of the dataset's sounds, in Hz; None of files, which are read at any rate."""
        if self.data is None:
            return None
        rates = self.data.read(["sample_rate"], limit=1)["sample_rate"].to_pylist()
        return int(rates[0]) if rates else None

    def described(self) -> str:
        """The collection in words."""
        if self.data is not None:
            return f"{self.data.uri}, measured on the split {self.split}"
        return f"{len(self.items):,} files"

    def survey(self, where: str, net: SoundNet, options: SurveyOptions) -> Survey:
        """Watch a net."""
        if self.data is not None:
            return survey_clips(where, net, self.data, options, self.split)
        return survey_sounds(where, net, self.items, options)

    def labels(self, survey: Survey) -> tuple[list[list[str]], str]:
        """Labels of the sampled frames, and who says so."""
        if self.data is not None:
            return frame_labels(self.data, self.split, len(survey.sample))
        known = {item.uri: item.label for item in self.items}
        named = [known.get(row["uri"]) for row in survey.sample]
        return [[f"class:{name}"] if name else [] for name in named], "the collection's classes"


def survey_clips(
    where: str, net: SoundNet, data: Dataset, options: SurveyOptions, split: str = "test"
) -> Survey:
    """The top windows over all clips of a dataset, and activations on clips of one split.

    Args:
        where: of the net, for the workers: anything that `mmray.load` takes.
        net: the same, loaded.
        data: the clips.
        options: what to look for.
        split: the split that the sample is of.

    Raises:
        UserError: the model has no such layer.
    """
    options.check(net)
    rows: dict[int, int] = {}
    sample: dict[int, int] = {}
    left = options.limit or data.num_rows
    wanted = options.sample
    for shard, path in enumerate(data.shards):
        rows[shard] = min(left, num_rows(path))
        left -= rows[shard]
        if wanted:
            splits = read_table(path, ["split"])["split"].slice(0, rows[shard])
            sample[shard] = min(wanted, splits.to_pylist().count(split))
            wanted -= sample[shard]
        if not left:
            break
    watch = _watch(where, options, data.manifest["options"]["audio"], sample, split)
    # Reading is quick, so without GPUs nets get all CPUs.
    have = run.resources()
    read = ReadClips(data.shards, rows)
    pools = decode_and_ask([read], [watch], decoders=1, nets=have.gpus or have.cpus)
    return _collected(net, options, [*rows], pools)


def survey_sounds(
    where: str, net: SoundNet, items: Sequence[SoundItem], options: SurveyOptions
) -> Survey:
    """The same over sound files, of which the first ones are the sample."""
    options.check(net)
    items = items[: options.limit]
    rows = [
        {"id": item.key, "uri": item.uri, "start_s": None, "duration_s": None} for item in items
    ]
    read = ReadItems(pa.Table.from_pylist(rows, schema=SOUND_SCHEMA))
    shards = list(range(-(-len(items) // read.size)))
    sample = {i: min(read.size, options.sample - i * read.size) for i in shards}
    sample = {i: size for i, size in sample.items() if size > 0}
    stages: list[Stage] = [read, SplitSounds(PART_S), ReadSounds(net.config.sample_rate)]
    pools = decode_and_ask(stages, [_watch(where, options, FLOAT, sample, None)])
    return _collected(net, options, shards, pools)


def _watch(
    where: str, options: SurveyOptions, encoding: str, sample: dict[int, int], split: str | None
) -> WatchUnits:
    others = {
        name: other if other == UNTRAINED else absolute(other) for name, other in options.others
    }
    return WatchUnits(absolute(where), options.layers, options.k, encoding, sample, split, others)


def _collected(
    net: SoundNet, options: SurveyOptions, shards: Sequence[int], pools: Sequence[Pool]
) -> Survey:
    units = {layer: net.channels(layer) for layer in options.layers}
    survey = collect(run.run(shards, pools), units, options.k)
    if not survey.top:
        why = f", as {survey.reasons[0]}" if survey.reasons else ""
        raise UserError(f"none of the sounds can be heard ({survey.errors} cannot be read{why})")
    for layer, nets in survey.frames.items():
        frames = len(nets[MODEL]) // units[layer]
        survey.frames[layer] = {name: x.reshape(frames, -1) for name, x in nets.items()}
    return survey


def frame_labels(data: Dataset, split: str, rows: int) -> tuple[list[list[str]], str]:
    """What each frame of the first clips of a split shows, and who says so.

    Returns:
        Labels such as `object:dog` and `place:beach`: the truth where the dataset knows it, else
        the likeliest class of each teacher.
    """
    heads = [h for h in data.classes if h in HEADS]
    kinds = tuple(TRUTH.values())
    found: list[list[str]] = []
    guessed: list[list[str]] = []
    for table in data.batches(["frame_labels", "frame_times", *heads], 256, split, rows):
        for clip in table["frame_labels"].to_pylist():
            found += [[label for label in frame if label.startswith(kinds)] for frame in clip or []]
        # [heads][frames of all clips]
        named = [
            [f"{TRUTH[h]}{data.classes[h][i]}" for i in tensor(table[h]).argmax(-1).ravel()]
            for h in heads
        ]
        # Without teachers nobody says anything of any frame.
        frames = tensor(table["frame_times"]).size
        guessed += [list(x) for x in zip(*named, strict=True)] if heads else [[]] * frames
    return (found, "the truth") if any(found) else (guessed, "the teachers")


class Cuts:
    """Reads the sounds and frames of rows again, for the few windows that are shown.

    Args:
        data: the dataset of the rows; None when they are files.
        sample_rate: of what is read.
    """

    def __init__(self, data: Dataset | None, sample_rate: int) -> None:
        self.data = data
        self.sample_rate = sample_rate
        self._sandbox = Sandbox(timeout_s=20)
        self._read = functools.lru_cache(maxsize=64)(self._row)

    def sound(self, key: int, row: dict[str, Any], start_s: float, end_s: float) -> np.ndarray:
        """The sound of a row from `start_s` to `end_s` after the row's start, float32 [n].

        Raises:
            MediaError: the file cannot be read any more.
        """
        if self.data is not None:
            wave = self.whole(self._read(key)["audio"])
            return wave[round(start_s * self.sample_rate) : round(end_s * self.sample_rate)]
        start = (row["start_s"] or 0.0) + start_s
        with local_file(row["uri"]) as path:
            return self._sandbox.call(read_sound, path, start, end_s - start_s, self.sample_rate)

    def whole(self, audio: bytes) -> np.ndarray:
        """The sound of a dataset's column `audio`, float32 [n]."""
        assert self.data is not None
        return waveform(audio, self.data.manifest["options"]["audio"])

    def frame(self, key: int, row: dict[str, Any], time_s: float, size: int = 128) -> bytes | None:
        """What was to be seen `time_s` after the row's start: a JPEG; None when nothing was.

        The frame itself where the video is still there, else the row's thumbnail.
        """
        if self.data is None:
            return None
        try:
            with local_file(row["uri"]) as path:
                times = [(row["start_s"] or 0.0) + time_s]
                pixels, _ = self._sandbox.call(read_frames, path, times, size)
            return thumbnail(pixels[0], size)
        except (MediaError, OSError):
            return self._read(key)["thumbnail"]

    def _row(self, key: int) -> dict[str, Any]:
        """Sound and thumbnail of a row of the dataset."""
        assert self.data is not None
        row = key % SHARD
        for group in row_groups_of(self.data.shards[key // SHARD]):
            if row < group.num_rows:
                table = self.data.read_row_group(group, ["audio", "thumbnail"])
                return table.slice(row, 1).to_pylist()[0]
            row -= group.num_rows
        raise AssertionError("the key is of another dataset")
