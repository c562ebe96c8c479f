r"""Train a storyteller: pictures become passages in the style of a book.

On a laptop; without data, from the toy world's captions, in the styles of a saga and of the news:

    python jobs/train_storyteller.py

From captioned pictures that `prepare_images.py` made and any plain text:

    python jobs/train_storyteller.py --captions runs/pictures \
        --captioner runs/train_captioner/model --style kjv=kjv.txt --style fortunes=fortunes.txt

Another style later, without training again:

    python jobs/train_storyteller.py --add-style noir=noir.txt

On a cluster with 8 GPUs and books in a bucket:

    ray job submit --working-dir . -- python jobs/train_storyteller.py \
        --captions s3://bucket/coco --captioner s3://bucket/captioner/model \
        --style romance=s3://bucket/romance.txt --style noir=s3://bucket/noir.txt \
        --num-workers 8 --batch-size 1024 --dim 512 --layers 6 --heads 8 --vocabulary 16000 \
        --out s3://bucket/storyteller

The same command again goes on from the last checkpoint, with any number of workers. The model is
written to OUT/model; MLflow has the curves, and registers it as mmray-storyteller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from mmray import cli
from mmray.errors import UserError
from mmray.storyteller.config import StoryOptions
from mmray.training.config import TrainConfig

if TYPE_CHECKING:
    from mmray.training.train import Trained


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of train_storyteller."""

    out: str = "runs/train_storyteller"
    """Folder (or URI) of checkpoints and model."""
    captions: str | None = None
    """Folder (or URI) of an image dataset with captions; default: the toy world's."""
    style: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """NAME=FILE, a plain text that becomes a style; once for each. Default: the toy world's two."""
    add_style: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """NAME=FILE, a style for the model that is in --out already; nothing is trained."""
    captioner: str | None = None
    """A captioner, which the model keeps to look at pictures."""
    joint: str | None = None
    """A joint model in its place: stories are about what people wrote of the nearest pictures."""
    model: Annotated[StoryOptions, tyro.conf.arg(name="")] = field(default_factory=StoryOptions)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(
            batch_size=32,
            epochs=2.5,
            min_steps=600,
            optimizer="muon",
            lr=2e-3,
            warmup=100,
            schedule="cosine",
            weight_decay=0.02,
            betas=(0.9, 0.98),
            clip_norm=1.0,
            eval_every=500,
            eval_limit=512,
        )
    )


def main(argv: Sequence[str] | None = None) -> Trained | None:
    """Parse flags; train, print and return what was made, or add styles."""
    args = cli.parse(Args, argv, __doc__)
    import mmray
    from mmray.models import resolve
    from mmray.pipeline.images import toy_images
    from mmray.storyteller.passages import parse_styles
    from mmray.storyteller.styles import add_styles
    from mmray.storyteller.train import StoryTraining
    from mmray.toyworld.tales import toy_styles
    from mmray.training.train import model_folder

    if args.add_style:
        if args.style:
            raise UserError("--add-style, --style: give one of them; --style trains anew")
        add_styles(model_folder(args.out), parse_styles(args.add_style, "--add-style"))
        return None
    styles = parse_styles(args.style) or toy_styles(args.seed)
    config = dataclasses.replace(args.train, seed=args.seed)
    config.check()
    args.model.check()
    captioner, joint = (x and resolve(x) for x in (args.captioner, args.joint))
    mmray.init(local_mode=args.local, address=args.address)
    captions = args.captions if args.captions is not None else toy_images(seed=args.seed)
    training = StoryTraining(
        args.model, config, captions, styles, args.out, captioner, joint, args.limit
    )
    trained = training.run(overwrite=args.overwrite)
    cli.console.print(trained.line("storyteller"))
    return trained


if __name__ == "__main__":
    cli.run(main)
