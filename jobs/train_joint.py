r"""Train the joint model of pictures and tags: each modality alone, then both together.

On a laptop, with the toy world, or with pictures that `prepare_images.py` made:

    python jobs/train_joint.py
    python jobs/train_joint.py --data runs/pictures --out runs/my_joint

The historic model, as a reference:

    python jobs/train_joint.py --data runs/pictures --arch dbm --lr 1e-2 --epochs 30 --out runs/dbm

On the pixels: a backbone that takes over the first five layers of AlexNet and learns the tags
comes first (OUT/pixels/model), and sees all pictures (OUT/pictures, the --data of evaluate.py):

    python jobs/train_joint.py --data runs/pictures --backbone-init torchvision:alexnet

On a cluster with 8 GPUs, a million pictures and results in a bucket:

    ray job submit --working-dir . -- python jobs/train_joint.py --data s3://bucket/pictures \
        --num-workers 8 --batch-size 2048 --epochs 20 --out s3://bucket/joint

Pictures without tags are used too. The same command again goes on from the last checkpoint, with
any number of workers. The model is written to OUT/model; MLflow has the curves, and registers it
as mmray-joint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from mmray import cli
from mmray.joint.config import JointOptions
from mmray.training.config import TrainConfig

if TYPE_CHECKING:
    from mmray.training.train import Trained


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of train_joint."""

    out: str = "runs/train_joint"
    """Folder (or URI) of checkpoints and model."""
    data: str | None = None
    """Folder (or URI) of the image dataset; default: the toy world's, made on demand."""
    model: Annotated[JointOptions, tyro.conf.arg(name="")] = field(default_factory=JointOptions)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(
            batch_size=128, epochs=30, lr=1e-3, warmup=50, schedule="cosine", weight_decay=0.02
        )
    )


def main(argv: Sequence[str] | None = None) -> Trained:
    """Parse flags, train, print and return what was made."""
    args = cli.parse(Args, argv, __doc__)
    import mmray
    from mmray.joint.train import JointTraining

    config = dataclasses.replace(args.train, seed=args.seed)
    config.check()
    args.model.check()
    training = JointTraining(args.model, config, ensure_toy_pictures(args), args.out, args.limit)
    mmray.init(local_mode=args.local, address=args.address)
    trained = training.run(overwrite=args.overwrite)
    cli.console.print(trained.line("joint"))
    return trained


def ensure_toy_pictures(args: Args) -> str:
    """The dataset asked for; without one the toy world's, which is prepared when it is missing."""
    if args.data is not None:
        return args.data
    import mmray
    from mmray.pipeline.images import toy_images

    mmray.init(local_mode=args.local, address=args.address)
    return toy_images(seed=args.seed)


if __name__ == "__main__":
    cli.run(main)
