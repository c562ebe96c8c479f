"""Nets for the tests of what a net may lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmray.teachers import nets, train


def write_mapless(folder: Path) -> str:
    """The spec of an untrained net of 1 pixel: none of its maps has more than one place."""
    training: dict[str, Any] = {"options": {"source": "nothing"}, "what": "objects"}
    training |= {"num_train": 0, "num_test": 0, "accuracy": 0.5, "nll": 0.7, "ece": 0.0}
    train.save(nets.new_net("mapless", ["a", "b"], 1, [4]).eval(), str(folder), training)
    return f"mmray:{folder}"
