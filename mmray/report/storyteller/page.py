"""The page of a storyteller: its stories beside their pictures, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmray.pipeline.dataset import Dataset
from mmray.report.curves import loss_charts
from mmray.report.page import Media, page_name, render
from mmray.report.storyteller.measured import (
    MODEL,
    Metrics,
    by_strength,
    check_metrics,
    curve,
    styles_of,
    tables,
)
from mmray.report.storyteller.told import Told, story_cards, tell, word_charts
from mmray.storyteller.describers import Writing
from mmray.storyteller.predict import Storyteller


def storyteller_page(
    where: str,
    teller: Storyteller,
    dataset: Dataset,
    split: str,
    measured: Mapping[str, Metrics],
    *,
    items: int = 2,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """The page of a storyteller as HTML.

    Args:
        where: of the storyteller: anything that `mmray.load` takes.
        teller: the same, loaded; must be able to look at pictures.
        dataset: of captioned pictures.
        split: which of them.
        measured: what `mmray.storyteller.evaluate` gives, by name of the model; the first is
            `MODEL`, others stand beside it.
        items: how many pictures to tell stories about.
        seed: of the stories.
        report: called with a line of progress.

    Raises:
        UserError: the metrics are none of stories, the teller cannot look at these pictures, or
            none has a caption.
    """
    for metrics in measured.values():
        check_metrics(metrics)
    media = Media()
    told = tell(teller, dataset, split, items, seed=seed, report=report)
    return render(
        "storyteller.html",
        media,
        title=f"What {page_name(where)} tells",
        kind="Storyteller",
        lead="A model that tells stories about pictures in the style of books, as strongly as is "
        "wished. Here is how style and content go together, and what it tells.",
        figures=_figures(measured[MODEL]),
        curve_charts=[curve(measured), *by_strength(measured)],
        stories=story_cards(told, media),
        word_charts=word_charts(told),
        tables=tables(measured),
        curves=loss_charts(where),
        facts=_facts(where, teller, dataset, split, measured[MODEL], told),
    )


def _figures(metrics: Metrics) -> list[tuple[str, str]]:
    wanted = {
        "style.1": "of the stories at strength 1 are taken for the style",
        "retrieval.r10": "of those at 0.5 have their picture among the ten that they are most like",
        "copied8": "of runs of eight words are copied from the book",
    }
    found = [(f"{metrics[name]:.0%}", text) for name, text in wanted.items() if name in metrics]
    return [(f"{len(styles_of(metrics))}", "styles that were measured"), *found]


def _facts(
    where: str,
    teller: Storyteller,
    dataset: Dataset,
    split: str,
    metrics: Metrics,
    told: Told,
) -> dict[str, str]:
    config, describer = teller.net.config, teller.need_describer()
    styles = (
        f"{name} ({teller.stored.styles[name].passages:,} passages)" for name in teller.styles
    )
    facts = {
        "model": where,
        "net": f"{config.layers} layers of {config.dim} numbers, {config.num_pieces:,} pieces",
        "styles": ", ".join(styles),
        "looks with": "a captioner"
        if isinstance(describer, Writing)
        else "a joint model, by what people wrote of similar pictures",
        "stories": f"about the first {len(told.ids)} pictures with captions of the split {split} "
        f"of {dataset.uri}",
    }
    if "pictures" in metrics:
        facts["measured on"] = f"{metrics['pictures']:,.0f} pictures"
    if "judge.accuracy" in metrics:
        facts["judge of style"] = f"right on {metrics['judge.accuracy']:.1%} of held-out passages"
    return facts
