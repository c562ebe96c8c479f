"""Pictures and what a joint model makes of them: tags, nearest pictures, arithmetic, a map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from mmray.joint.arithmetic import Labels, Query, label_kind, label_word, queries
from mmray.joint.predict import Tagger
from mmray.report import charts, maps
from mmray.report.joint.gallery import Gallery
from mmray.report.page import Chart, Media

TAGS = 6
"""Tags that each model names for a picture."""
QUERIES = 10
"""Pictures whose nearest are shown, and swaps."""
MAPPED = 400
"""Pictures on the map."""
FREQUENT = 100
"""Tags of which one is added where no labels say which swaps make sense."""
WRITTEN = 12
"""Tags of people that are shown of a picture."""


def tag_cards(
    gallery: Gallery, models: Mapping[str, Tagger], items: int, media: Media
) -> dict[str, list[dict[str, Any]]]:
    """The first pictures with tags and without, each with what people and models say.

    Args:
        gallery: the pictures.
        models: by name.
        items: how many pictures.
        media: of the page.

    Returns:
        By group, cards for `joint.html`.
    """
    found = {}
    for group, rows in gallery.shown(items).items():
        if not rows:
            continue
        features = gallery.pictures.features[rows]
        said = {name: model.tags_of_features(features, TAGS) for name, model in models.items()}
        found[group] = [
            {
                **gallery.card(row, media),
                "written": _written(gallery, row),
                "more": max(0, len(gallery.written[row]) - WRITTEN),
                "models": {
                    name: [(tag, p, tag in gallery.written[row]) for tag, p in tags[i]]
                    for name, tags in said.items()
                },
                "labels": [label_word(label) for label in gallery.pictures.labels[row]],
            }
            for i, row in enumerate(rows)
        ]
    return found


def _written(gallery: Gallery, row: int) -> list[tuple[str, bool]]:
    """What people wrote, each with whether the model knows the tag."""
    known = gallery.tagger.vocabulary.numbers
    return [(tag, tag in known) for tag in gallery.written[row][:WRITTEN]]


def nearest_cards(gallery: Gallery, media: Media) -> list[dict[str, Any]]:
    """The first pictures of the split, each with those nearest to it."""
    return [
        {
            "query": gallery.card(row, media),
            "found": [gallery.card(i, media) for i in gallery.near[row].tolist()],
        }
        for row in range(min(QUERIES, gallery.num_asked))
    ]


def alike_chart(gallery: Gallery) -> Chart | None:
    """How often the nearest pictures share a label of each kind, or a tag, beside chance."""
    pictures, rows = gallery.pictures, []
    kinds = dict.fromkeys(label_kind(label) for found in pictures.labels for label in found)
    for kind in kinds:
        mine = [[x for x in found if label_kind(x) == kind] for found in pictures.labels]
        names = {name: j for j, name in enumerate(sorted({x for found in mine for x in found}))}
        has = np.zeros((len(pictures), len(names)), bool)
        for i, found in enumerate(mine):
            has[i, [names[x] for x in found]] = True
        rows += _alike(gallery, has, kind or "label")
    rows += _alike(gallery, pictures.tags & gallery.told, "a tag that pictures tell")
    if not rows:
        return None
    of = list(dict.fromkeys(row["of"] for row in rows))
    values = {(row["what"], row["of"]): row["share that has the same"] for row in rows}
    told = "; ".join(
        f"{name} {values[name, of[0]]:.0%} against {values[name, of[1]]:.0%}"
        for name in dict.fromkeys(row["what"] for row in rows)
    )
    return charts.bars(
        f"How alike the {gallery.near.shape[1]} nearest pictures are",
        f"Share of the pictures nearest to each of {gallery.num_asked:,} that have the same as it, "
        f"against the share of all: {told}.",
        rows,
        "what",
        "share that has the same",
        "of",
    )


def _alike(gallery: Gallery, has: np.ndarray, name: str) -> list[dict[str, Any]]:
    """How often two pictures have one thing in common, bool [N, L], if both have any."""
    known = np.flatnonzero(has[: gallery.num_asked].any(axis=1))
    others = np.asarray(has.any(axis=1))
    near = gallery.near[known]
    share = (has[known, None] & has[near]).any(axis=2)[others[near]]
    pairs: np.ndarray = has[known].astype(np.float32) @ has.T.astype(np.float32)
    pairs[np.arange(len(known)), known] = 0
    num_pairs = len(known) * int(others.sum()) - len(known)
    if not share.size or not num_pairs:
        return []
    values = {"nearest pictures": share.mean(), "any pictures": (pairs > 0).sum() / num_pairs}
    return [
        {"what": name, "share that has the same": float(value), "of": of}
        for of, value in values.items()
    ]


@dataclass(frozen=True)
class Swap:
    """Picture - tag + tag.

    Args:
        row: of the picture.
        minus: the tag to take away.
        plus: the tag to add.
        right: which pictures are right answers, bool [N].
    """

    row: int
    minus: str
    plus: str
    right: np.ndarray


def swaps(gallery: Gallery, seed: int = 0) -> tuple[list[Swap], bool]:
    """Swaps drawn by lot, each of another picture, and whether labels say what is right.

    By labels of the form `kind:value`, where there are any, as `mmray.joint.arithmetic` asks
    them, of all kinds alike; a right picture is what it says there. Else a tag of the picture is
    taken away and a frequent one is added; a right picture has the one and lacks the other. Only
    tags that pictures tell take part, and each swap has a right picture somewhere.
    """
    rng = np.random.default_rng(seed)
    labels = Labels(gallery.pictures.labels)
    asking = list(queries(gallery.tagger, gallery.asked, labels))
    if not asking:
        found = _tag_swaps(gallery, rng)
        return [swap for swap, _ in zip(found, range(QUERIES), strict=False)], False
    by_kind: dict[str, list[Query]] = {}
    for i in rng.permutation(len(asking)):
        by_kind.setdefault(label_kind(asking[i].old), []).append(asking[i])
    chosen: dict[int, Query] = {}
    for query in (each for turn in zip_longest(*by_kind.values()) for each in turn if each):
        if len(chosen) < QUERIES:
            chosen.setdefault(query.row, query)
    return [Swap(q.row, q.minus, q.plus, labels.right(q)) for q in chosen.values()], True


def _tag_swaps(gallery: Gallery, rng: np.random.Generator) -> Iterator[Swap]:
    tags, has = gallery.tagger.vocabulary.tags, gallery.pictures.tags
    frequent = np.flatnonzero(gallery.told)[:FREQUENT]
    for row in rng.permutation(gallery.num_asked).tolist():
        own = frequent[has[row, frequent]]
        others = frequent[~has[row, frequent]]
        if not (len(own) and len(others)):
            continue
        minus, plus = rng.choice(own), rng.choice(others)
        right = has[:, plus] & ~has[:, minus]
        if right.any():
            yield Swap(row, tags[minus], tags[plus], right)


def swap_cards(gallery: Gallery, found: Sequence[Swap], media: Media) -> list[dict[str, Any]]:
    """Each swap with the pictures that it finds."""
    cards = []
    for swap in found:
        own = gallery.vectors[swap.row][None]
        rows = gallery.found(own, swap.row, [swap.plus], [swap.minus]).tolist()
        cards.append(
            {
                "query": gallery.card(swap.row, media),
                "minus": swap.minus,
                "plus": swap.plus,
                "found": [gallery.card(i, media, bool(swap.right[i])) for i in rows],
            }
        )
    return cards


def picture_map(gallery: Gallery, media: Media, seed: int = 0) -> Chart | None:
    """The first pictures of the split as thumbnails; None of fewer than three."""
    rows = list(range(min(MAPPED, gallery.num_asked)))
    if len(rows) < 3:
        return None
    vectors = gallery.vectors[rows]
    kind, names = gallery.named(rows)
    near = maps.neighbours(vectors)
    alike = np.mean([names[i] == names[j] for i, found in enumerate(near) for j in found])
    counts = Counter(names)
    chance = sum(n * (n - 1) for n in counts.values()) / (len(rows) * (len(rows) - 1))
    told = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    # In the order of how common they are: so are the colours.
    listed = sorted(rows, key=lambda i: (names[i] in ("other", "none"), -counts[names[i]]))
    places = maps.plane(vectors, seed)
    placed = [
        {
            "x": float(places[i, 0]),
            "y": float(places[i, 1]),
            kind: names[i],
            "people wrote": ", ".join(gallery.written[i][:WRITTEN]) or "nothing",
            "picture": media.picture(gallery.thumbnails[i]),
        }
        for i in listed
    ]
    return charts.atlas(
        "Pictures as the model lays them out",
        f"t-SNE of {len(rows)} pictures, coloured by {kind}: {told}. Of a picture's "
        f"{near.shape[1]} nearest {alike:.0%} have the same colour, of all {chance:.0%}.",
        placed,
        kind,
        wide=True,
        height=620,
    )
