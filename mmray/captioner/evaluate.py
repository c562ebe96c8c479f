"""A captioner beside what writes captions without learning, and beside people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from rich.table import Table
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from mmray.captioner import meteor
from mmray.captioner.cider import Cider
from mmray.captioner.data import as_places, caption_lists
from mmray.captioner.predict import Captioner
from mmray.captioner.scores import scores
from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.images import backbone_of, grid_of
from mmray.teachers.stored import check_same_nets

MOST_TRAIN = 20_000
"""Training pictures that captions are copied from."""
RESERVED = ("greedy", "blind", "nearest", "commonest", "people")
"""Rows of the table that are always there."""
NAMES = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "meteor")


@dataclass(frozen=True)
class Captioned:
    """Pictures with people's captions.

    Args:
        features: pooled, float32 [N, D]; for the nearest pictures.
        places: what the captioner sees, float32 [N, places, D'].
        captions: at least one of each.
    """

    features: np.ndarray
    places: np.ndarray
    captions: list[list[str]]


def read_captioned(
    dataset: Dataset, split: str, column: str, limit: int | None = None
) -> Captioned:
    """The pictures of a split that have captions, each picture once.

    Raises:
        UserError: there are none.
    """
    features, places, captions = [], [], []
    for table, known in captioned_rows(dataset, split, ["features", column], limit):
        features.append(tensor(table["features"]).astype(np.float32))
        places.append(as_places(tensor(table[column]).astype(np.float32)))
        captions += known
    return Captioned(np.concatenate(features), np.concatenate(places), captions)


def captioned_rows(
    dataset: Dataset,
    split: str,
    columns: Sequence[str],
    limit: int | None = None,
    batch_size: int = 1024,
) -> Iterator[tuple[pa.Table, list[list[str]]]]:
    """The rows of the pictures of a split that have captions, each picture once, streamed.

    Args:
        dataset: of captioned pictures.
        split: which of them.
        columns: that are wanted beside `id` and `captions`.
        limit: look at the first so many rows only.
        batch_size: rows that are read at once.

    Yields:
        Rows, and of each its captions that have words, at least one.

    Raises:
        UserError: there are none; when all has been read.
    """
    names = list(dict.fromkeys(["id", "captions", *columns]))
    seen: set[str] = set()
    for table in dataset.batches(names, batch_size, split=split, limit=limit):
        captions = [
            [text for text in texts or [] if tokenise(text)]
            for texts in table["captions"].to_pylist()
        ]
        new = []
        for i, name in enumerate(table["id"].to_pylist()):
            if captions[i] and name not in seen:
                seen.add(name)
                new.append(i)
        if new:
            yield table.take(new), [captions[i] for i in new]
    if not seen:
        raise UserError(f"{dataset.uri}: no picture of the split {split!r} has a caption")


def evaluate(
    captioner: Captioner,
    dataset: Dataset,
    split: str = "test",
    *,
    beam: int = 5,
    length_penalty: float = 0.7,
    limit: int | None = None,
    seed: int = 0,
    others: dict[str, Captioner] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Scores by flat names: `bleu4`, `cider`, ...; `blind.cider`, `nearest.cider`, ... beside.

    `greedy` is the same captioner with a beam of 1, `blind` its captions given to other pictures,
    `nearest` the caption of the training picture with the nearest features, `commonest` the most
    frequent training caption, `people` one caption of each picture against its others.

    Args:
        captioner: the model.
        dataset: pictures with features of the model's backbone, and captions.
        split: the split to measure on.
        beam: hypotheses.
        length_penalty: of the beam.
        limit: only its first pictures.
        seed: of the control.
        others: more captioners for the same table, by name.
        report: called with a line of progress.

    Raises:
        UserError: the model and the dataset do not belong together, or there are no captions.
    """
    models = {"": captioner, **(others or {})}
    for name, model in models.items():
        check_backbone(f"--also {name}" if name else "--model", model, dataset)
    test = read_captioned(dataset, split, captioner.stored.column, limit)
    written: dict[str, list[str]] = {}
    for name, model in models.items():
        report(f"writing: {name or 'the model'}")
        column = model.stored.column
        seen = test if model is captioner else read_captioned(dataset, split, column, limit)
        written[name] = _texts(model, seen.places, beam, length_penalty)
    report("writing: greedy")
    written["greedy"] = _texts(captioner, test.places, 1, length_penalty)
    if len(test.captions) > 1:
        written["blind"] = others_captions(written[""], seed)
    if next(caption_lists(dataset, "train"), None) is None:
        report("no training picture has a caption: none is copied")
    else:
        report("copying: nearest")
        written |= copied(dataset, test)
    found = _scored(written, test.captions, report) | people(test.captions)
    return {**found, "pictures": float(len(test.captions)), **variety(written[""], dataset)}


def _scored(
    written: dict[str, list[str]], references: list[list[str]], report: Callable[[str], None]
) -> dict[str, float]:
    """The scores of all writers' captions, by flat names."""
    found: dict[str, float] = {}
    for name, texts in written.items():
        report(f"scoring: {name or 'the model'}")
        for key, value in scores(texts, references).items():
            found[f"{name}.{key}" if name else key] = value
    if not meteor.why_not():
        report("scoring: METEOR")
        values = meteor.meteors([*written.values()], references)
        for name, value in zip(written, values, strict=True):
            found[f"{name}.meteor" if name else "meteor"] = value
    return found


def _texts(captioner: Captioner, places: np.ndarray, beam: int, length_penalty: float) -> list[str]:
    found = captioner.captions_of(places, beam, length_penalty=length_penalty)
    return [captions[0].caption for captions in found]


def check_backbone(name: str, captioner: Captioner, dataset: Dataset) -> None:
    """Refuse features that other nets made than the captioner's.

    Raises:
        UserError: names both.
    """
    check_same_nets(captioner.stored.backbone, backbone_of(dataset), dataset.uri)
    if captioner.stored.grid is not None and grid_of(dataset) is None:
        raise UserError(
            f"{name}: looks at places, and {dataset.uri} has only pooled features; prepare the "
            "pictures with --grid"
        )


def others_captions(texts: Sequence[str], seed: int) -> list[str]:
    """The same captions, none at its own picture (where there are two or more)."""
    order = np.random.default_rng(seed).permutation(len(texts))
    moved = np.empty(len(texts), int)
    moved[order] = np.roll(order, 1)
    return [texts[i] for i in moved]


def copied(dataset: Dataset, test: Captioned) -> dict[str, list[str]]:
    """Captions of training pictures: of the `nearest` one, and the `commonest` of all."""
    train = read_captioned(dataset, "train", "features", MOST_TRAIN)
    scale = StandardScaler().fit(train.features)
    known, asked = (normalize(scale.transform(x.features)) for x in (train, test))
    rows = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known).kneighbors(asked)[1][:, 0]
    counts: dict[str, int] = {}
    for texts in train.captions:
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
    commonest = max(counts, key=lambda text: (counts[text], text))
    return {
        "nearest": [train.captions[i][0] for i in rows],
        "commonest": [commonest] * len(test.captions),
    }


