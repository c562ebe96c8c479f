"""A fault of each kind, on real jobs; `make chaos` has ten of each for all jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.runs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.mark.parametrize(
    ("kind", "job"),
    [
        *((kind, "prepare") for kind in KINDS),
        ("spot", "train"),
    ],
)
def test_the_result_is_that_of_an_undisturbed_run(work: Path, kind: str, job: str) -> None:
    # A process of its own: its clusters have another token than that of the other tests.
    command = [sys.executable, "-m", "tests.chaos", "--kinds", kind, "--jobs", job]
    done = subprocess.run(
        [*command, "--faults", "1", "--videos", "120", "--work", str(work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
