r"""Measure a trained model on held-out data, beside its baselines: a table, and JSON.

    python jobs/evaluate.py soundnet --model runs/distill_soundnet/model --data runs/clips
    python jobs/evaluate.py soundnet --model official:sound8.npy --sounds esc50:ESC-50-master
    python jobs/evaluate.py joint --model runs/train_joint/model --data runs/pictures
    python jobs/evaluate.py joint --model runs/train_joint/model --data runs/mirflickr \
        --protocol mirflickr
    python jobs/evaluate.py captioner --model runs/train_captioner/model --data runs/pictures
    python jobs/evaluate.py storyteller --model runs/train_storyteller/model --data runs/pictures
    ray job submit --working-dir . -- python jobs/evaluate.py soundnet \
        --model models:/mmray-soundnet/1 --data s3://bucket/clips --json s3://bucket/metrics.json

Without data, the toy world's are used, and made when they are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmray import cli
from mmray.errors import UserError

if TYPE_CHECKING:
    from mmray.pipeline.dataset import Dataset


@dataclass(kw_only=True)
class SoundnetArgs(cli.JobArgs):
    """Agreement with the teachers, and how useful each layer is for other sounds."""

    model: str
    """A model folder, models:/NAME/VERSION, or official:FILE for the official weights."""
    data: str | None = None
    """Clip dataset to measure agreement on (default: the toy world's, unless --sounds is given)."""
    split: Literal["train", "val", "test"] = "test"
    """Which clips of the dataset."""
    sounds: str | None = None
    """Labelled sounds for an SVM on each layer: esc50:DIR, sonicpi:DIR, or folder:DIR with one
    folder a class."""
    layers: tuple[str, ...] = ()
    """Layers for --sounds (default: conv3 and all above)."""
    json: str | None = None
    """File for the metrics (default OUT/soundnet.json)."""
    out: str = "runs/evaluate"
    """Folder (or URI) that the job writes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(kw_only=True)
class JointArgs(cli.JobArgs):
    """Tags, classes, search and arithmetic of a joint model, beside all baselines."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    data: str | None = None
    """Image dataset to measure on (default: the toy world's)."""
    split: Literal["val", "test"] = "test"
    """Which pictures of the dataset (for val, settings are chosen on a fifth of train)."""
    min_count: int = 10
    """Measure tags of at least so many training pictures."""
    dbm: str | None = None
    """A historic model (train_joint.py --arch dbm) for the same tables."""
    class_tags: Literal["hide", "show"] = "hide"
    """Whether tags that name a class are shown when the class is asked for (the papers of 2012 and
    2014 show them)."""
    analogies: str | None = None
    """File of questions, `a, b, c, d` a line (default: the toy world's)."""
    baselines: tuple[str, ...] | None = None
    """Run these baselines of tags only (default: all)."""
    measure: tuple[
        Literal["tags", "completed", "classes", "retrieval", "arithmetic", "analogies", "useless"],
        ...,
    ] = ("tags", "completed", "classes", "retrieval", "arithmetic", "analogies", "useless")
    """What to measure (default: all; classes take the longest)."""
    protocol: Literal["own", "mirflickr"] = "own"
    """own: the dataset's splits; mirflickr: classes by 10k/5k/10k pictures, five times."""
    json: str | None = None
    """File for the metrics (default OUT/joint.json)."""
    out: str = "runs/evaluate"
    """Folder (or URI) that the job writes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def check(self) -> None:
        """Refuse flags that would be ignored."""
        default = JointArgs(model=self.model)
        names = ("split", "limit", "min_count", "analogies", "baselines", "measure", "class_tags")
        ignored = [name for name in names if getattr(self, name) != getattr(default, name)]
        if self.protocol == "mirflickr" and ignored:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
            raise UserError(f"{flags}: has no effect with --protocol mirflickr; leave it out")


@dataclass(kw_only=True)
class CaptionerArgs(cli.JobArgs):
    """Captions beside those of people, of the nearest picture, and of a blind control."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    data: str | None = None
    """Image dataset to measure on (default: the toy world's)."""
    split: Literal["val", "test"] = "test"
    """Which pictures of the dataset."""
    beam: int = 5
    """Hypotheses that are followed."""
    length_penalty: float = 0.7
    """Of Wu et al. (2016); 0 prefers short captions."""
    also: tuple[str, ...] = ()
    """More captioners for the same table, NAME=MODEL each."""
    json: str | None = None
    """File for the metrics (default OUT/captioner.json)."""
    out: str = "runs/evaluate"
    """Folder (or URI) that the job writes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def others(self) -> dict[str, str]:
        """The models of --also by name."""
        from mmray.captioner.evaluate import RESERVED

        if self.beam < 1:
            raise UserError(f"--beam {self.beam}: expected 1 or more")
        pairs = [text.partition("=") for text in self.also]
        if bad := [
            name + sign for name, sign, where in pairs if not (name.isidentifier() and where)
        ]:
            raise UserError(f"--also {bad[0]}: expected NAME=MODEL, with a NAME of letters")
        names = [name for name, _, _ in pairs]
        if taken := [name for name in names if name in RESERVED or names.count(name) > 1]:
            raise UserError(f"--also {taken[0]}=...: the table has that name already; take another")
        return {name: where for name, _, where in pairs}


@dataclass(kw_only=True)
class StorytellerArgs(cli.JobArgs):
    """How much of the style and of the picture is in stories, by strength."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    data: str | None = None
    """Image dataset to measure on (default: the toy world's)."""
    passages: str | None = None
    """Dataset of passages that it was trained on (default: where it was)."""
    captioner: str | None = None
    """A captioner in place of the one that the model keeps."""
    split: Literal["val", "test"] = "test"
    """Which pictures of the dataset."""
    pictures: int = 100
    """Tell stories about the first so many of them."""
    json: str | None = None
    """File for the metrics (default OUT/storyteller.json); the curve is beside it."""
    out: str = "runs/evaluate"
    """Folder (or URI) that the job writes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Parse flags, measure, return the metrics."""
    subcommands: dict[str, tuple[type, Callable[[Any], dict[str, float]]]] = {
        "soundnet": (SoundnetArgs, evaluate_soundnet),
        "joint": (JointArgs, evaluate_joint),
        "captioner": (CaptionerArgs, evaluate_captioner),
        "storyteller": (StorytellerArgs, evaluate_storyteller),
    }
    args = cli.parse_subcommand({k: kind for k, (kind, _) in subcommands.items()}, argv, __doc__)
    measure = next(measure for kind, measure in subcommands.values() if type(args) is kind)
    return measure(args)


def evaluate_storyteller(args: StorytellerArgs) -> dict[str, float]:
    """The subcommand `storyteller`."""
    import mmray
    from mmray import storage
    from mmray.models import resolve
    from mmray.pipeline.dataset import Dataset
    from mmray.pipeline.images import toy_images
    from mmray.storyteller.evaluate import (
        RECALL_AT,
        curve,
        evaluate,
        passages_of_model,
        story_table,
    )
    from mmray.storyteller.predict import Storyteller

    pictures = min(args.pictures, args.limit or args.pictures)
    if pictures <= RECALL_AT:
        raise UserError(f"--pictures {pictures}: expected more than {RECALL_AT}")
    if args.data is None:
        mmray.init(local_mode=args.local, address=args.address)
    data = Dataset(args.data if args.data is not None else toy_images(seed=args.seed), "images")
    model = resolve(args.model)
    teller = Storyteller.load(
        model, args.device, captioner=args.captioner and resolve(args.captioner)
    )
    where = args.passages or passages_of_model(model)
    found = evaluate(
        teller,
        data,
        Dataset(where, "passages"),
        args.split,
        pictures,
        cli.console.print,
        args.seed,
    )
    path = args.json or storage.join(args.out, "storyteller.json")
    storage.write_json(path, found.metrics)
    picture = f"{path.removesuffix('.json')}.png"
    storage.write_bytes(picture, curve(found.metrics, [*found.examples]))
    for style, told in found.examples.items():
        for caption, story in told[:10]:
            cli.console.print(f"{style}: {caption} -> {story}", markup=False)
    cli.console.print(story_table(found.metrics, [*found.examples], found.judge))
    for name in ("copied8", "loops4", "distinct3", "empty", "cut", "words"):
        cli.console.print(f"{name} at strength 1: {found.metrics[name]:.3f}")
    cli.console.print(f"metrics: {path}, curve: {picture}")
    return found.metrics


def evaluate_captioner(args: CaptionerArgs) -> dict[str, float]:
    """The subcommand `captioner`."""
    import mmray
    from mmray import storage
    from mmray.captioner.evaluate import caption_table, evaluate
    from mmray.captioner.meteor import why_not
    from mmray.models import load_kind
    from mmray.pipeline.dataset import Dataset
    from mmray.pipeline.images import toy_images

    others = args.others()
    if args.data is None:
        mmray.init(local_mode=args.local, address=args.address)
    data = Dataset(args.data if args.data is not None else toy_images(seed=args.seed), "images")
    metrics = evaluate(
        load_kind(args.model, "captioner", args.device),
        data,
        args.split,
        beam=args.beam,
        length_penalty=args.length_penalty,
        limit=args.limit,
        seed=args.seed,
        others={name: load_kind(where, "captioner", args.device) for name, where in others.items()},
        report=cli.console.print,
    )
    path = args.json or storage.join(args.out, "captioner.json")
    storage.write_json(path, metrics)
    if reason := why_not():
        cli.console.print(f"no METEOR: {reason}")
    cli.console.print(caption_table(metrics))
    cli.console.print(
        f"{metrics['pictures']:.0f} pictures; {metrics['words']:.0f} different words, "
        f"{metrics['length']:.1f} a caption, {metrics['novel']:.0%} of the captions new, "
        f"{metrics['untaught']:.0%} with words that no training caption has"
    )
    cli.console.print(f"metrics: {path}")
    return metrics


def evaluate_joint(args: JointArgs) -> dict[str, float]:
    """The subcommand `joint`."""
    import mmray
    from mmray import storage
    from mmray.joint.arithmetic import read_analogies
    from mmray.joint.evaluate import evaluate, useless_of
    from mmray.joint.protocol import mirflickr_protocol
    from mmray.joint.table import joint_tables
    from mmray.models import load_kind
    from mmray.pipeline.dataset import Dataset
    from mmray.pipeline.images import toy_images

    args.check()
    if args.data is None:
        mmray.init(local_mode=args.local, address=args.address)
    data = Dataset(args.data if args.data is not None else toy_images(seed=args.seed), "images")
    questions = read_analogies(args.analogies, data)
    tagger = load_kind(args.model, "joint", args.device)
    others = {"dbm": load_kind(args.dbm, "joint", args.device)} if args.dbm else {}
    if args.protocol == "mirflickr":
        metrics = mirflickr_protocol({"joint": tagger, **others}, data, args.seed)
    else:
        metrics = evaluate(
            tagger,
            data,
            args.split,
            limit=args.limit,
            min_count=args.min_count,
            seed=args.seed,
            others=others,
            analogies=questions,
            class_tags=args.class_tags == "show",
            baselines=args.baselines,
            measure=args.measure,
            useless=useless_of(data),
            report=cli.console.print,
        )
    if not metrics:
        raise UserError(
            f"--measure {' '.join(args.measure)}: nothing of that can be measured on {data.uri}; "
            "analogies need --analogies FILE, useless tags the toy world, classes labels"
        )
    path = args.json or storage.join(args.out, "joint.json")
    storage.write_json(path, metrics)
    for table in joint_tables(metrics, list(others)):
        cli.console.print(table)
    cli.console.print(f"metrics: {path}")
    return metrics


def evaluate_soundnet(args: SoundnetArgs) -> dict[str, float]:
    """The subcommand `soundnet`."""
    from mmray import storage
    from mmray.models import load_kind
    from mmray.soundnet.evaluate import agreement_table, evaluate
    from mmray.soundnet.transfer import transfer, transfer_table
    from mmray.sources import sounds

    # All arguments are looked at before the first long step.
    items = sounds(args.sounds)[: args.limit] if args.sounds else []
    data = _clips(args)
    net = load_kind(args.model, "soundnet", args.device)
    metrics: dict[str, float] = {}
    if data is not None:
        metrics |= evaluate(net, data, args.split, args.limit)
        cli.console.print(agreement_table(metrics))
    if args.sounds:
        metrics |= transfer(net, items, args.layers, args.seed)
        cli.console.print(transfer_table(metrics))
    path = args.json or storage.join(args.out, "soundnet.json")
    storage.write_json(path, metrics)
    cli.console.print(f"metrics: {path}")
    return metrics


def _clips(args: SoundnetArgs) -> Dataset | None:
    """The dataset to measure agreement on; without any flag the toy world's, made on demand."""
    import mmray
    from mmray.pipeline.dataset import Dataset
    from mmray.pipeline.videos import toy_videos

    if args.data is None:
        if args.sounds:
            return None
        mmray.init(local_mode=args.local, address=args.address)
        return Dataset(toy_videos(seed=args.seed))
    return Dataset(args.data)


if __name__ == "__main__":
    cli.run(main)
