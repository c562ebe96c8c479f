"""Preparing pictures: any source in, an image dataset out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray import storage
from mmray.cli import console
from mmray.errors import UserError
from mmray.media.image import Fit
from mmray.pipeline import shards
from mmray.pipeline.dataset import Dataset, map_files, read_table
from mmray.pipeline.job import DatasetJob, Prepared
from mmray.pipeline.placement import decode_and_ask
from mmray.pipeline.stages import Pool
from mmray.teachers.backbone import describe_backbone

DEFAULT_OUT = "runs/prepare_images"
ROW_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What determines the rows of an image dataset; the flags of `jobs/prepare_images.py`."""

    source: str
    backbone: tuple[str, ...]
    objects: str
    fit: Fit = "pad"
    limit: int | None = None
    grid: bool = False
    language: str | None = None

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if not self.backbone:
            raise UserError("--backbone: expected the specs of one or more nets")
        if len(set(self.backbone)) < len(self.backbone):
            raise UserError(f"--backbone {' '.join(self.backbone)}: names a net twice")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: expected 1 or more")

    def absolute(self) -> ImageOptions:
        """The same with nets that workers find, whatever their working directory."""
        from mmray.teachers import absolute_spec

        backbone = tuple(map(absolute_spec, self.backbone))
        return replace(self, backbone=backbone, objects=absolute_spec(self.objects))


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How the work is spread; changes nothing in the rows.

    Args:
        decoders: decoding workers; None for one a CPU.
        nets: workers that hold the nets; None for one a GPU, else one for two CPUs.
        timeout_s: time limit for one picture, in seconds.
    """

    decoders: int | None = None
    nets: int | None = None
    timeout_s: float = 30.0

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if not 0 < self.timeout_s < float("inf"):
            raise UserError(f"--timeout-s {self.timeout_s:g}: expected seconds above 0")


def prepare_images(
    options: ImageOptions,
    out: str = DEFAULT_OUT,
    *,
    workers: Workers | None = None,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Make the image dataset `out`, or go on where an earlier run of the same options stopped.

    Raises:
        UserError: bad options, or `out` holds something made with other options.
        JobFailed: more than `max_error_ratio` of the pictures are bad; what is done is kept.
    """
    from mmray.pipeline.pictures import PICTURE_SCHEMA

    workers = workers or Workers()
    workers.check()
    options = options.absolute()
    job = image_job(options, out, max_error_ratio)
    # Nothing is removed, and OUT is not claimed, for a source or language that is not there.
    if overwrite or options.language is not None:
        next(picture_rows(options.source, options.limit, options.language), None)
    if finished := job.claim(overwrite):
        return finished
    rows = picture_rows(options.source, options.limit, options.language)
    job.list_parts(rows, PICTURE_SCHEMA, options.source)
    job.main(picture_pools(job, options, workers))
    prepared = job.finish(options.source)
    _tell_words(Dataset(prepared.path, "images"))
    return prepared


def _tell_words(dataset: Dataset) -> None:
    """Say how many pictures people wrote about: what models can learn from."""
    with_words = {"tags": 0, "captions": 0}
    for table in map_files(partial(read_table, columns=[*with_words]), dataset.shards):
        for name in with_words:
            lengths = pc.fill_null(pc.list_value_length(table[name]), 0)
            with_words[name] += int(pc.sum(pc.greater(lengths, 0)).as_py() or 0)
    told = " and ".join(f"{count} {name}" for name, count in with_words.items())
    console.print(f"pictures with words: {told}")


