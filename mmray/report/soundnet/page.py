"""The page of a SoundNet: what its filters, its units and its heads have learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from mmray.errors import UserError
from mmray.report import charts
from mmray.report.curves import loss_charts
from mmray.report.page import Chart, Grid, Media, metric_grid, page_name, render
from mmray.report.soundnet.soundmap import sound_maps
from mmray.report.soundnet.units import Windows, plain, unit_cards, unit_table, windows_table
from mmray.soundnet.detectors import GOOD, Detectors, detectors
from mmray.soundnet.evaluate import confusion
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.survey import Collection, Cuts, SurveyOptions
from mmray.soundnet.windows import MODEL, Survey

CONFUSION_CLASSES = 20
SAME = 0.002
"""Agreements that differ by more are not of the same sounds; rounding differs by less."""
METRICS = {
    "objects.top1": "objects: same first class as the teacher",
    "objects.top1_prior": "objects: the prior's first class is the teacher's",
    "objects.top5": "objects: the teacher's first among five",
    "objects.kl": "objects: KL from the teacher (nats)",
    "objects.kl_prior": "objects: KL of the prior (nats)",
    "scenes.top1": "scenes: same first class as the teacher",
    "scenes.top1_prior": "scenes: the prior's first class is the teacher's",
    "scenes.top5": "scenes: the teacher's first among five",
    "scenes.kl": "scenes: KL from the teacher (nats)",
    "scenes.kl_prior": "scenes: KL of the prior (nats)",
    "labels.objects": "objects: really there",
    "labels.teacher_objects": "objects: really there, by the teacher's eyes",
    "labels.mfcc_objects": "objects: really there, MFCC with labels",
    "labels.prior_objects": "objects: really there, commonest class",
    "labels.scenes": "scenes: really there",
    "labels.teacher_scenes": "scenes: really there, by the teacher's eyes",
    "labels.mfcc_scenes": "scenes: really there, MFCC with labels",
    "labels.prior_scenes": "scenes: really there, commonest class",
}


def soundnet_page(
    where: str,
    net: SoundNet,
    collection: Collection,
    options: SurveyOptions,
    metrics: dict[str, dict[str, float]],
    *,
    units: int = 40,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[str, pa.Table]:
    """The page of a SoundNet.

    Args:
        where: of the net: anything that `mmray.load` takes.
        net: the same, loaded.
        collection: what it is watched on.
        options: which layers, how many windows.
        metrics: results of `mmray.soundnet.evaluate` by name of the model; may be empty.
        units: how many units of each layer to show with their sounds, where they fit.
        seed: of the maps.
        report: called with a line of progress.

    Returns:
        The page as HTML, and the top windows of all units; see `windows_table`.
    """
    media = Media()
    report("watching all sounds")
    survey = collection.survey(where, net, options)
    for reason in survey.reasons:
        report(f"left out: {reason}")
    labels, who = collection.labels(survey)
    found = {
        layer: {name: detectors(x, labels) for name, x in nets.items()}
        for layer, nets in survey.frames.items()
    }
    layer = options.layers[-1]
    cuts = Cuts(collection.data, collection.sample_rate or net.config.sample_rate)
    windows = Windows(net, survey, cuts, media)
    # Before the windows of units, which take what room is left on the page.
    report("drawing maps")
    mapped = sound_maps(collection, survey, labels, cuts, media, layer, seed)
    report("cutting out what units hear")
    confused = confusion_charts(collection, net, options.limit)
    html = render(
        "soundnet.html",
        media,
        title=f"What {page_name(where)} hears",
        kind="SoundNet",
        lead="A net that learned sound from what vision nets saw in videos. Here is what each "
        f"unit of {layer} listens for, and how the net maps sounds.",
        layer=layer,
        labels_from=who,
        figures=_figures(net, found.get(layer, {}), layer, survey),
        curves=loss_charts(where),
        detector_charts=[c for name in options.layers for c in _detector_charts(found, name)],
        units={
            name: unit_cards(name, found.get(name, {}).get(MODEL), windows, units)
            for name in options.layers
        },
        unit_tables=[
            unit_table(net, found.get(name, {}).get(MODEL), survey, name) for name in options.layers
        ],
        maps=mapped,
        agreement=_agreement(metrics),
        confusion=[chart for _, chart in confused.values()],
        note=_elsewhere(metrics.get(MODEL, {}), confused),
        filters=filter_charts(net),
        facts=_facts(where, net, collection, survey),
    )
    return html, windows_table(survey)


def _facts(where: str, net: SoundNet, collection: Collection, survey: Survey) -> dict[str, str]:
    heads = ", ".join(f"{len(names):,} {head}" for head, names in net.classes.items())
    facts = {"model": where, "net": f"{net.config.arch}, {heads or 'no heads'}"}
    facts["sounds"] = collection.described()
    keys = (
        int(top.keys[unit, rank])
        for top in survey.top.values()
        for unit in range(len(top.values))
        for rank in top.answered(unit)
    )
    facts["windows"] = f"{len(set(keys)):,} sounds are among the strongest of some unit"
    if survey.errors:
        facts["left out"] = f"{survey.errors:,} that cannot be read"
    return facts


def _figures(
    net: SoundNet, found: dict[str, Detectors], layer: str, survey: Survey
) -> list[tuple[str, str]]:
    figures = [(f"{net.channels(layer):,}", f"units in {layer}")]
    for name, each in found.items():
        if each.labels:
            what = "" if name == MODEL else f" ({name})"
            text = f"of them detect one thing with average precision {GOOD:g} or more{what}"
            figures.append((f"{each.share():.0%}", text))
    figures.append((f"{len(survey.sample):,}", "sounds that precision is measured on"))
    return figures


def filter_charts(net: SoundNet) -> list[Chart]:
    """The first layer's filters as waveforms, and their spectra."""
    weights = net.model.state_dict()["trunk.conv1.conv.weight"][:, 0].cpu().numpy()
    rate = net.config.sample_rate
    spectra = np.abs(np.fft.rfft(weights, 256, axis=1))
    spectra /= np.maximum(spectra.max(axis=1, keepdims=True), 1e-12)
    hertz = np.fft.rfftfreq(256, 1 / rate)
    order = np.argsort((spectra * hertz).sum(1) / spectra.sum(1), kind="stable")
    peaks = hertz[spectra.argmax(axis=1)]
    waves = [
        {"filter": f"{i}", "ms": float(t / rate * 1000), "weight": float(w)}
        for i in order
        for t, w in enumerate(weights[i])
    ]
    bands = [
        {"filter": f"{i}", "kHz": float(f / 1000), "dB": float(max(-60, 20 * np.log10(a + 1e-9)))}
        for i in order
        for f, a in zip(hertz, spectra[i], strict=True)
    ]
    low, high = peaks.min() / 1000, peaks.max() / 1000
    text = f"{len(weights)} filters of {weights.shape[1]} samples, sorted by their mean frequency"
    return [
        charts.small("Filters of conv1 as waveforms", f"{text}.", waves, "filter", "ms", "weight"),
        charts.small(
            "Spectra of the same filters",
            f"{text}; the strongest frequencies lie between {low:.2f} and {high:.2f} kHz.",
            bands,
            "filter",
            "kHz",
            "dB",
        ),
    ]


