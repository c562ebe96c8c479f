"""How a training went, as MLflow has it."""

from __future__ import annotations

import re

from mmray.report.charts import lines
from mmray.report.page import Chart
from mmray.training.runs import history_of

_PREFIXES = {"val": "held-out clips and pictures", "train": "training"}
"""What the first part of a metric's name stands for."""


def loss_charts(where: str) -> list[Chart]:
    """The losses of the run that made a model, by step; none where MLflow does not have it."""
    history = history_of(where)
    rows = [
        {"step": step, "loss": value, "of": name.replace(".", " ").replace("_", " ")}
        for name, points in sorted(history.items())
        if re.search(r"(^|[./_])(loss|kl|bce|nll)", name)
        for step, value in points
    ]
    if not rows:
        return []
    names = list(dict.fromkeys(row["of"] for row in rows))
    told = []
    for name in names:
        own = [row for row in rows if row["of"] == name]
        told.append(f"{name} from {own[0]['loss']:.3g} to {own[-1]['loss']:.3g}")
    last = max(int(row["step"]) for row in rows)
    text = f"Over {last} steps: {'; '.join(told)}."
    return [lines("Loss by training step", text, rows, "step", "loss", "of", wide=True)]