def image_job(options: ImageOptions, out: str, max_error_ratio: float = 0.2) -> DatasetJob:
    """The job that makes an image dataset."""
    from mmray.teachers import describe_teacher

    options.check()
    nets = {"objects": describe_teacher(options.objects)}
    for i, spec in enumerate(options.backbone):
        nets[f"features_{i}"] = describe_teacher(spec, grid=options.grid and i == 0)
    described = asdict(options) | {"backbone": list(options.backbone)}
    if not options.grid:  # datasets from before there were grids go on, and stay equal
        del described["grid"]
    if options.language is None:
        del described["language"]
    return DatasetJob(
        *(out, "images", described, nets, "pictures", "rows", max_error_ratio),
        part_bytes=_picture_bytes(nets),
    )


def _picture_bytes(nets: Mapping[str, Any]) -> int:
    """Bytes of a decoded and described picture."""
    size = max(net["size"] for net in nets.values())
    grid = sum(2 * math.prod(net["grid"]) for net in nets.values() if net.get("grid"))
    return 3 * size**2 + grid + (8 << 10)  # the last for features and the thumbnail


def picture_pools(job: DatasetJob, options: ImageOptions, workers: Workers) -> list[Pool]:
    """The workers of the main pass: they decode, describe, and write."""
    from mmray.pipeline.pictures import DecodePictures, DescribePictures

    # The backbone's own size, at which the model's users will see pictures too.
    size = max(net["size"] for name, net in job.nets.items() if name.startswith("features"))
    columns = (
        *("id", "uri", "split", "width", "height", "tags", "captions", "labels"),
        *("features", *(["grid"] if options.grid else []), "objects", "thumbnail"),
    )
    write = shards.WriteShard(job.out, columns, job.errors, row_group_size=ROW_GROUP)
    return decode_and_ask(
        [shards.ReadShard(job.part_list), DecodePictures(size, options.fit, workers.timeout_s)],
        [DescribePictures(options.backbone, options.objects, size, grid=options.grid), write],
        decoders=workers.decoders,
        nets=workers.nets,
    )


def picture_rows(
    source: str, limit: int | None = None, language: str | None = None
) -> Iterator[pa.Table]:
    """A source's first pictures as tables of `PICTURE_SCHEMA`, some at a time."""
    from mmray.pipeline.clips import with_ids
    from mmray.pipeline.pictures import PICTURE_SCHEMA
    from mmray.sources import images, split_of

    items = with_ids(itertools.islice(images(source, language), limit), source)
    while batch := list(itertools.islice(items, 1024)):
        rows: list[dict[str, Any]] = [
            {
                "id": name,
                "uri": item.uri,
                "split": item.split or split_of(item.key),
                "tags": item.tags,
                "captions": item.captions,
                "labels": item.labels,
            }
            for name, item in batch
        ]
        yield pa.Table.from_pylist(rows, schema=PICTURE_SCHEMA)


def backbone_of(dataset: Dataset) -> dict[str, Any]:
    """The backbone that made a dataset's features, as `describe_backbone` gives it."""
    options, nets = dataset.manifest["options"], dataset.manifest["teachers"]
    described = [nets[f"features_{i}"] for i in range(len(options["backbone"]))]
    return describe_backbone(options["backbone"], options["fit"], described)


def grid_of(dataset: Dataset) -> tuple[int, int, int] | None:
    """Rows, columns and channels of a dataset's column `grid`; None where it has none."""
    shape = dataset.manifest["teachers"]["features_0"].get("grid")
    if shape is None:
        return None
    height, width, channels = shape
    return height, width, channels


def toy_images(out: str = DEFAULT_OUT, source: str = "toy", seed: int = 0) -> str:
    """The pictures of the toy world; prepared when they are missing.

    Returns:
        The folder of the image dataset: as it is where it is one of the toy world already.
    """
    from mmray.teachers.train import toy_teacher

    manifest = storage.join(out, "manifest.json")
    if storage.exists(manifest) and Dataset(out, "images").manifest.get("source") == source:
        return out
    objects = f"mmray:{toy_teacher('objects', source, seed)}"
    options = ImageOptions(source=source, backbone=("efficientnet_lite0",), objects=objects)
    return prepare_images(options, out).path
