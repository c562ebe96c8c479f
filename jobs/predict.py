r"""Ask a trained model about any number of files; the answers are a dataset of Parquet shards.

    python jobs/predict.py sounds --model runs/distill_soundnet/model --input folder:recordings/
    python jobs/predict.py sounds --model official:sound8.npy --input folder:recordings/ \
        --layer pool5
    python jobs/predict.py tags --model runs/train_joint/model --input folder:pictures/ --index
    python jobs/predict.py captions --model runs/train_captioner/model --input folder:pictures/
    python jobs/predict.py stories --model runs/train_storyteller/model --style kjv \
        --input folder:pictures/
    ray job submit --working-dir . -- python jobs/predict.py sounds \
        --model models:/mmray-soundnet/1 --input manifest:s3://bucket/sounds.parquet \
        --out s3://bucket/heard

The same command again goes on where the last run stopped. Files that cannot be used are listed
with their reason in OUT/errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmray import cli

if TYPE_CHECKING:
    from mmray.pipeline.job import Prepared


@dataclass(kw_only=True)
class SoundsArgs(cli.JobArgs):
    """Objects and scenes over time, and features, of audio and video files."""

    model: str
    """A model folder, models:/NAME/VERSION, or official:FILE for the official weights."""
    input: str = "toy"
    """toy, folder:DIR (audio and video files) or manifest:FILE (parquet or csv with `uri`)."""
    out: str = "runs/predict_sounds"
    """Folder (or URI) of the answers."""
    layer: str | None = None
    """Also write the features of this layer, for example pool5."""
    top: int = 5
    """How many of the likeliest classes of each file to name."""
    part_s: float = 120.0
    """Longer files are heard in equal parts of at most so many seconds."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the files is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    nets: int | None = None
    """Workers that hold the model (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 60.0
    """Time limit for decoding one part; over it, the part is quarantined."""


@dataclass(kw_only=True)
class TagsArgs(cli.JobArgs):
    """Tags of pictures, and an index to search them by tags and pictures."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    input: str = "toy"
    """Any source that prepare_images.py takes, or the folder of an image dataset that it made:
    then nothing is decoded again."""
    out: str = "runs/predict_tags"
    """Folder (or URI) of the answers."""
    index: bool = False
    """Also index the answers in OUT/index, for `mmray.load(MODEL, index="OUT/index")`."""
    top: int = 10
    """How many of the likeliest tags of each picture to name."""
    useless: bool = False
    """Also name tags that pictures do not tell: cameras, years, awards."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the pictures is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    nets: int | None = None
    """Workers that hold the model (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 30.0
    """Time limit for decoding one picture; over it, the picture is quarantined."""


@dataclass(kw_only=True)
class CaptionsArgs(cli.JobArgs):
    """Sentences about pictures."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    input: str = "toy"
    """Any source that prepare_images.py takes, or the folder of an image dataset that it made:
    then nothing is decoded again."""
    out: str = "runs/predict_captions"
    """Folder (or URI) of the captions."""
    beam: int = 5
    """Hypotheses that are followed; 1 for the likeliest word each time."""
    n: int = 1
    """Sentences of each picture, at most --beam."""
    length_penalty: float = 0.7
    """Of Wu et al. (2016); 0 prefers short sentences."""
    json: str | None = None
    """Also write the best captions to this file, in COCO's format of results."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the pictures is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    nets: int | None = None
    """Workers that hold the model (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 30.0
    """Time limit for decoding one picture; over it, the picture is quarantined."""


@dataclass(kw_only=True)
class StoriesArgs(cli.JobArgs):
    """Passages about pictures, in the style of a book."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    style: str
    """One of the model's styles."""
    input: str = "toy"
    """Any source that prepare_images.py takes, or the folder of an image dataset that it made:
    then nothing is decoded again."""
    out: str = "runs/predict_stories"
    """Folder (or URI) of the stories."""
    strength: float = 1.0
    """0 for plain description, 1 for the book."""
    n: int = 1
    """Stories of each picture, at most 24."""
    captioner: str | None = None
    """A captioner in place of what the model looks at pictures with."""
    max_error_ratio: float = 0.2
    """Fail when more than this share of the pictures is bad."""
    decoders: int | None = None
    """Decoding workers (default: one a CPU)."""
    nets: int | None = None
    """Workers that hold the model (default: one a GPU, else one for two CPUs)."""
    timeout_s: float = 30.0
    """Time limit for decoding one picture; over it, the picture is quarantined."""


def main(argv: Sequence[str] | None = None) -> Prepared:
    """Parse flags, ask, return the counts."""
    subcommands: dict[str, tuple[type, Callable[[Any], Prepared]]] = {
        "sounds": (SoundsArgs, predict_sounds),
        "tags": (TagsArgs, predict_tags),
        "captions": (CaptionsArgs, predict_captions),
        "stories": (StoriesArgs, predict_stories),
    }
    args = cli.parse_subcommand({k: kind for k, (kind, _) in subcommands.items()}, argv, __doc__)
    ask = next(ask for kind, ask in subcommands.values() if type(args) is kind)
    return ask(args)


def predict_sounds(args: SoundsArgs) -> Prepared:
    """The subcommand `sounds`."""
    import mmray
    from mmray.soundnet.hear import HearOptions, hear_files

    options = HearOptions(
        model=args.model,
        input=args.input,
        layer=args.layer,
        top=args.top,
        part_s=args.part_s,
        limit=args.limit,
    )
    options.check()
    mmray.init(local_mode=args.local, address=args.address)
    return hear_files(
        options,
        args.out,
        decoders=args.decoders,
        nets=args.nets,
        timeout_s=args.timeout_s,
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


def predict_tags(args: TagsArgs) -> Prepared:
    """The subcommand `tags`."""
    import mmray
    from mmray.joint.tag import TagOptions, tag_pictures
    from mmray.pipeline.images import Workers

    options = TagOptions(
        model=args.model,
        input=args.input,
        top=args.top,
        useless=args.useless,
        limit=args.limit,
    )
    options.check()
    mmray.init(local_mode=args.local, address=args.address)
    return tag_pictures(
        options,
        args.out,
        index=args.index,
        workers=Workers(decoders=args.decoders, nets=args.nets, timeout_s=args.timeout_s),
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


def predict_captions(args: CaptionsArgs) -> Prepared:
    """The subcommand `captions`."""
    import mmray
    from mmray.captioner.caption import WriteOptions, caption_pictures
    from mmray.pipeline.images import Workers

    options = WriteOptions(
        model=args.model,
        input=args.input,
        beam=args.beam,
        n=args.n,
        length_penalty=args.length_penalty,
        limit=args.limit,
    )
    workers = Workers(decoders=args.decoders, nets=args.nets, timeout_s=args.timeout_s)
    options.check()
    workers.check()
    mmray.init(local_mode=args.local, address=args.address)
    return caption_pictures(
        options,
        args.out,
        json_file=args.json,
        workers=workers,
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


def predict_stories(args: StoriesArgs) -> Prepared:
    """The subcommand `stories`."""
    import mmray
    from mmray.pipeline.images import Workers
    from mmray.storyteller.tell import TellOptions, tell_pictures

    options = TellOptions(
        model=args.model,
        input=args.input,
        style=args.style,
        strength=args.strength,
        n=args.n,
        captioner=args.captioner,
        seed=args.seed,
        limit=args.limit,
    )
    workers = Workers(decoders=args.decoders, nets=args.nets, timeout_s=args.timeout_s)
    workers.check()
    mmray.init(local_mode=args.local, address=args.address)
    return tell_pictures(
        options,
        args.out,
        workers=workers,
        max_error_ratio=args.max_error_ratio,
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    cli.run(main)