def people(captions: Sequence[Sequence[str]]) -> dict[str, float]:
    """`people.cider`: how well one caption of each picture agrees with its others.

    The mean over which one is taken, with the phrases weighed as for the models; of pictures with
    two captions or more. Nothing where there are none.
    """
    words = [[tokenise(text).split() for text in texts] for texts in captions]
    frequencies = Cider(words).frequencies
    several = [texts for texts in words if len(texts) > 1]
    if not several:
        return {}
    most = max(map(len, several))
    means = []
    for j in range(most):
        chosen = [texts for texts in several if j < len(texts)]
        others = [[text for i, text in enumerate(texts) if i != j] for texts in chosen]
        means.append(Cider(others, frequencies).score([texts[j] for texts in chosen]).mean())
    return {"people.cider": float(np.mean(means))}


def variety(texts: Sequence[str], dataset: Dataset) -> dict[str, float]:
    """`words`: different words that are written; `novel`: share of captions not seen in training;
    `untaught`: share of those with a word not seen there; `length`: words of a caption."""
    return variety_of(texts, taught(dataset))


def taught(dataset: Dataset) -> set[str]:
    """The tokenised captions of the split train."""
    return {tokenise(text) for texts in caption_lists(dataset, "train") for text in texts}


def variety_of(texts: Sequence[str], known: Set[str]) -> dict[str, float]:
    """As `variety`, of tokenised captions beside those that are known: see `taught`."""
    words = {word for text in known for word in text.split()}
    return {
        "words": float(len({word for text in texts for word in text.split()})),
        "novel": float(np.mean([text not in known for text in texts])),
        "untaught": float(np.mean([not words.issuperset(text.split()) for text in texts])),
        "length": float(np.mean([len(text.split()) for text in texts])),
    }


def caption_table(metrics: dict[str, float]) -> Table:
    """What was measured, a row for each writer."""
    names = [name for name in NAMES if name in metrics]
    table = Table("captions of", *names, title="people's captions, held out", title_justify="left")
    writers = dict.fromkeys(
        key.rpartition(".")[0] for key in metrics if key.rpartition(".")[2] in NAMES
    )
    for writer in writers:
        keys = [f"{writer}.{name}" if writer else name for name in names]
        shown = [f"{metrics[key]:.3f}" if key in metrics else "-" for key in keys]
        table.add_row(writer or "the model", *shown)
    return table