def _detector_charts(layers: dict[str, dict[str, Detectors]], layer: str) -> list[Chart]:
    found = layers.get(layer, {})
    if MODEL not in found or not found[MODEL].labels:
        return []
    rows = [
        {"average precision": float(value), "net": name}
        for name, each in found.items()
        for value in each.precision.max(axis=1)
    ]
    told = "; ".join(f"{name}: {each.share():.0%} reach {GOOD:g}" for name, each in found.items())
    charted = [
        charts.histogram(
            f"How precisely each unit of {layer} detects its best label",
            f"Distribution over units. {told}.",
            rows,
            "average precision",
            "net",
            step=0.05,
        )
    ]
    mine = found[MODEL]
    counts = Counter(label for label, value in mine.best() if value >= GOOD)
    order = np.argsort(-mine.precision.max(axis=0), kind="stable")[:30].tolist()
    best = [
        {
            "label": plain(mine.labels[i]),
            "average precision": float(values[i]),
            "of": name,
            "units": counts[mine.labels[i]],
        }
        for i in order
        for name, values in (
            *((name, each.precision.max(axis=0)) for name, each in found.items()),
            ("chance", mine.base),
        )
    ]
    told = ", ".join(
        f"{plain(mine.labels[i])} {mine.precision[:, i].max():.2f} ({counts[mine.labels[i]]} units)"
        for i in order[:10]
    )
    charted.append(
        charts.bars(
            "The best unit for each label",
            f"Average precision of the unit of {layer} that detects it best, and how many units "
            f"have it as their label with {GOOD:g} or more: {told}.",
            best,
            "label",
            "average precision",
            "of",
        )
    )
    return charted


def check_metrics(metrics: dict[str, float]) -> None:
    """Refuse what `evaluate.py soundnet` did not write.

    Raises:
        UserError: none of the metrics is of a SoundNet.
    """
    if not isinstance(metrics, dict) or not metrics.keys() & METRICS.keys():
        raise UserError("--metrics: holds no metrics that `evaluate.py soundnet` writes")


def _agreement(metrics: dict[str, dict[str, float]]) -> list[Grid]:
    metrics = {name: values for name, values in metrics.items() if values}
    if not metrics:
        return []
    return [metric_grid("Agreement with the teachers, and with the truth", metrics, METRICS)]


def _elsewhere(metrics: dict[str, float], confused: dict[str, tuple[float, Chart]]) -> str:
    """A warning when metrics are not of this model and these sounds; else nothing."""
    told = [
        f"{head} {metrics[f'{head}.top1']:.3f} in the table, {right:.3f} here"
        for head, (right, _) in confused.items()
        if abs(metrics.get(f"{head}.top1", right) - right) > SAME
    ]
    if not told:
        return ""
    return f"The metrics seem to be of another model or of other sounds: {', '.join(told)}."


def confusion_charts(
    collection: Collection, net: SoundNet, limit: int | None
) -> dict[str, tuple[float, Chart]]:
    """For each head, what the student says where the teacher says something.

    Returns:
        By head the share of frames in which both say the same, and the chart.
    """
    if collection.data is None:
        return {}
    found = {}
    for head, (names, counts) in confusion(net, collection.data, collection.split, limit).items():
        often = np.argsort(-counts.sum(axis=1), kind="stable")[:CONFUSION_CLASSES]
        part = counts[np.ix_(often, often)]
        share = part / np.maximum(counts.sum(axis=1)[often, None], 1)
        rows = [
            {"student": names[j], "teacher": names[i], "share": float(share[a, b])}
            for a, i in enumerate(often)
            for b, j in enumerate(often)
        ]
        right = float(np.trace(counts) / max(1, counts.sum()))
        worst = min(range(len(often)), key=lambda a: share[a, a])
        text = (
            f"Rows are what the teacher sees, columns what the student hears; the diagonal is "
            f"agreement, {right:.0%} of all frames. The least is on {names[often[worst]]}: "
            f"{share[worst, worst]:.0%}."
        )
        chart = charts.heat(f"Confusion of {head}", text, rows, "student", "teacher", "share")
        found[head] = right, chart
    return found
