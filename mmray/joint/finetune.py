"""From `--backbone-init` to a dataset that a backbone of our own has described.

the dataset's files and tags -> OUT/pixels/model, the backbone
the dataset's files through that backbone -> OUT/pictures, on which the joint model is trained
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow as pa

from mmray import storage
from mmray.joint.config import RANDOM, JointOptions
from mmray.joint.pixels import PixelExamples, PixelPretraining
from mmray.joint.vocabulary import build_vocabulary
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import ImageOptions, Workers, image_job, picture_pools
from mmray.pipeline.pictures import PICTURE_SCHEMA
from mmray.teachers import absolute_spec
from mmray.teachers.recipes import recipe_of
from mmray.training.config import TrainConfig
from mmray.training.train import Job, train

PIXELS_LR = 2e-4
"""Higher rates forget what the transferred layers knew; new ones learn well with it under Adam."""


def finetuned(
    options: JointOptions,
    config: TrainConfig,
    data: str,
    out: str,
    limit: int | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Train a backbone on the pictures of a dataset, and describe them all through it.

    Args:
        options: `backbone_init` and what belongs to it.
        config: of the joint model; batches, workers and seed are the same here.
        data: folder (or URI) of the image dataset; its files are read again.
        out: folder (or URI) that is written.
        limit: train on only the first rows of each split.
        overwrite: start afresh rather than go on.

    Returns:
        The folder of the new dataset: the same rows with other features.

    Raises:
        UserError: bad options, or a checkpoint of a net of another layout.
        mmray.cli.JobFailed: workers died too often, or too many files are no longer there.
    """
    dataset = Dataset(data, "images")
    job = pixel_job(options, config, dataset, storage.join(out, "pixels"), limit)
    backbone = train(job, overwrite=overwrite).path
    return describe_again(
        dataset, f"mmray:{backbone}", storage.join(out, "pictures"), overwrite=overwrite
    )


def pixel_job(
    options: JointOptions, config: TrainConfig, dataset: Dataset, out: str, limit: int | None = None
) -> Job:
    """The job that trains the backbone; downloads the weights to begin with."""
    options.check()
    vocabulary = build_vocabulary(
        dataset, min_count=options.min_count, max_tags=options.max_tags, limit=limit
    )
    init = None if options.backbone_init == RANDOM else options.backbone_init
    init = init and absolute_spec(init)
    task = PixelPretraining(
        vocabulary,
        options.pixel_size,
        init,
        recipe_of(init).weights_sha256 if init else "",
        options.transfer_layers,
        options.freeze_transferred,
        options.weights.doubt,
    )
    examples = PixelExamples(vocabulary, options.pixel_size, dataset.manifest["options"]["fit"])
    config = dataclasses.replace(
        config, steps=None, epochs=options.pixel_epochs, lr=PIXELS_LR, schedule="cosine"
    )
    return Job(task, examples, examples, dataset.uri, "images", out, config, limit)


def describe_again(dataset: Dataset, backbone: str, out: str, *, overwrite: bool = False) -> str:
    """The pictures of a dataset as another backbone sees them; goes on where it was stopped.

    Ids, splits, words and the net of objects stay. Files that have gone since are quarantined.

    Returns:
        The folder of the new dataset.

    Raises:
        UserError: a net is missing, or `out` holds something else.
        mmray.cli.JobFailed: too many files cannot be read any more.
    """
    values = {**dataset.manifest["options"], "backbone": (backbone,)}
    options = ImageOptions(**values).absolute()
    job = image_job(options, out)
    if finished := job.claim(overwrite):
        return finished.path
    job.list_parts(_rows(dataset), PICTURE_SCHEMA, dataset.uri)
    job.main(picture_pools(job, options, Workers()))
    return job.finish(options.source).path


def _rows(dataset: Dataset) -> Iterator[pa.Table]:
    return dataset.batches(PICTURE_SCHEMA.names, 1024)
