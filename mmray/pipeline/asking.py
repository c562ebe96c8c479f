"""Asking a model about any number of pictures: any source, or an image dataset, in; answers out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from mmray import storage
from mmray.errors import MediaError, UserError
from mmray.pipeline import shards
from mmray.pipeline.dataset import Dataset, read_group, tensor
from mmray.pipeline.images import Workers, picture_rows
from mmray.pipeline.job import DatasetJob, Prepared
from mmray.pipeline.pictures import DecodePictures, squares_of
from mmray.pipeline.placement import decode_and_ask
from mmray.pipeline.stages import Errors, Stage, with_columns

FILE_SCHEMA = pa.schema({"id": pa.string(), "uri": pa.string()})
"""A picture to decode."""
PLACE_SCHEMA = pa.schema({"part": pa.string(), "group": pa.int32(), "row": pa.int32()})
"""A picture of an image dataset: its shard, the row group in it, and the row in that."""
_SEEN = ("pixels", "thumbnail", "features", "grid")
"""What a model is asked of, and answers do not keep."""


@dataclass(frozen=True)
class Pictures:
    """The pictures that a model is asked about.

    Args:
        source: as `mmray.sources.images` reads it; or the folder of an image dataset, in which
            what the backbone makes of them is stored already.
        limit: use only the first ones.
        backbone: of the model, as `describe_backbone` gives it.
        column: of an image dataset, with what the model sees.
    """

    source: str
    limit: int | None
    backbone: Mapping[str, Any]
    column: str = "features"

    @cached_property
    def dataset(self) -> Dataset | None:
        """The image dataset, where the source is one; see `stored_pictures`."""
        return stored_pictures(self.source)

    @cached_property
    def size(self) -> int:
        """Side of the squares that the backbone takes, in pixels; 0 where nothing is decoded."""
        from mmray.teachers import describe_teacher

        if self.dataset is not None:
            return 0
        # The nets themselves are started by the workers, perhaps on a GPU that this process lacks.
        return max(describe_teacher(spec)["size"] for spec in self.backbone["nets"])

    def job(
        self,
        out: str,
        kind: str,
        options: dict[str, Any],
        fingerprint: str,
        *,
        max_error_ratio: float = 0.2,
        derived: tuple[str, ...] = (),
    ) -> DatasetJob:
        """The job whose rows are the answers.

        Args:
            out: folder (or URI) of the answers.
            kind: of the dataset that they are.
            options: what determines them.
            fingerprint: of the model's weights.
            max_error_ratio: largest share of pictures that cannot be used, 0 to 1.
            derived: as `DatasetJob` has it.
        """
        if self.dataset is not None:
            options = options | {"input_manifest": self.dataset.sha256[:12]}
        return DatasetJob(
            out,
            kind=kind,
            options=options,
            nets={"model": {"weights_sha256": fingerprint, "backbone": dict(self.backbone)}},
            items="pictures",
            parts="rows",
            max_error_ratio=max_error_ratio,
            net_key="models",
            part_bytes=3 * self.size**2 + (4 << 10),
            derived=derived,
        )

    def answer(
        self, job: DatasetJob, ask: Stage, columns: Sequence[str], workers: Workers
    ) -> Prepared:
        """List the pictures, and ask.

        Args:
            job: see `job`.
            ask: the stage that makes `columns` of what it finds by `seen`.
            columns: of the answers.
            workers: how the work is spread.
        """
        read: Stage
        if self.dataset is None:
            files = (t.select(FILE_SCHEMA.names) for t in picture_rows(self.source, self.limit))
            job.list_parts(files, FILE_SCHEMA, self.source)
            read = DecodePictures(self.size, self.backbone["fit"], workers.timeout_s)
        else:
            job.list_parts(places(self.dataset, self.limit), PLACE_SCHEMA, self.source)
            read = ReadFeatures(self.dataset.uri, self.column)
        write = shards.WriteShard(job.out, columns, job.errors, row_group_size=shards.MAX_ROWS)
        pools = decode_and_ask(
            [shards.ReadShard(job.part_list), read],
            [ask, write],
            decoders=workers.decoders,
            nets=workers.nets,
        )
        job.main(pools)
        return job.finish(self.source)


def stored_pictures(source: str) -> Dataset | None:
    """The image dataset at `source`; None where that is another source of pictures.

    Raises:
        UserError: it is a dataset of another kind.
    """
    if ":" in source.split("://")[0]:  # folder:DIR, folder:s3://...
        return None
    path = storage.join(source, "manifest.json")
    if not storage.exists(path):
        return None
    manifest = storage.read_json(path)
    is_ours = isinstance(manifest, dict) and "schema_version" in manifest
    return Dataset(source, "images") if is_ours else None


def check_limit(limit: int | None) -> None:
    """Raise a `UserError` that names the flag when no picture would be left."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: expected 1 or more")


def places(dataset: Dataset, limit: int | None = None) -> Iterator[pa.Table]:
    """Where the first pictures of an image dataset are, as tables of `PLACE_SCHEMA`."""
    left = dataset.num_rows if limit is None else limit
    for group in dataset.row_groups():
        count = min(group.num_rows, left)
        left -= count
        part = group.path.rsplit("/", 1)[-1]
        rows = {"part": [part] * count, "group": [group.group] * count, "row": range(count)}
        yield pa.table(rows, schema=PLACE_SCHEMA)
        if not left:
            return


@dataclass
class ReadFeatures:
    """The rows of an image dataset, in place of those of a work list that say where they are.

    Args:
        uri: folder of the image dataset.
        column: that a model sees.
    """

    uri: str
    column: str = "features"

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `PLACE_SCHEMA` in; `id`, `uri` and the column out."""
        tables = []
        listed = rows.to_pylist()
        for (part, group), run in itertools.groupby(listed, lambda r: (r["part"], r["group"])):
            # The rows of a group follow one another in the work list.
            chosen = [row["row"] for row in run]
            columns = ["id", "uri", self.column]
            table = read_group(storage.join(self.uri, part), group, columns)
            tables.append(table.slice(chosen[0], len(chosen)))
        return pa.concat_tables(tables).append_column("shard", rows["shard"])


def load_in_worker(model: str, device: str, threads: int, **options: Any) -> Any:
    """As `load_predictor`, for a process that shares the CPUs with others of its kind."""
    import torch

    from mmray.models import load_predictor

    if not torch.cuda.is_available():
        torch.set_num_threads(threads)
    return load_predictor(model, device=device, threads=threads, **options)


def seen(
    rows: pa.Table,
    good: np.ndarray,
    column: str,
    size: int,
    see: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """What the backbone makes of pictures: float32 [len(good), ...].

    Args:
        rows: of `ReadFeatures`, or of `DecodePictures`.
        good: numbers of the rows that have not failed.
        column: where it is stored.
        size: width and height of the pixels, where rows have pixels.
        see: the backbone, where they have.
    """
    if column in rows.column_names:
        return tensor(rows[column])[good].astype(np.float32)
    return see(squares_of(rows, good, size))


def answered(rows: pa.Table, answers: Mapping[str, pa.Array], wrong: Iterable[int]) -> pa.Table:
    """The rows with answers in place of what the model saw.

    Args:
        rows: as the stage got them.
        answers: columns of all rows.
        wrong: numbers of the rows of which the nets make no numbers: they fail.
    """
    errors = Errors(rows.num_rows)
    for i in wrong:
        errors.add(i, MediaError("teacher", "the nets make no numbers of this picture"))
    table = rows.drop_columns([name for name in rows.column_names if name in _SEEN])
    return with_columns(table, {**answers, **errors.columns()})
