r"""Write a page that shows what a model has learned: one HTML file that opens anywhere.

    python jobs/report.py soundnet --model runs/distill_soundnet/model --data runs/prepare_videos
    python jobs/report.py soundnet --model official:sound8.npy --sounds sonicpi
    python jobs/report.py joint --model runs/train_joint/model --data runs/prepare_images
    python jobs/report.py captioner --model runs/train_captioner/model --data runs/prepare_images
    python jobs/report.py storyteller --model runs/train_storyteller/model \
        --data runs/prepare_images
    ray job submit --working-dir . -- python jobs/report.py soundnet \
        --model models:/mmray-soundnet/1 --data s3://bucket/clips --out s3://bucket/reports

Other models of the kind stand beside it with `--also NAME=MODEL`. The page goes to MLflow, too.
Without data, the toy world's are used, and made when they are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mmray import cli
from mmray.errors import UserError

if TYPE_CHECKING:
    from mmray.pipeline.dataset import Dataset

MEASURED_STORIES = 100
"""Pictures that stories are measured on."""
QUICK_BASELINES = ("prior", "kNN", "linear")
"""Beside a joint model that is measured for its page; evaluate.py runs all."""


@dataclass(kw_only=True)
class ReportArgs(cli.JobArgs):
    """What all pages are made from."""

    model: str
    """A model folder, or models:/NAME/VERSION."""
    data: str | None = None
    """Dataset to show the model on (default: the toy world's)."""
    split: Literal["val", "test"] = "test"
    """Which items of the dataset to show and to measure on."""
    also: tuple[str, ...] = ()
    """More models to compare with, NAME=MODEL each."""
    metrics: str | None = None
    """What evaluate.py wrote for the model (default: it is measured again)."""
    items: int = 40
    """How many units, pictures or stories to show."""
    out: str = "runs/report"
    """Folder (or URI) of the pages."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(kw_only=True)
class SoundnetArgs(ReportArgs):
    """Filters, what each unit hears, maps of sounds."""

    model: str
    """A model folder, models:/NAME/VERSION, or official:FILE for the official weights."""
    sounds: str | None = None
    """Sounds in place of a dataset: esc50:DIR, sonicpi:DIR, or folder:DIR with a folder a class."""
    layers: tuple[str, ...] = ()
    """Layers whose units are shown (default: the last shared one)."""
    windows: int = 9
    """How many sounds of each unit."""
    sample: int = 500
    """How many sounds to measure the units on, and to put on the map."""


@dataclass(kw_only=True)
class JointArgs(ReportArgs):
    """Tags, nearest pictures, arithmetic, maps of pictures and tags."""

    analogies: str | None = None
    """File of questions, `a, b, c, d` a line (default: the toy world's)."""


@dataclass(kw_only=True)
class CaptionerArgs(ReportArgs):
    """The best, the median and the worst captions, word by word."""


@dataclass(kw_only=True)
class StorytellerArgs(ReportArgs):
    """Stories by style and strength beside their pictures."""

    captioner: str | None = None
    """A captioner in place of the one that the model keeps."""
    items: int = 2
    """How many pictures to tell stories about; each takes some seconds."""


def main(argv: Sequence[str] | None = None) -> str:
    """Write the page; return where it is."""
    subcommands: dict[str, tuple[type, Callable[[Any], str]]] = {
        "soundnet": (SoundnetArgs, report_soundnet),
        "joint": (JointArgs, report_joint),
        "captioner": (CaptionerArgs, report_captioner),
        "storyteller": (StorytellerArgs, report_storyteller),
    }
    args = cli.parse_subcommand({k: kind for k, (kind, _) in subcommands.items()}, argv, __doc__)
    for flag in ("items", "windows", "sample"):
        if (value := getattr(args, flag, 1)) < 1:
            raise UserError(f"--{flag} {value}: expected 1 or more")
    write = next(write for kind, write in subcommands.values() if type(args) is kind)
    return write(args)


def report_soundnet(args: SoundnetArgs) -> str:
    """The subcommand `soundnet`."""
    import mmray
    from mmray import storage
    from mmray.models import load_kind
    from mmray.pipeline.dataset import Dataset, write_table
    from mmray.pipeline.videos import toy_videos
    from mmray.report.soundnet.page import check_metrics, soundnet_page
    from mmray.soundnet.survey import Collection, SurveyOptions
    from mmray.soundnet.windows import MODEL, UNTRAINED
    from mmray.sources import sounds

    if args.sounds and (args.data or args.metrics):
        raise UserError("--sounds: takes no --data and no --metrics, which are of a dataset")
    others = named_models(args.also, (MODEL, UNTRAINED))
    items = sounds(args.sounds) if args.sounds else []
    net = load_kind(args.model, "soundnet", args.device)
    mmray.init(local_mode=args.local, address=args.address)
    data = None if args.sounds else Dataset(args.data or toy_videos(seed=args.seed))
    options = SurveyOptions(
        layers=args.layers or (net.config.trunk[-1].name,),
        k=args.windows,
        sample=args.sample,
        others=(*others.items(), (UNTRAINED, UNTRAINED)),
        limit=args.limit,
    )
    options.check(net)

    measured = {}
    if data is not None:
        measured = measure(args, others, "soundnet", partial(agreement, args, data))
        if args.metrics:
            check_metrics(measured[MODEL])
    html, windows = soundnet_page(
        args.model,
        net,
        Collection(data, items, args.split),
        options,
        measured,
        units=args.items,
        seed=args.seed,
        report=cli.console.print,
    )
    table = storage.join(args.out, "soundnet-units.parquet")
    write_table(table, windows)
    cli.console.print(f"top windows of all units: {table}")
    return finish(args, "soundnet", html)


def agreement(args: SoundnetArgs, data: Dataset, net: Any) -> dict[str, float]:
    """How well a net agrees with the teachers; nothing where they have no classes in common."""
    from mmray.soundnet.evaluate import NotComparable, evaluate

    try:
        return evaluate(net, data, args.split, args.limit)
    except NotComparable as e:  # all but the table of agreement can be shown
        cli.console.print(f"not measured: {e}")
        return {}


def report_joint(args: JointArgs) -> str:
    """The subcommand `joint`."""
    from mmray.joint.arithmetic import read_analogies
    from mmray.joint.evaluate import check_models, evaluate, useless_of
    from mmray.models import load_kind
    from mmray.report.joint.measured import NAMES
    from mmray.report.joint.page import joint_page

    others = named_models(args.also, NAMES)
    data = pictures_of(args)
    questions, useless = read_analogies(args.analogies, data), useless_of(data)
    tagger = load_kind(args.model, "joint", args.device)
    loaded = {name: load_kind(where, "joint", args.device) for name, where in others.items()}
    check_models({"joint": tagger, **{f"also {n}": model for n, model in loaded.items()}}, data)
    models = {args.model: tagger, **{others[name]: model for name, model in loaded.items()}}
    measured = measure(
        args,
        others,
        "joint",
        lambda model: evaluate(
            model,
            data,
            args.split,
            limit=args.limit,
            seed=args.seed,
            analogies=questions,
            useless=useless,
            baselines=QUICK_BASELINES if model is models[args.model] else (),
            report=cli.console.print,
        ),
        models.__getitem__,
    )
    html = joint_page(
        args.model,
        tagger,
        data,
        args.split,
        measured,
        others=loaded,
        analogies=questions,
        useless=useless,
        items=args.items,
        limit=args.limit,
        seed=args.seed,
        report=cli.console.print,
    )
    return finish(args, "joint", html)


def report_captioner(args: CaptionerArgs) -> str:
    """The subcommand `captioner`."""
    from mmray.captioner.evaluate import evaluate
    from mmray.models import load_kind
    from mmray.report.captioner.page import NAMES, captioner_page

    others = named_models(args.also, NAMES)
    data = pictures_of(args)
    captioner = load_kind(args.model, "captioner", args.device)
    loaded = {name: load_kind(where, "captioner", args.device) for name, where in others.items()}
    measured = measure(
        args,
        {},
        "captioner",
        lambda model: evaluate(
            model, data, args.split, limit=args.limit, seed=args.seed, report=cli.console.print
        ),
    )
    html = captioner_page(
        args.model,
        captioner,
        data,
        args.split,
        measured["the model"],
        others=loaded,
        items=args.items,
        limit=args.limit,
        report=cli.console.print,
    )
    return finish(args, "captioner", html)


def report_storyteller(args: StorytellerArgs) -> str:
    """The subcommand `storyteller`."""
    from mmray.models import load_kind, resolve
    from mmray.pipeline.dataset import Dataset
    from mmray.report.storyteller.page import MODEL, storyteller_page
    from mmray.storyteller.evaluate import RECALL_AT, evaluate, passages_of_model

    pictures = min(MEASURED_STORIES, args.limit or MEASURED_STORIES)
    others = named_models(args.also, (MODEL,))
    if pictures <= RECALL_AT and (others or not args.metrics):
        raise UserError(f"--limit {pictures}: expected more than {RECALL_AT} to measure on")
    data = pictures_of(args)
    options = {"captioner": resolve(args.captioner)} if args.captioner else {}
    teller = load_kind(args.model, "storyteller", args.device, **options)
    teller.need_describer()

    def load(where: str) -> tuple[Any, Dataset]:
        if not (passages := passages_of_model(resolve(where))):
            raise UserError(
                f"{where}: does not say which passages it was trained on; measure it with "
                "`evaluate.py storyteller --passages ...` and give the result as --metrics"
            )
        found = teller if where == args.model else load_kind(where, "storyteller", args.device)
        return found, Dataset(passages, "passages")

    measured = measure(
        args,
        others,
        "storyteller",
        lambda loaded: (
            evaluate(
                loaded[0], data, loaded[1], args.split, pictures, cli.console.print, args.seed
            ).metrics
        ),
        load,
    )
    html = storyteller_page(
        args.model,
        teller,
        data,
        args.split,
        measured,
        items=args.items,
        seed=args.seed,
        report=cli.console.print,
    )
    return finish(args, "storyteller", html)


def named_models(also: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """The models of --also by name.

    Raises:
        UserError: one is not NAME=MODEL, or a name comes twice or is `taken`.
    """
    found: dict[str, str] = {}
    for text in also:
        name, _, where = text.partition("=")
        if not name or not where:
            raise UserError(f"--also {text}: expected NAME=MODEL")
        if name in taken or name in found:
            raise UserError(f"--also {name}=...: the page has that name already; take another")
        found[name] = where
    return found


def pictures_of(args: ReportArgs) -> Dataset:
    """The image dataset asked for; without one the toy world's, made when it is missing."""
    import mmray
    from mmray.pipeline.dataset import Dataset
    from mmray.pipeline.images import toy_images

    if args.data is not None:
        return Dataset(args.data, "images")
    mmray.init(local_mode=args.local, address=args.address)
    return Dataset(toy_images(seed=args.seed), "images")


def measure(
    args: ReportArgs,
    others: dict[str, str],
    kind: str,
    evaluate: Callable[[Any], dict[str, float]],
    load: Callable[[str], Any] | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of all models by name: of files where they were measured before.

    Args:
        args: of the job.
        others: models of --also by name.
        kind: of the models.
        evaluate: measures what `load` gives.
        load: the models by where they are; by default they are just loaded.
    """
    from mmray import storage
    from mmray.models import load_kind

    found = {}
    for name, where in {"the model": args.model, **others}.items():
        if name == "the model" and args.metrics:
            found[name] = storage.read_json(args.metrics)
        else:
            cli.console.print(f"measuring: {name}")
            loaded = load(where) if load else load_kind(where, kind, args.device)
            found[name] = evaluate(loaded)
    return found


def finish(args: ReportArgs, kind: str, html: str) -> str:
    """Write a page, log it, say where it is."""
    from mmray import storage
    from mmray.report.page import write
    from mmray.training.runs import log_file, run_of

    if run_of(args.model) is None:
        cli.console.print("no training run of the model is known: the page has no loss curves")
    path = storage.join(args.out, f"{kind}.html")
    write(html, path)
    run = log_file(args.model, html.encode(), f"{kind}.html", "report")
    cli.console.print(f"page: {path} ({len(html.encode()) / 1e6:.1f} MB), MLflow run {run.run_id}")
    return path


if __name__ == "__main__":
    cli.run(main)
