"""The stages that turn files into rows of pictures: decode, describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmray.errors import MediaError
from mmray.media.image import Fit
from mmray.pipeline.clips import local_file
from mmray.pipeline.dataset import tensor_column
from mmray.pipeline.stages import Errors, failed, with_columns

PICTURE_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "tags": pa.list_(pa.string()),
        "captions": pa.list_(pa.string()),
        "labels": pa.list_(pa.string()),
    }
)


@dataclass
class DecodePictures:
    """Decode each row's file in a child process that may be killed.

    Args:
        size: width and height of the squares in pixels.
        fit: how pictures become squares.
        timeout_s: time limit for one picture.
    """

    size: int
    fit: Fit
    timeout_s: float

    def setup(self) -> None:
        """Start the child process that decodes."""
        from mmray.media.sandbox import Sandbox

        self._sandbox = Sandbox(self.timeout_s, max_calls=10_000, attempts=3)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add `pixels` (uint8 bytes), `thumbnail`, `width`, `height` and errors."""
        from mmray.media.image import read_picture

        errors = Errors(rows.num_rows)
        columns: dict[str, list[object]] = {n: [] for n in ("pixels", "thumbnail", *_SIZES)}
        for i, uri in enumerate(rows["uri"].to_pylist()):
            picture = None
            try:
                with local_file(uri) as path:
                    picture = self._sandbox.call(read_picture, path, self.size, self.fit)
            except MediaError as e:
                errors.add(i, e)
            columns["pixels"].append(picture and picture.pixels.tobytes())
            for name in ("thumbnail", *_SIZES):
                columns[name].append(picture and getattr(picture, name))
        types = {"pixels": pa.large_binary(), "thumbnail": pa.binary(), **_SIZES}
        table = rows
        for name, kind in types.items():
            table = table.append_column(name, pa.array(columns[name], kind))
        for name, column in errors.columns().items():
            table = table.append_column(name, column)
        return table


_SIZES = {"width": pa.int32(), "height": pa.int32()}


def squares_of(rows: pa.Table, good: np.ndarray, size: int) -> np.ndarray:
    """What `DecodePictures` made of the rows `good`: uint8 [len(good), size, size, 3]."""
    squares = np.zeros((len(good), size, size, 3), np.uint8)
    for i, row in enumerate(good.tolist()):
        values = np.frombuffer(rows["pixels"][row].as_buffer(), np.uint8)
        squares[i] = values.reshape(squares.shape[1:])
    return squares


@dataclass
class DescribePictures:
    """What frozen nets make of each picture; the pixels themselves are dropped.

    Args:
        nets: specs of the backbone's nets.
        objects: spec of the net of objects.
        size: width and height of the pixels.
        threads: CPU threads of each net.
        grid: keep the grid of the backbone's first net too.
    """

    nets: Sequence[str]
    objects: str
    size: int
    threads: int = 1
    grid: bool = False

    def setup(self) -> None:
        """Load the nets."""
        from mmray.teachers import load_teacher
        from mmray.teachers.backbone import Backbone

        self._backbone = Backbone(self.nets, threads=self.threads)
        # One of the backbone's own nets has answered already when the objects are wanted.
        own = self.objects in self.nets
        self._objects = (
            self._backbone[self.objects]
            if own
            else load_teacher(self.objects, threads=self.threads)
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `pixels` by float16 `features` [D], `objects` [K], and if so `grid` [h, w, C]."""
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        squares = squares_of(rows, good, self.size)
        columns: dict[str, np.ndarray] = {}
        if self.grid:
            columns["features"], answers, columns["grid"] = self._backbone.describe_with_grids(
                squares
            )
        else:
            columns["features"], answers = self._backbone.describe(squares)
        finite = np.all([_finite(values) for values in columns.values()], axis=0)
        posteriors = answers.get(self.objects)
        if posteriors is None:
            posteriors = self._objects(squares)
        columns["objects"] = posteriors
        table = rows.drop_columns(["pixels"])
        errors = Errors(rows.num_rows)
        for i in good[~finite].tolist():
            errors.add(i, MediaError("teacher", "the nets make no numbers of this picture"))
        table = with_columns(table, errors.columns())
        for name, values in columns.items():
            column = np.zeros((rows.num_rows, *values.shape[1:]), np.float16)
            # Beyond what float16 holds: a net gone wild must not put infinities into a dataset.
            column[good] = np.clip(values, -65504, 65504)
            table = table.append_column(name, tensor_column(column, column.shape[1:], "float16"))
        return table


def _finite(values: np.ndarray) -> np.ndarray:
    """Of which rows all values are numbers: bool [rows]."""
    finite: np.ndarray = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return finite
