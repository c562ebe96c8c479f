"""The units of a SoundNet: what each detects, and the sounds that drive it the most."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.errors import MediaError
from mmray.report.page import Grid, Media
from mmray.report.sounds import mp3, spectrogram
from mmray.soundnet.detectors import Detectors
from mmray.soundnet.evaluate import TRUTH
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.survey import Cuts
from mmray.soundnet.windows import Survey

KINDS = (*TRUTH.values(), "class:")
"""How labels begin."""
SHORTEST_S = 1.0
"""A window of a low layer is some milliseconds; so much of the sound around it is played."""
LONGEST_S = 5.0
WINDOWS_SCHEMA = pa.schema(
    {
        "layer": pa.string(),
        "unit": pa.int32(),
        "rank": pa.int32(),
        "activation": pa.float32(),
        "id": pa.string(),
        "uri": pa.string(),
        "time_s": pa.float64(),
    }
)
_CARD_BYTES = 200_000
"""About what a unit's windows take, of which some are on the page already."""


def plain(label: str) -> str:
    """A label without its kind: `dog` of `object:dog`."""
    return label.partition(":")[2] or label


def unit_table(net: SoundNet, found: Detectors | None, survey: Survey, layer: str) -> Grid:
    """What every unit detects, the best detectors first."""
    labels = found.labels if found else []
    kinds = [kind for kind in KINDS if any(label.startswith(kind) for label in labels)]
    best = {kind: found.best(kind) for kind in kinds} if found else {}
    spoken = spoken_for(net, layer)
    columns = ["unit"]
    for kind in kinds:
        columns += [kind[:-1], f"AP of the {kind[:-1]}"]
    columns += [*(f"speaks for ({head})" for head in spoken), "strongest answer"]
    strongest = survey.top[layer].values[:, 0]
    rows = []
    for unit in range(len(strongest)):
        cells: list[Any] = [unit]
        for kind in kinds:
            label, value = best[kind][unit]
            cells += [plain(label), value]
        cells += [", ".join(names[unit][:2]) for names in spoken.values()]
        rows.append([*cells, float(strongest[unit])])
    order = np.argsort(-(_quality(found) if found else strongest), kind="stable")
    return Grid(f"All units of {layer}", columns, [rows[i] for i in order], search=True)


def windows_table(survey: Survey) -> pa.Table:
    """The top windows of all units as a table.

    Columns: `layer, unit, rank` (from 1), `activation`, `id, uri` of the sound, and `time_s`, the
    window's centre in seconds from the start of the file.
    """
    rows = []
    for layer, top in survey.top.items():
        ranks = [(unit, rank) for unit in range(len(top.values)) for rank in top.answered(unit)]
        for unit, rank in ranks:
            row = survey.rows[int(top.keys[unit, rank])]
            rows.append(
                {
                    "layer": layer,
                    "unit": unit,
                    "rank": rank + 1,
                    "activation": float(top.values[unit, rank]),
                    "id": row["id"],
                    "uri": row["uri"],
                    "time_s": (row["start_s"] or 0.0) + float(top.times_s[unit, rank]),
                }
            )
    return pa.Table.from_pylist(rows, schema=WINDOWS_SCHEMA)


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
        weights = net.model.state_dict()[f"heads.{head}.weight"].cpu().numpy().sum(axis=2)
        order = np.argsort(-(weights - weights.mean(axis=0)), axis=0)[:k].T
        found[head] = [[names[i] for i in row] for row in order]
    return found


def unit_cards(
    layer: str, found: Detectors | None, windows: Windows, most: int
) -> list[dict[str, Any]]:
    """At most so many units with their windows: of each label the best, while there is room."""
    top = windows.survey.top[layer]
    spoken = spoken_for(windows.net, layer)
    named = [found.best(kind) for kind in KINDS] if found else []
    cards = []
    heard = [unit for unit in _chosen(top.values, found) if top.answered(unit)]
    for unit in heard[:most]:
        if not windows.media.has_room(_CARD_BYTES):
            break
        detected = [(plain(each[unit][0]), each[unit][1]) for each in named if each[unit][0]]
        cards.append(
            {
                "unit": unit,
                "names": sorted(detected, key=lambda pair: -pair[1]),
                "speaks": {head: ", ".join(names[unit]) for head, names in spoken.items()},
                "windows": [windows.of(layer, unit, rank) for rank in top.answered(unit)],
            }
        )
    return cards


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


class Windows:
    """The windows on a page; what several units share is read and encoded once.

    Args:
        net: that was watched.
        survey: what was found.
        cuts: reads the sounds.
        media: of the page.
    """

    def __init__(self, net: SoundNet, survey: Survey, cuts: Cuts, media: Media) -> None:
        self.net, self.survey, self.cuts, self.media = net, survey, cuts, media
        self._made: dict[tuple[int, float, float], dict[str, Any]] = {}

    def of(self, layer: str, unit: int, rank: int) -> dict[str, Any]:
        """A unit's window of a rank: names of `picture`, `sound`, `spectrogram`, and `what`."""
        top = self.survey.top[layer]
        key, centre = int(top.keys[unit, rank]), float(top.times_s[unit, rank])
        field = self.net.config.geometry(layer).field / self.net.config.sample_rate
        place = (key, centre, field)
        if place not in self._made:
            self._made[place] = self._cut(*place)
        return self._made[place]

    def _cut(self, key: int, centre: float, field: float) -> dict[str, Any]:
        row = self.survey.rows[key]
        length = min(max(field, SHORTEST_S), LONGEST_S, row["duration_s"])
        start = min(max(0.0, centre - length / 2), row["duration_s"] - length)
        at = (row["start_s"] or 0.0) + start
        what = f"{row['uri'].rpartition('/')[2]}, {at:.1f} to {at + length:.1f} s"
        try:
            wave = self.cuts.sound(key, row, start, start + length)
        except (MediaError, OSError) as e:  # the file may be gone by now
            nothing = dict.fromkeys(("picture", "sound", "spectrogram"))
            return {"what": f"{what}: {getattr(e, 'reason', e)}", **nothing}
        rate = self.cuts.sample_rate
        return {
            "what": what,
            "picture": self.media.picture(self.cuts.frame(key, row, centre)),
            "sound": self.media.sound(mp3(wave, rate)),
            "spectrogram": self.media.picture(spectrogram(wave, rate)),
        }
