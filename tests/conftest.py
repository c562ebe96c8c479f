"""Fixtures that all tests share: one real Ray cluster a session, and a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch, numpy or onnxruntime are imported: two cores, several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster on this machine, started once a session; local mode is off."""
    import ray

    import mmray

    mmray.init(num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture()
def local_mode() -> Iterator[None]:
    """Pipelines and trainers run in the test's process."""
    from mmray import runtime

    before = runtime._local_mode
    runtime.set_local_mode(True)
    yield
    runtime.set_local_mode(before)


@pytest.fixture(autouse=True)
def _local_mode_ends_with_the_test() -> Iterator[None]:
    from mmray import runtime

    yield
    runtime.set_local_mode(False)


@pytest.fixture(scope="session", autouse=True)
def _no_tracking_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow of tests goes to a folder of theirs, whatever the environment says."""
    folder: Path = tmp_path_factory.mktemp("mlflow")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    yield
    if before is None:
        del os.environ["MLFLOW_TRACKING_URI"]
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before
