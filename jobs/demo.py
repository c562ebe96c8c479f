"""The main job on the embedded toy world, end to end; what `make demo` runs.

    python -m jobs.demo

Two small vision nets are trained on labelled toy pictures. From there on no label is used: the
nets look at the frames of unlabeled toy videos, and SoundNet, which only hears them, learns to
say the same. Then the joint model learns from toy pictures, a quarter of them without tags, the
captioner from the sentences that belong to them, and the storyteller from those and two toy books.
A page shows what each of them has learned. Everything lands in runs/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rich.table import Table

from jobs import (
    distill_soundnet,
    evaluate,
    predict,
    prepare_images,
    prepare_videos,
    report,
    train_captioner,
    train_joint,
    train_storyteller,
    train_teacher,
)
from mmray import cli, storage
from mmray.cli import console

Result = TypeVar("Result")


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    """Flags of the demo."""

    out: str = "runs"
    """Folder in which the jobs' folders are made."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the jobs one after another; return the metrics of all models."""
    args = cli.parse(Args, argv, __doc__)
    common = [f"--seed={args.seed}"]
    common += ["--local"] if args.local else []
    common += ["--overwrite"] if args.overwrite else []
    common += [f"--address={args.address}"] if args.address else []
    out = storage.absolute(args.out)
    steps = _Steps()
    metrics = _soundnet(steps, out, common)
    metrics |= _joint(steps, out, common)
    metrics |= _captioner(steps, out, common)
    metrics |= _storyteller(steps, out, common)
    steps.print_summary()
    console.print(
        "\nTo look further:\n"
        "  make serve                                                a page to try the models on\n"
        f"  {out}/report/*.html    what each has learned, in pictures\n"
        f"  .venv/bin/mlflow ui --backend-store-uri sqlite:///{out}/mlflow.db    the runs"
    )
    return metrics


def _soundnet(steps: _Steps, out: str, common: list[str]) -> dict[str, Any]:
    teachers = {what: f"{out}/train_teacher/{what}" for what in ("objects", "scenes")}
    for what, folder in teachers.items():
        steps.run(
            f"a vision net learns {what} from labelled pictures",
            partial(train_teacher.main, ["--what", what, "--out", folder, *common]),
        )
    clips, student = f"{out}/prepare_videos", f"{out}/distill_soundnet"
    nets = [f"--{what}=mmray:{folder}" for what, folder in teachers.items()]
    steps.run(
        "the nets look at unlabeled videos",
        lambda: prepare_videos.main(["toy", *nets, "--out", clips, *common]),
    )
    steps.run(
        "SoundNet hears the videos and learns to say the same",
        # On a CPU, many short crops teach more in the same time than fewer long ones.
        lambda: distill_soundnet.main(
            ["--data", clips, "--out", student, "--steps", "500", "--crop-s", "3", *common]
        ),
    )
    measured = f"{out}/evaluate/soundnet.json"
    metrics = steps.run(
        "what it has learned, on videos it never heard",
        lambda: evaluate.main(
            [
                "soundnet",
                "--model",
                f"{student}/model",
                "--data",
                clips,
                "--json",
                measured,
                *common,
            ]
        ),
    )
    _report(steps, "soundnet", out, f"{student}/model", clips, common, "--items", "6")
    steps.run(
        "its answers for new sounds",
        lambda: predict.main(
            [
                *("sounds", "--model", f"{student}/model", "--input", "toy", "--limit", "20"),
                *("--out", f"{out}/predict_sounds", *common),
            ]
        ),
    )
    return metrics


