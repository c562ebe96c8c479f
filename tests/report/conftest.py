"""Fixtures of several pages."""

from __future__ import annotations

import pytest

from mmray import storage
from tests.joint.worlds import save_small, small_task, train_small, write_rows
from tests.report.joint_world import METRICS, QUESTIONS, World


@pytest.fixture(scope="session")
def other_model(picture_world: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("other")
    train_small(picture_world, out, steps=8)
    return save_small(small_task(picture_world), out)


@pytest.fixture(scope="session")
def world(
    picture_world: str,
    joint_model: str,
    other_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    folder = tmp_path_factory.mktemp("files")
    storage.write_json(folder / "metrics.json", METRICS)
    (folder / "analogies.txt").write_text(QUESTIONS)
    files = str(folder / "metrics.json"), str(folder / "analogies.txt")
    return World(picture_world, joint_model, other_model, *files)


@pytest.fixture(scope="session")
def unlabelled(world: World, tiny_teacher: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        {"split": row["split"], "tags": row["tags"], "features": world.features[i]}
        for i, row in enumerate(world.rows.values())
    ]
    return write_rows(tmp_path_factory.mktemp("unlabelled"), rows, tiny_teacher)
