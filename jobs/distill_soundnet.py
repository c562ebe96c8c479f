r"""Train a SoundNet to hear what frozen nets saw in the frames of unlabeled videos.

On a laptop, with the toy world, or with clips that `prepare_videos.py` made:

    python jobs/distill_soundnet.py
    python jobs/distill_soundnet.py --data runs/clips --epochs 20 --out runs/my_soundnet

From the official weights, or from another model:

    python jobs/distill_soundnet.py --data runs/clips --init official:sound8.npy --unaligned

On a cluster with 8 GPUs, bf16, clips and results in a bucket:

    ray job submit --working-dir . -- python jobs/distill_soundnet.py --data s3://bucket/clips \
        --num-workers 8 --batch-size 512 --crop-s 20 --steps 100000 --out s3://bucket/soundnet

On a cluster whose nodes come and go (spot instances), with as many workers as there is room for:

    ray job submit --working-dir . -- python jobs/distill_soundnet.py --data s3://bucket/clips \
        --elastic 2 8 --batch-size 512 --out s3://bucket/soundnet

Losses do not depend on how many there are. Before nodes join, and when a node gets notice that it
will be taken away, a checkpoint is written, at the end of a window of --log-every steps.

The defaults are for small datasets. The published recipe, for millions of clips, is
`--crop-s 20 --batch-size 64 --lr 1e-3 --warmup 0 --schedule constant --steps 100000`. On CPUs one
worker uses all cores of its machine and is the fastest; more workers are for more machines.

The same command again goes on from the last checkpoint, with any number of workers. The model is
written to OUT/model; MLflow has the curves, and registers it as mmray-soundnet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmray import cli
from mmray.soundnet.augment import AugmentConfig
from mmray.training.config import TrainConfig

if TYPE_CHECKING:
    from mmray.training.train import Trained


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of distill_soundnet."""

    out: str = "runs/distill_soundnet"
    """Folder (or URI) of checkpoints and model."""
    data: str | None = None
    """Folder (or URI) of the clip dataset; default: the toy world's, made on demand."""
    init: str = "random"
    """First weights: random, official:FILE (sound8.npy), or a model folder."""
    arch: Literal["soundnet8", "soundnet5"] = "soundnet8"
    """The 8-layer or the 5-layer net."""
    unaligned: bool = False
    """The published geometry, whose outputs are tied to frames by position only."""
    head_kernel: int = 1
    """Width of the heads (aligned only), in cells of the last layer."""
    crop_s: float | None = None
    """Seconds of sound in each training example; default 5, or the whole clip with --unaligned."""
    objects_weight: float = 1.0
    """Weight of the object head's KL divergence."""
    scenes_weight: float = 1.0
    """Weight of the scene head's (the published code gives scenes 2.49 by accident)."""
    sparse_heads: float = 0.0
    """Weight of an L1 penalty on the heads: units then speak for few classes, and detect them."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(
            batch_size=16, epochs=40, lr=3e-4, warmup=50, schedule="cosine"
        )
    )
    augment: Annotated[AugmentConfig, tyro.conf.arg(name="")] = field(default_factory=AugmentConfig)


def main(argv: Sequence[str] | None = None) -> Trained:
    """Parse flags, train, print and return what was made."""
    args = cli.parse(Args, argv, __doc__)
    import mmray
    from mmray.soundnet.distill import Student, soundnet_job
    from mmray.training.train import train

    student = Student(
        arch=args.arch,
        init=args.init,
        aligned=not args.unaligned,
        head_kernel=args.head_kernel,
        crop_s=args.crop_s,
        objects_weight=args.objects_weight,
        scenes_weight=args.scenes_weight,
        sparse_heads=args.sparse_heads,
    )
    config = dataclasses.replace(args.train, seed=args.seed)
    config.check()
    job = soundnet_job(
        ensure_toy_clips(args), args.out, student, config, args.augment, limit=args.limit
    )
    mmray.init(local_mode=args.local, address=args.address)  # the slowest, so after all checks
    trained = train(job, overwrite=args.overwrite)
    cli.console.print(trained.line("soundnet"))
    return trained


def ensure_toy_clips(args: Args) -> str:
    """The dataset asked for; without one the toy world's, which is prepared when it is missing."""
    if args.data is not None:
        return args.data
    import mmray
    from mmray.pipeline.videos import toy_videos

    mmray.init(local_mode=args.local, address=args.address)
    return toy_videos(seed=args.seed)


if __name__ == "__main__":
    cli.run(main)
