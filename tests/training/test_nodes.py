"""Nodes come and go while a training runs: it ends, with the losses of an undisturbed one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mmray import storage
from mmray.training.checkpoint import Checkpoints
from tests.training.nodes import Raylets, Training, losses_undisturbed
from tests.training.tiny import write_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data"))


def check(training: Training, data: str, tmp_path: Path, **config: Any) -> None:
    training.end()
    state = Checkpoints(str(tmp_path / "out")).newest()
    assert state is not None
    whole = losses_undisturbed(data, tmp_path / "whole", **config)
    assert len(state.losses) == config["steps"]
    assert state.losses == pytest.approx(whole, abs=1e-4)


def test_an_elastic_training_grows_and_shrinks(data: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"steps": 300, "checkpoint_every": 50, "elastic": (1, 2)}
    config["eval_every"] = 0
    with (
        Raylets(1) as cluster,
        Training(cluster.address, data, tmp_path / "out", **config) as training,
    ):
        training.wait(lambda steps: len(steps) > 20)
        node = cluster.add()
        training.wait(lambda steps: steps[-1][1] == 2)
        assert training.repeated() <= 1  # a checkpoint came before the workers were stopped
        at = training.steps()[-1][0]
        training.wait(lambda steps: steps[-1][0] > at + 10)
        cluster.kill(node)
        check(training, data, tmp_path, **config)
        assert training.steps()[-1][1] == 1
        assert training.repeated() <= 1 + 50


def test_a_training_waits_for_the_node_that_it_lost(data: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"steps": 150, "checkpoint_every": 20, "num_workers": 2}
    with (
        Raylets(2) as cluster,
        Training(cluster.address, data, tmp_path / "out", **config) as training,
    ):
        training.wait(lambda steps: len(steps) > 50)
        cluster.kill(cluster.nodes[0])
        time.sleep(5)
        cluster.add()
        check(training, data, tmp_path, **config)
        assert training.repeated() <= 20


def test_a_notice_is_answered_with_a_checkpoint(data: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"steps": 500, "checkpoint_every": 0, "eval_every": 0}
    config |= {"elastic": (1, 2), "max_failures": 0}  # it is no failure
    with (
        Raylets(2) as cluster,
        Training(cluster.address, data, tmp_path / "out", **config) as training,
    ):
        training.wait(lambda steps: len(steps) > 50)
        cluster.drain(cluster.nodes[0], 20)
        folder = tmp_path / "out" / "checkpoints"
        training.wait(lambda steps: bool(storage.list_folders(folder)), timeout_s=15)
        training.wait(lambda steps: steps[-1][1] == 1)
        again = training.steps()[-1][0]
        check(training, data, tmp_path, **config)
        assert again > 50  # not from the start
        assert training.repeated() <= 100  # those of ten seconds, and what a slow machine adds
