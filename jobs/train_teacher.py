r"""Train a small net of objects or scenes on labelled pictures, to teach others without labels.

The toy world's two teachers (2,000 pictures, under 20 s each on two cores):

    python jobs/train_teacher.py --what objects
    python jobs/train_teacher.py --what scenes

Pictures of your own, one folder a class:

    python jobs/train_teacher.py folder:pictures/ --what objects --size 96 --out runs/my_teacher
    python jobs/prepare_videos.py folder:videos/ --objects mmray:runs/my_teacher

It trains in one process (on a GPU where there is one) and needs no Ray; on a cluster:

    ray job submit --working-dir . -- python jobs/train_teacher.py folder:s3://bucket/pictures \
        --out s3://bucket/teacher

Three tenths of the pictures are held out, chosen by the hash of their names: one to calibrate
the probabilities, two to measure. A folder that the same options made is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmray import cli

if TYPE_CHECKING:
    from mmray.teachers.train import TrainedTeacher


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of train_teacher."""

    source: Annotated[str, tyro.conf.Positional] = "toy"
    """toy, toy:DIR or folder:DIR (one folder a class)."""
    out: str = ""
    """Folder (or URI) of the model; default runs/train_teacher/objects or .../scenes."""
    what: Literal["objects", "scenes"] = "objects"
    """What the labels name."""
    epochs: int = 10
    """Passes over the training pictures."""
    size: int = 64
    """Side of the square pictures that the net sees, in pixels."""
    lr: float = 5e-3
    """Highest learning rate."""
    batch_size: int = 32
    """Pictures a step."""


def main(argv: Sequence[str] | None = None) -> TrainedTeacher:
    """Parse flags, train, print and return the result."""
    args = cli.parse(Args, argv, __doc__)
    # Threads that wait without spinning: beside other busy processes, seven times as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mmray.teachers.train import TeacherOptions, default_out, train_teacher

    options = TeacherOptions(
        source=args.source,
        what=args.what,
        epochs=args.epochs,
        size=args.size,
        lr=args.lr,
        batch_size=args.batch_size,
        limit=args.limit,
        seed=args.seed,
    )
    result = train_teacher(
        options,
        args.out or default_out(args.what),
        overwrite=args.overwrite,
        report=cli.console.print,
    )
    cli.console.print(
        f"{result.path}: accuracy {result.accuracy:.1%}, negative log-likelihood "
        f"{result.nll:.3f}, calibration error {result.ece:.3f} on {result.num_test} held-out "
        f"pictures ({result.seconds:.0f} s); use it as mmray:{result.path}"
    )
    return result


if __name__ == "__main__":
    cli.run(main)
