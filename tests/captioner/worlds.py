"""Small image datasets with captions, written by hand: what each picture shows is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmray.teachers import describe_teacher
from tests.joint.worlds import COLOURS, SIZES, THINGS, write_rows


def write_captioned(
    folder: Path, teacher: str, grid: bool = True, sizes: dict[str, int] | None = None
) -> str:
    """A thing of one colour; features and one place of the grid say both, the captions too.

    One picture in ten has no caption.
    """
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    shape = describe_teacher(teacher, grid=True)["grid"]
    dim = describe_teacher(teacher)
    length = dim["depths_dim"] + dim["feature_dim"]
    width = max(length, shape[2])
    directions = np.random.default_rng(99).normal(size=(6, width))
    meanings = dict(zip([*COLOURS, *THINGS], directions, strict=True))
    for split, size in (sizes or SIZES).items():
        for i in range(size):
            colour, thing = rng.choice(list(COLOURS)), rng.choice(list(THINGS))
            meaning = 2 * (meanings[colour] + meanings[thing])
            captions = [f"A {colour} {thing}.", f"there is a {colour} {thing}", f"the {thing}"]
            row = {
                "split": split,
                "tags": [],
                "captions": [] if i % 10 == 9 else captions,
                "labels": [f"colour:{colour}", f"object:{thing}"],
                "features": meaning[:length] + rng.normal(size=length),
            }
            if grid:
                places = rng.normal(size=shape)
                places[rng.integers(shape[0]), rng.integers(shape[1])] += 2 * meaning[: shape[2]]
                row["grid"] = places
            rows.append(row)
    return write_rows(folder, rows, teacher)
