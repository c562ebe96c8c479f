"""The whole way under the line that users write at the top of their tests.

Runs on the Ray of the lock file, where mmray's pytest plugin takes the argument, and on 2.54.1,
the last Ray that has it (`make test-local-mode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from mmray import runtime
from mmray.pipeline.dataset import Dataset

pytestmark = pytest.mark.local_mode


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(local_mode=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def clips(
    small_world: Path, random_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from jobs import prepare_videos

    out = tmp_path_factory.mktemp("clips") / "clips"
    teacher = f"mmray:{random_teacher}"
    prepare_videos.main(
        [
            *(f"toy:{small_world}", "--objects", teacher, "--scenes", "none"),
            *("--clip-s", "5", "--out", str(out), "--max-error-ratio", "0.6"),
        ]
    )
    return out


def test_ray_is_there_and_mmray_runs_in_this_process() -> None:
    assert ray.is_initialized()
    assert runtime.is_local()
    assert ray.get(ray.remote(lambda: 7).remote()) == 7


def test_prepare(clips: Path) -> None:
    assert Dataset(str(clips)).num_rows > 10


def test_distill_and_hear(clips: Path, small_world: Path, tmp_path: Path) -> None:
    from jobs import distill_soundnet, predict

    trained = distill_soundnet.main(
        [
            *("--data", str(clips), "--steps", "2", "--batch-size", "4"),
            *("--out", str(tmp_path / "student")),
        ]
    )
    assert trained.steps == len(trained.losses) == 2
    heard = predict.main(
        [
            *("sounds", "--model", trained.path, "--input", f"toy:{small_world}"),
            *("--max-error-ratio", "0.6", "--out", str(tmp_path / "heard")),
        ]
    )
    assert heard.rows > 5