def _joint(steps: _Steps, out: str, common: list[str]) -> dict[str, Any]:
    pictures, model = f"{out}/prepare_images", f"{out}/train_joint/model"
    objects = f"mmray:{out}/train_teacher/objects"
    steps.run(
        "frozen nets describe pictures, with tags and without",
        lambda: prepare_images.main(
            ["toy", "--objects", objects, "--grid", "--out", pictures, *common],
        ),
    )
    steps.run(
        "pictures and tags are learned, each alone, then together",
        lambda: train_joint.main(
            [
                *("--data", pictures, "--out", f"{out}/train_joint", "--steps", "250"),
                *("--pretrain-epochs", "5", *common),
            ]
        ),
    )
    metrics = steps.run(
        "what it has learned, on pictures it never saw",
        lambda: evaluate.main(
            [
                *("joint", "--model", model, "--data", pictures, "--out", f"{out}/evaluate"),
                *("--baselines", "prior", "kNN", "linear"),
                *("--measure", "tags", "retrieval", "arithmetic", "analogies", "useless", *common),
            ]
        ),
    )
    _report(steps, "joint", out, model, pictures, common, "--items", "12")
    steps.run(
        "its tags for all pictures, and an index to search in",
        lambda: predict.main(
            [
                *("tags", "--model", model, "--input", pictures, "--index"),
                *("--out", f"{out}/predict_tags", *common),
            ]
        ),
    )
    return metrics


def _captioner(steps: _Steps, out: str, common: list[str]) -> dict[str, Any]:
    pictures, captioner = f"{out}/prepare_images", f"{out}/train_captioner"
    steps.run(
        "sentences are learned, word by word",
        lambda: train_captioner.main(
            [
                # On few pictures, many small steps of a small net teach more in the same time.
                *("--data", pictures, "--out", captioner, "--steps", "430", "--warmup", "50"),
                *("--batch-size", "16", "--captions", "1", "--lr", "2e-3", "--dropout", "0.1"),
                *("--dim", "128", "--layers", "2", "--eval-every", "0", *common),
            ]
        ),
    )
    metrics = steps.run(
        "what it writes, beside what people wrote",
        lambda: evaluate.main(
            [
                *("captioner", "--model", f"{captioner}/model", "--data", pictures),
                *("--limit", "100", "--out", f"{out}/evaluate", *common),
            ]
        ),
    )
    flags = "--items", "12", "--limit", "100"
    _report(steps, "captioner", out, f"{captioner}/model", pictures, common, *flags)
    return {f"captions.{name}": value for name, value in metrics.items()}


def _storyteller(steps: _Steps, out: str, common: list[str]) -> dict[str, Any]:
    pictures, storyteller = f"{out}/prepare_images", f"{out}/train_storyteller"
    steps.run(
        "sentences become stories, in the words of two books",
        lambda: train_storyteller.main(
            [
                *("--captions", pictures, "--captioner", f"{out}/train_captioner/model"),
                *("--out", storyteller, "--steps", "290", "--dim", "96", "--layers", "2"),
                *("--batch-size", "16", "--max-length", "48", "--eval-every", "0", *common),
            ]
        ),
    )
    metrics = steps.run(
        "its stories, between description and book",
        lambda: evaluate.main(
            [
                *("storyteller", "--model", f"{storyteller}/model", "--data", pictures),
                *("--pictures", "20", "--out", f"{out}/evaluate", *common),
            ]
        ),
    )
    _report(steps, "storyteller", out, f"{storyteller}/model", pictures, common, "--items", "2")
    return {f"stories.{name}": value for name, value in metrics.items()}


def _report(
    steps: _Steps, kind: str, out: str, model: str, data: str, common: list[str], *flags: str
) -> None:
    """The page of a model that has just been measured."""
    steps.run(
        "a page that shows what it has learned",
        lambda: report.main(
            [
                *(kind, "--model", model, "--data", data, "--out", f"{out}/report"),
                *("--metrics", f"{out}/evaluate/{kind}.json", *flags, *common),
            ]
        ),
    )


class _Steps:
    """Runs steps, says what each is, and remembers how long it took."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds: dict[str, float] = {}

    def run(self, title: str, step: Callable[[], Result]) -> Result:
        self.count += 1
        console.rule(f"{self.count}. {title}", align="left")
        start = time.monotonic()
        result = step()
        self.seconds[title] = self.seconds.get(title, 0.0) + time.monotonic() - start
        return result

    def print_summary(self) -> None:
        table = Table("step", "seconds", title="the demo", title_justify="left")
        for title, seconds in self.seconds.items():
            table.add_row(title, f"{seconds:.0f}")
        table.add_row("total", f"{sum(self.seconds.values()):.0f}")
        console.print(table)


if __name__ == "__main__":
    cli.run(main)
