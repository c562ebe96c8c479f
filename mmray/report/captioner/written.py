"""What captioners write about the pictures of a split, with the scores of each picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.captioner.cider import Cider
from mmray.captioner.data import as_places
from mmray.captioner.evaluate import captioned_rows, check_backbone
from mmray.captioner.predict import Captioner
from mmray.captioner.scores import bleu, rouge_l
from mmray.captioner.tokenise import tokenise
from mmray.pipeline.dataset import Dataset, tensor

MODEL = "the model"
BEAM = 5
GROUPS = ("the best", "around the median", "the worst")


@dataclass(frozen=True)
class Written:
    """Captions of N pictures, by models and by people.

    Args:
        ids: of the pictures.
        references: what people wrote of each, at least one.
        tokens: the same as words, as scores take them.
        texts: one caption of each picture, by name of the model.
        cider: float64 [N], 0 to 10, of those, by name of the model; phrases are weighed by the
            references of all N pictures.
    """

    ids: list[str]
    references: list[list[str]]
    tokens: list[list[list[str]]]
    texts: dict[str, list[str]]
    cider: dict[str, np.ndarray]

    def scores(self, i: int) -> dict[str, float]:
        """CIDEr, BLEU-4 and ROUGE-L of the model's caption of a picture."""
        ours, theirs = tokenise(self.texts[MODEL][i]).split(), self.tokens[i]
        return {
            "CIDEr": float(self.cider[MODEL][i]),
            "BLEU-4": bleu([ours], [theirs])[3],
            "ROUGE-L": float(rouge_l([ours], [theirs])[0]),
        }

    def groups(self, items: int) -> dict[str, list[int]]:
        """At most so many pictures by CIDEr: the best, those around the median, the worst.

        No picture is in two of them; the worst come first among the worst.
        """
        order = np.argsort(-self.cider[MODEL], kind="stable").tolist()
        count = min(items, len(order))
        best, median, worst = (count // 3 + (i < count % 3) for i in range(3))
        start = min(max(best, (len(order) - median) // 2), len(order) - worst - median)
        parts = order[:best], order[start : start + median], order[::-1][:worst]
        return dict(zip(GROUPS, parts, strict=True))


def write(
    captioners: Mapping[str, Captioner],
    dataset: Dataset,
    split: str,
    *,
    limit: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Written:
    """Let captioners write about all captioned pictures of a split.

    Args:
        captioners: by name; one of them is `MODEL`.
        dataset: pictures with the captioners' features, and captions.
        split: of the dataset.
        limit: only its first pictures.
        report: called with a line of progress.

    Raises:
        UserError: a model and the dataset do not belong together, or there are no captions.
    """
    for name, captioner in captioners.items():
        check_backbone("--model" if name == MODEL else f"--also {name}", captioner, dataset)
    report(f"writing: {', '.join(captioners)}")
    ids: list[str] = []
    references: list[list[str]] = []
    texts: dict[str, list[str]] = {name: [] for name in captioners}
    columns = sorted({captioner.stored.column for captioner in captioners.values()})
    # Streamed: the grids of a large split would not fit in memory.
    for table, known in captioned_rows(dataset, split, columns, limit):
        ids += table["id"].to_pylist()
        references += known
        seen = {column: as_places(tensor(table[column])) for column in columns}
        for name, captioner in captioners.items():
            found = captioner.captions_of(seen[captioner.stored.column], BEAM)
            texts[name] += [captions[0].caption for captions in found]
    tokens = [[tokenise(text).split() for text in known] for known in references]
    judge = Cider(tokens)
    cider = {
        name: judge.score([tokenise(text).split() for text in written])
        for name, written in texts.items()
    }
    return Written(ids, references, tokens, texts, cider)


def stored_rows(
    dataset: Dataset, split: str, ids: Collection[str], columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Columns of a few pictures by id; only the parts of the dataset that have them are read."""
    found: dict[str, dict[str, Any]] = {}
    for group in dataset.row_groups():
        known = dataset.read_row_group(group, ["id", "split"])
        pairs = zip(known["id"].to_pylist(), known["split"].to_pylist(), strict=True)
        rows = [
            i
            for i, (name, part) in enumerate(pairs)
            if part == split and name in ids and name not in found
        ]
        if not rows:
            continue
        table = dataset.read_row_group(group, ["id", *columns]).take(rows)
        values = {column: _values(table[column]) for column in columns}
        for i, name in enumerate(table["id"].to_pylist()):
            found.setdefault(name, {column: values[column][i] for column in columns})
    return found


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return list(tensor(column))
    return list(column.to_pylist())
