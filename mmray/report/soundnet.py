"""The page of a SoundNet: what its filters, its units and its heads have learned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.errors import MediaError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.report import charts, maps
from mmray.report.curves import loss_charts
from mmray.report.page import Chart, Grid, Media, metric_grid, render
from mmray.report.sounds import mp3, spectrogram
from mmray.soundnet.config import HEADS
from mmray.soundnet.detectors import GOOD, Detectors, detectors
from mmray.soundnet.evaluate import TRUTH
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.survey import Cuts, SurveyOptions, frame_labels, survey_clips, survey_sounds
from mmray.soundnet.windows import MODEL, Survey
from mmray.sources.items import SoundItem

SHORTEST_S = 1.0
"""A window of a low layer is some milliseconds; so much of the sound around it is played."""
LONGEST_S = 5.0
MAP_SOUND_S = 2.0
MAP_SOUNDS = 150
CONFUSION_CLASSES = 20
_WINDOW_BYTES = 45_000 * 9 // 2  # of a unit's windows: some are on the page already
METRICS = {
    "objects.top1": "objects: same first class as the teacher",
    "objects.top5": "objects: the teacher's first among five",
    "objects.kl": "objects: KL from the teacher (nats)",
    "scenes.top1": "scenes: same first class as the teacher",
    "scenes.top5": "scenes: the teacher's first among five",
    "scenes.kl": "scenes: KL from the teacher (nats)",
    "labels.objects": "objects: really there",
    "labels.teacher_objects": "objects: really there, by the teacher's eyes",
    "labels.mfcc_objects": "objects: really there, MFCC with labels",
    "labels.prior_objects": "objects: really there, commonest class",
    "labels.scenes": "scenes: really there",
    "labels.teacher_scenes": "scenes: really there, by the teacher's eyes",
    "labels.mfcc_scenes": "scenes: really there, MFCC with labels",
    "labels.prior_scenes": "scenes: really there, commonest class",
}


@dataclass(frozen=True)
class Collection:
    """What a net is watched on.

    Args:
        data: clips with what a teacher saw; None for files.
        items: files with sound, where there is no dataset.
        split: of the dataset, to measure on.
    """

    data: Dataset | None
    items: Sequence[SoundItem] = ()
    split: str = "test"

    def survey(self, where: str, net: SoundNet, options: SurveyOptions) -> Survey:
        """Watch a net; see `mmray.soundnet.survey`."""
        if self.data is not None:
            return survey_clips(where, net, self.data, options, self.split)
        return survey_sounds(where, net, self.items, options)

    def labels(self, survey: Survey) -> tuple[list[list[str]], str]:
        """Labels of the sampled frames, and who says so."""
        if self.data is not None:
            return frame_labels(self.data, self.split, len(survey.sample))
        known = {item.uri: item.label for item in self.items}
        named = [known.get(row["uri"]) for row in survey.sample]
        return [[f"class:{name}"] if name else [] for name in named], "the collection's classes"


def soundnet_page(
    where: str,
    net: SoundNet,
    collection: Collection,
    options: SurveyOptions,
    metrics: dict[str, dict[str, float]],
    *,
    units: int = 40,
    seed: int = 0,
) -> tuple[str, Survey, Detectors]:
    """The page of a SoundNet as HTML, with what it is made from.

    Args:
        where: of the net: anything that `mmray.load` takes.
        net: the same, loaded.
        collection: what it is watched on.
        options: which layers, how many windows.
        metrics: results of `mmray.soundnet.evaluate` by name of the model; may be empty.
        units: how many units of each layer to show with their sounds, where they fit.
        seed: of the maps.
    """
    media = Media()
    survey = collection.survey(where, net, options)
    labels, who = collection.labels(survey)
    found = {name: detectors(x, labels) for name, x in survey.frames.items()}
    layer = options.layers[-1]
    cuts = Cuts(collection.data, _rate(collection, net))
    shown = {
        name: _units(net, survey, found[MODEL] if name == layer else None, name, cuts, media, units)
        for name in options.layers
    }
    heard = f"{len(survey.rows):,} sounds are among the strongest of some unit"
    html = render(
        "soundnet.html",
        media,
        title=f"What {_name(where)} hears",
        kind="SoundNet",
        lead=f"A {net.config.arch} that learned sound from what a vision net saw. "
        f"Here are its filters, what each unit of {layer} listens for, and how it maps sounds.",
        layer=layer,
        labels_from=who,
        figures=_figures(net, found, layer, survey),
        curves=loss_charts(where),
        filters=filter_charts(net) if "conv1" in net.layers else [],
        detector_charts=_detector_charts(found, layer) if found[MODEL].labels else [],
        unit_tables=[_unit_table(net, found[MODEL], survey, layer)],
        units=shown,
        maps=_maps(collection, survey, labels, cuts, media, layer, seed),
        agreement=_agreement(metrics),
        confusion=_confusion(collection, net),
        facts={"model": where, "sounds": _where(collection), "watched": heard, **_errors(survey)},
    )
    return html, survey, found[MODEL]


def _rate(collection: Collection, net: SoundNet) -> int:
    if collection.data is None:
        return net.config.sample_rate
    return int(collection.data.read(["sample_rate"], limit=1)["sample_rate"][0].as_py())


def _name(where: str) -> str:
    parts = [part for part in where.replace("\\", "/").split("/") if part]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1]


def _where(collection: Collection) -> str:
    if collection.data is not None:
        return f"{collection.data.uri} (measured on the split {collection.split})"
    return f"{len(collection.items)} files"


def _errors(survey: Survey) -> dict[str, str]:
    return {"left out": f"{survey.errors} files that cannot be read"} if survey.errors else {}


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
    conv = net.model.trunk["conv1"].conv
    weights = conv.weight.detach().cpu().numpy()[:, 0]
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


def _detector_charts(found: dict[str, Detectors], layer: str) -> list[Chart]:
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
    best = Counter(label for label, value in mine.best() if value >= GOOD)
    counts = [{"label": _plain(label), "units": best[label]} for label in mine.labels]
    counts.sort(key=lambda row: -int(str(row["units"])))
    counts = counts[:30]
    most = ", ".join(f"{row['label']} {row['units']}" for row in counts[:5])
    charted.append(
        charts.bars(
            f"Units of {layer} that detect each label",
            f"With average precision {GOOD:g} or more. The most have {most}.",
            counts,
            "label",
            "units",
        )
    )
    return charted


def _plain(label: str) -> str:
    return label.partition(":")[2] or label


def _unit_table(net: SoundNet, found: Detectors, survey: Survey, layer: str) -> Grid:
    """What every unit detects; the first prefix is that of objects or of classes."""
    prefixes = [
        p for p in (*TRUTH.values(), "class:") if any(x.startswith(p) for x in found.labels)
    ]
    columns = ["unit", *(f"{p[:-1]}" for p in prefixes for p in (p, "AP "))]
    columns = ["unit"]
    for prefix in prefixes:
        columns += [prefix[:-1], f"AP of the {prefix[:-1]}"]
    spoken = spoken_for(net, layer)
    columns += [f"speaks for ({head})" for head in spoken] + ["strongest answer"]
    best = {prefix: found.best(prefix) for prefix in prefixes}
    top = survey.top[layer].values[:, 0]
    rows = []
    for unit in range(len(top)):
        cells: list[Any] = [unit]
        for prefix in prefixes:
            label, value = best[prefix][unit]
            cells += [_plain(label), value]
        cells += [", ".join(names[unit][:2]) for names in spoken.values()]
        rows.append([*cells, float(top[unit])])
    order = np.argsort(-_quality(found), kind="stable")
    return Grid(f"All units of {layer}", columns, [rows[i] for i in order], search=True)


def _quality(found: Detectors) -> np.ndarray:
    return found.precision.max(axis=1, initial=0.0)


def spoken_for(net: SoundNet, layer: str, k: int = 3) -> dict[str, list[list[str]]]:
    """For each head, the classes whose logits a unit of the last shared layer raises the most.

    By the head's weights, summed over time and less their mean over classes; nothing for other
    layers.
    """
    if layer != net.config.trunk[-1].name:
        return {}
    found = {}
    for head, names in net.classes.items():
        weights = net.model.heads[head].weight.detach().cpu().numpy().sum(axis=2)
        order = np.argsort(-(weights - weights.mean(axis=0)), axis=0)[:k].T
        found[head] = [[names[i] for i in row] for row in order]
    return found


def _units(
    net: SoundNet,
    survey: Survey,
    found: Detectors | None,
    layer: str,
    cuts: Cuts,
    media: Media,
    most: int,
) -> list[dict[str, Any]]:
    """The units that are shown with their windows: of each label the best, while there is room."""
    top = survey.top[layer]
    spoken = spoken_for(net, layer)
    shown = []
    for unit in _chosen(top.values, found)[:most]:
        if not media.has_room(_WINDOW_BYTES):
            break
        windows = [
            _window(net, survey, layer, unit, rank, cuts, media)
            for rank in range(top.values.shape[1])
            if np.isfinite(top.values[unit, rank])
        ]
        named = [
            f"{_plain(label)} (average precision {value:.2f})"
            for prefix in (*TRUTH.values(), "class:")
            for label, value in ([found.best(prefix)[unit]] if found else [])
            if label
        ]
        says = {head: ", ".join(names[unit]) for head, names in spoken.items()}
        shown.append({"unit": unit, "named": named, "speaks": says, "windows": windows})
    return shown


def _chosen(values: np.ndarray, found: Detectors | None) -> list[int]:
    """Units to show: the best detector of each label in turn; else those that answer loudest."""
    if found is None or not found.labels:
        return np.argsort(-values[:, 0], kind="stable").tolist()
    by_label: dict[str, list[int]] = defaultdict(list)
    best = found.best()
    for unit in np.argsort(-_quality(found), kind="stable").tolist():
        by_label[best[unit][0]].append(unit)
    queues = sorted(by_label.values(), key=lambda units: -best[units[0]][1])
    longest = max(map(len, queues))
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _window(
    net: SoundNet, survey: Survey, layer: str, unit: int, rank: int, cuts: Cuts, media: Media
) -> dict[str, Any]:
    """One window: what was seen, what was heard, where it is from."""
    top = survey.top[layer]
    key, centre = int(top.keys[unit, rank]), float(top.times_s[unit, rank])
    row = survey.rows[key]
    field = net.config.geometry(layer).field / net.config.sample_rate
    length = min(max(field, SHORTEST_S), LONGEST_S, row["duration_s"])
    start = min(max(0.0, centre - length / 2), row["duration_s"] - length)
    at = (row["start_s"] or 0.0) + start
    what = f"{row['uri'].rpartition('/')[2]}, {at:.1f} to {at + length:.1f} s"
    shown: dict[str, Any] = {"what": what, "value": float(top.values[unit, rank])}
    try:
        wave = cuts.sound(key, row, start, start + length)
    except MediaError as e:
        return shown | {"sound": None, "spectrogram": None, "picture": None, "what": f"{what}: {e}"}
    return shown | {
        "sound": media.sound(mp3(wave, cuts.sample_rate)),
        "spectrogram": media.picture(spectrogram(wave, cuts.sample_rate)),
        "picture": media.picture(cuts.frame(key, row, centre)),
    }


def _maps(
    collection: Collection,
    survey: Survey,
    labels: Sequence[Sequence[str]],
    cuts: Cuts,
    media: Media,
    layer: str,
    seed: int,
) -> list[Chart]:
    """The sampled sounds as the net lays them out, and as the teachers' posteriors do."""
    vectors = survey.means.astype(np.float32)
    if len(vectors) < 3:
        return []
    per_row = max(1, len(labels) // len(vectors))
    named = [_of_row(labels[i * per_row : (i + 1) * per_row]) for i in range(len(vectors))]
    listed = [name for name, _ in Counter(named).most_common(9)]
    named = [name if name in listed else "other" for name in named]
    rows = [
        {"label": name, "sound of": row["uri"].rpartition("/")[2]}
        for name, row in zip(named, survey.sample, strict=True)
    ]
    _illustrate(rows, collection, survey, cuts, media)
    views = {f"Sounds as {layer} hears them": vectors}
    if collection.data is not None and (seen := _posteriors(collection, len(vectors))) is not None:
        views["The same as the vision teachers see them"] = seen
    text = f"t-SNE of {len(vectors)} sounds, coloured by label. Click a point to hear it."
    if len(views) == 2:
        shared = maps.agreement(*views.values())
        text += f" Of ten nearest neighbours {shared:.0%} are the same on both sides."
    found = []
    for title, x in views.items():
        places = maps.plane(x, seed)
        placed = [
            {"x": float(a), "y": float(b), **row} for (a, b), row in zip(places, rows, strict=True)
        ]
        found.append(charts.atlas(title, text, placed, "label", size=18))
    return found


def _of_row(frames: Sequence[Sequence[str]]) -> str:
    """A row's commonest label, of objects before places."""
    counts = Counter(label for each in frames for label in each)
    if not counts:
        return "none"
    objects = [x for x in counts if x.startswith((TRUTH["objects"], "class:"))] or list(counts)
    return _plain(max(objects, key=lambda label: (counts[label], label)))


def _illustrate(
    rows: list[dict[str, Any]], collection: Collection, survey: Survey, cuts: Cuts, media: Media
) -> None:
    """Give the first rows a thumbnail and a sound, while there is room."""
    data = collection.data
    columns = ["thumbnail", "audio"] if data is not None else []
    streamed = (
        row
        for table in (data.batches(columns, 32, collection.split, len(rows)) if data else ())
        for row in table.to_pylist()
    )
    for row, sampled in zip(rows[:MAP_SOUNDS], survey.sample, strict=False):
        try:
            if data is not None:
                stored = next(streamed)
                row["picture"] = media.picture(stored["thumbnail"])
                wave = cuts.whole(stored["audio"])
            else:
                wave = cuts.sound(0, sampled, 0.0, min(MAP_SOUND_S, sampled["duration_s"]))
        except MediaError:
            continue
        row["sound"] = media.sound(
            mp3(loudest(wave, cuts.sample_rate, MAP_SOUND_S), cuts.sample_rate)
        )


def loudest(wave: np.ndarray, sample_rate: int, seconds: float) -> np.ndarray:
    """The loudest stretch of a sound, of about so many seconds."""
    length = round(seconds * sample_rate)
    if len(wave) <= length:
        return wave
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    start = int((power[length:] - power[:-length]).argmax())
    return wave[start : start + length]


def _posteriors(collection: Collection, rows: int) -> np.ndarray | None:
    """Square roots of the teachers' mean posteriors, whose angles are Hellinger distances."""
    assert collection.data is not None
    heads = [h for h in collection.data.classes if h in HEADS]
    if not heads:
        return None
    parts = [
        np.concatenate([tensor(table[h]).astype(np.float32).mean(axis=1) for h in heads], axis=1)
        for table in collection.data.batches(heads, 256, collection.split, rows)
    ]
    return np.sqrt(np.concatenate(parts))


def _agreement(metrics: dict[str, dict[str, float]]) -> list[Grid]:
    if not metrics:
        return []
    return [metric_grid("Agreement with the teachers, and with the truth", metrics, METRICS)]


def _confusion(collection: Collection, net: SoundNet) -> list[Chart]:
    """For each head, what the student says where the teacher says something."""
    if collection.data is None:
        return []
    from mmray.soundnet.evaluate import confusion

    found = []
    for head, (names, counts) in confusion(net, collection.data, collection.split).items():
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
        found.append(charts.heat(f"Confusion of {head}", text, rows, "student", "teacher", "share"))
    return found
