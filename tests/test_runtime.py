"""Local mode in its three spellings, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CARD_LINE = """
import ray, pytest
from mmray import runtime

@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init(local_mode=True)
    yield
    ray.shutdown()
    assert not runtime.is_local()

def test_is_local():
    assert runtime.is_local()
    assert ray.is_initialized()

def test_tasks_still_answer():
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
"""


def test_mmray_init_local_mode_needs_no_ray() -> None:
    code = (
        "import sys, mmray; from mmray import runtime; assert not runtime.is_local(); "
        "mmray.init(local_mode=True); assert runtime.is_local(); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.cluster
def test_the_cards_line_in_pytest(tmp_path: Path) -> None:
    path = tmp_path / "test_card.py"
    path.write_text(CARD_LINE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(path), "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("has no local mode") == 1


@pytest.mark.cluster
def test_the_whole_way_in_local_mode() -> None:
    # In a process of its own, since its ray.shutdown() would end this session's cluster.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/local_mode", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_import_is_light() -> None:
    code = "import sys, mmray; assert not {'torch', 'ray', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_job_does_not_leave_local_mode(local_mode: None) -> None:
    import mmray
    from mmray import runtime

    mmray.init()
    assert runtime.is_local()
