"""The stages that hear files: list their parts, decode them, ask the net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import MediaError
from mmray.pipeline.clips import local_file
from mmray.pipeline.stages import Errors, failed, with_columns

SOUND_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "uri": pa.string(),
        "start_s": pa.float64(),
        "duration_s": pa.float64(),
    }
)
"""A file, or a part of it: null means from its start, and to its end."""
TOP = pa.struct([("name", pa.string()), ("probability", pa.float32())])


@dataclass
class SplitSounds:
    """Look into each file and make one row for each part of it, so that no row is too long.

    Args:
        part_s: the longest part in seconds; a file's parts are of equal length.
        timeout_s: time limit for looking into one file.
    """

    part_s: float = 120.0
    timeout_s: float = 60.0

    def setup(self) -> None:
        """Start the child process that opens files."""
        from mmray.media.sandbox import Sandbox

        self._sandbox = Sandbox(self.timeout_s, attempts=3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `SOUND_SCHEMA` in, the same with start and duration filled in out."""
        parts: list[dict[str, Any]] = []
        errors: dict[int, MediaError] = {}
        for row in rows.to_pylist():
            try:
                parts += self._parts(row)
            except MediaError as e:
                errors[len(parts)] = e
                parts.append(row)
        table = pa.Table.from_pylist(parts, schema=rows.schema)
        return with_columns(table, Errors(len(parts), errors).columns())

    def _parts(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        from mmray.media.sound import probe

        start, duration = row["start_s"] or 0.0, row["duration_s"]
        if duration is None:
            with local_file(row["uri"]) as path:
                info = self._sandbox.call(probe, path)
            if not info.has_sound:
                raise MediaError("probe", "has no sound")
            duration = info.duration_s - start
        if duration <= 0:
            raise MediaError("probe", f"nothing is left after start_s {start:g}")
        count = max(1, int(np.ceil(duration / self.part_s)))
        length = duration / count
        begins = [start + i * length for i in range(count)]
        # Ids name the place in the file, as those of clips do.
        return [
            row | {"id": f"{row['id']}-{round(b * 1000):08d}", "start_s": b, "duration_s": length}
            for b in begins
        ]


@dataclass
class ReadSounds:
    """Decode the sound of each row in a child process that may be killed.

    Args:
        sample_rate: the rate to decode to.
        timeout_s: time limit for one row.
    """

    sample_rate: int
    timeout_s: float = 60.0

    def setup(self) -> None:
        """Start the child process that decodes."""
        from mmray.media.sandbox import Sandbox

        self._sandbox = Sandbox(self.timeout_s, attempts=3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add `audio` (float32 little-endian bytes, mono) and errors."""
        from mmray.media.sound import read_sound

        errors = Errors(rows.num_rows)
        audio: list[bytes | None] = []
        skip = failed(rows)
        for i, row in enumerate(rows.to_pylist()):
            wave = None
            if not skip[i]:
                try:
                    with local_file(row["uri"]) as path:
                        wave = self._sandbox.call(
                            read_sound, path, row["start_s"], row["duration_s"], self.sample_rate
                        )
                    if not len(wave):
                        raise MediaError("sound", "holds no samples there")
                except MediaError as e:
                    errors.add(i, e)
            audio.append(None if i in errors.values or wave is None else wave.tobytes())
        return with_columns(rows, {"audio": pa.array(audio, pa.large_binary()), **errors.columns()})


@dataclass
class HearSounds:
    """What the net says of each row's sound; the sound itself is dropped.

    Args:
        model: anything that `mmray.load` takes.
        layer: also give the features of this layer; None for none.
        top: how many of the likeliest classes to name.
        device: as `mmray.load` takes it.
        threads: CPU threads of the net; None leaves torch's own number.
    """

    model: str
    layer: str | None = None
    top: int = 5
    device: str = "auto"
    threads: int | None = 1

    def setup(self) -> None:
        """Load the net."""
        import torch

        from mmray.models import load_predictor

        if self.threads and not torch.cuda.is_available():
            torch.set_num_threads(self.threads)
        self._net = load_predictor(self.model, device=self.device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `audio` by the answers.

        Adds, for each head that the net has (`objects`, `scenes`): the probabilities over time
        as `objects` list<fixed_size_list<halffloat>[classes]>, and the likeliest classes of the
        whole as `top_objects` list<struct<name, probability>>; `times_s` list<double>, seconds
        from the start of the row's part; and, with a layer, `features`
        list<fixed_size_list<float>[channels]> with its `feature_times_s`.
        """
        good = [i for i, bad in enumerate(failed(rows)) if not bad]
        waves = [np.frombuffer(rows["audio"][i].as_buffer(), "<f4") for i in good]
        rate = self._net.config.sample_rate
        columns: dict[str, dict[int, Any]] = {}
        if self._net.classes:
            for i, answer in zip(good, self._net.predict(waves, rate), strict=True):
                columns.setdefault("times_s", {})[i] = answer.times_s.tolist()
                for head in self._net.classes:
                    columns.setdefault(head, {})[i] = getattr(answer, head)
                    columns.setdefault(f"top_{head}", {})[i] = [
                        {"name": name, "probability": p} for name, p in answer.top(head, self.top)
                    ]
        if self.layer:
            maps = self._net.features(waves, rate, self.layer)
            for i, x in zip(good, maps, strict=True):
                columns.setdefault("features", {})[i] = x.T
                times = self._net.times(self.layer, x.shape[1])
                columns.setdefault("feature_times_s", {})[i] = times.tolist()
        return with_columns(rows.drop_columns(["audio"]), self._arrays(columns, rows.num_rows))

    def _arrays(self, columns: dict[str, dict[int, Any]], num_rows: int) -> dict[str, pa.Array]:
        """Every column of the answers, null in rows that failed."""
        types: dict[str, pa.DataType] = {}
        widths = {head: len(names) for head, names in self._net.classes.items()}
        if widths:
            types["times_s"] = pa.list_(pa.float64())
        for head, width in widths.items():
            types[head] = pa.list_(pa.list_(pa.float16(), width))
            types[f"top_{head}"] = pa.list_(TOP)
        if self.layer:
            channels = self._net.channels(self.layer)
            types["features"] = pa.list_(pa.list_(pa.float32(), channels))
            types["feature_times_s"] = pa.list_(pa.float64())
        return {
            name: _matrices(columns.get(name, {}), num_rows, kind)
            if name in widths or name == "features"
            else pa.array([columns.get(name, {}).get(i) for i in range(num_rows)], kind)
            for name, kind in types.items()
        }


def _matrices(rows: dict[int, np.ndarray], num_rows: int, kind: pa.ListType) -> pa.Array:
    """Arrays [time, width] of different lengths as a list column, without a Python list a value."""
    vectors = kind.value_type
    dtype = vectors.value_type.to_pandas_dtype()
    lengths = [len(rows[i]) if i in rows else 0 for i in range(num_rows)]
    parts = [rows[i].astype(dtype).ravel() for i in sorted(rows)]
    flat = np.concatenate([np.zeros(0, dtype), *parts])
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.list_size)
    ends = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    offsets = [end if i == num_rows or i in rows else None for i, end in enumerate(ends)]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
