r"""Train a captioner: sentences from pictures.

On a laptop, with the toy world, or with captioned pictures that `prepare_images.py` made (with
--grid, so that the captioner can look at the places of a picture):

    python jobs/train_captioner.py
    python jobs/train_captioner.py --data runs/pictures --out runs/my_captioner

The decoders of Show and Tell, and of Show, Attend and Tell:

    python jobs/train_captioner.py --data runs/pictures --arch lstm --out runs/lstm
    python jobs/train_captioner.py --data runs/pictures --arch attention --out runs/attention

Then also on what it writes itself, rewarded by CIDEr-D:

    python jobs/train_captioner.py --data runs/pictures --scst

From few captions of many things, with the backbone's names for what captions do not name:

    python jobs/train_captioner.py --data runs/stamps --copy-names --captions 1 --min-count 1 \
        --epochs 60 --batch-size 16 --lr 2e-3 --dim 128 --layers 2 --clip-norm 1

On a cluster with 8 GPUs and COCO in a bucket:

    ray job submit --working-dir . -- python jobs/train_captioner.py --data s3://bucket/coco \
        --num-workers 8 --batch-size 512 --min-count 6 --dim 512 --layers 6 --heads 8 \
        --scst --out s3://bucket/captioner

The same command again goes on from the last checkpoint, with any number of workers. The model is
written to OUT/model; MLflow has the curves and captions, and registers it as mmray-captioner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from mmray import cli
from mmray.captioner.config import CaptionOptions
from mmray.training.config import TrainConfig

if TYPE_CHECKING:
    from mmray.training.train import Trained


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of train_captioner."""

    out: str = "runs/train_captioner"
    """Folder (or URI) of checkpoints and model."""
    data: str | None = None
    """Folder (or URI) of the image dataset; default: the toy world's, made on demand."""
    model: Annotated[CaptionOptions, tyro.conf.arg(name="")] = field(default_factory=CaptionOptions)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(
            batch_size=64, epochs=30, lr=1e-3, warmup=100, schedule="cosine", weight_decay=0.02
        )
    )


def main(argv: Sequence[str] | None = None) -> Trained:
    """Parse flags, train, print and return what was made."""
    args = cli.parse(Args, argv, __doc__)
    import mmray
    from mmray.captioner.train import CaptionTraining
    from mmray.pipeline.images import toy_images

    config = dataclasses.replace(args.train, seed=args.seed)
    config.check()
    args.model.check()
    mmray.init(local_mode=args.local, address=args.address)
    data = args.data if args.data is not None else toy_images(seed=args.seed)
    trained = CaptionTraining(args.model, config, data, args.out, args.limit).run(
        overwrite=args.overwrite
    )
    cli.console.print(trained.line("captioner"))
    return trained


if __name__ == "__main__":
    cli.run(main)
