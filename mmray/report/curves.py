"""How a training went, as MLflow has it."""

from __future__ import annotations

import re

from mmray.report.charts import lines
from mmray.report.page import Chart
from mmray.training.runs import history_of


def loss_charts(where: str) -> list[Chart]:
    """The losses of the run that made a model, by step; none where MLflow does not have it."""
    curves = {
        name.replace(".", " ").replace("_", " "): points
        for name, points in history_of(where).items()
        if len(points) > 1 and re.search(r"(^|[./_])(loss|kl|cross_entropy|contrast)", name)
    }
    if not curves:
        return []
    rows = [
        {"step": step, "loss": value, "of": name}
        for name, points in curves.items()
        for step, value in points
    ]
    told = "; ".join(f"{name} from {p[0][1]:.3g} to {p[-1][1]:.3g}" for name, p in curves.items())
    last = max(points[-1][0] for points in curves.values())
    text = f"Over {last:,} steps: {told}."
    return [lines("Loss by training step", text, rows, "step", "loss", "of", wide=True)]
