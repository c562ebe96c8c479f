"""Local mode in its three spellings, each in a process of its own; which Ray is joined, and how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mmray
from mmray import runtime
from mmray.errors import UserError

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
    mmray.init()
    assert runtime.is_local()


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` is called with, instead of its being run."""
    import ray

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray._raylet, "Config", SimpleNamespace(initialize=lambda _: None))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", runtime.ALLOW_OPEN):
        monkeypatch.setenv(name, "")  # so that what a test leaves there is taken back
        monkeypatch.delenv(name)
    return calls


def let_in(monkeypatch: pytest.MonkeyPatch, token: bool, doors: list[str]) -> None:
    """A running Ray that asks for a token or not, with these open doors."""
    from mmray import exposure

    cluster = SimpleNamespace(token=token, open_doors=lambda: doors)
    monkeypatch.setattr(exposure, "find", lambda address, name: cluster)


DOORS = ["head 10.1.1.1:6379", "node 10.1.1.1:7000", "node 10.1.1.2:7000", "node 10.1.1.3:7000"]


@pytest.mark.parametrize("mine", [None, "token", "disabled"])
def test_an_open_ray_is_refused_whatever_is_set_here(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, mine: str | None
) -> None:
    let_in(monkeypatch, token=False, doors=DOORS)
    if mine:
        monkeypatch.setenv("RAY_AUTH_MODE", mine)
    with pytest.raises(
        UserError, match=r"--address 10\.1\.1\.1:6379: .* and 1 more runs code"
    ) as e:
        mmray.init(address="10.1.1.1:6379")
    assert "--allow-open-cluster or MMRAY_ALLOW_OPEN_CLUSTER=1" in str(e.value)
    assert joined == []


@pytest.mark.parametrize(
    ("token", "doors", "mine", "mode"),
    [
        (False, DOORS, "token", "disabled"),  # allowed, and spoken to as it speaks
        (False, [], None, "disabled"),
        (True, [], None, "token"),
        (True, [], "disabled", "token"),
        (True, [], "k8s", "k8s"),
    ],
)
def test_the_driver_speaks_as_the_cluster_does(
    joined: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    token: bool,
    doors: list[str],
    mine: str | None,
    mode: str,
) -> None:
    let_in(monkeypatch, token, doors)
    monkeypatch.setenv("RAY_ADDRESS", "10.1.1.1:6379")
    if mine:
        monkeypatch.setenv("RAY_AUTH_MODE", mine)
    if doors:
        monkeypatch.setenv(runtime.ALLOW_OPEN, "1")
    mmray.init()
    assert joined[0]["address"] == "10.1.1.1:6379"
    assert os.environ["RAY_AUTH_MODE"] == mode


def test_who_lacks_the_token_is_told(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.1.1.1:6379")

    let_in(monkeypatch, token=True, doors=[])
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "a:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=a:1: it asks for a token, and the one in"):
        mmray.init()


def test_a_ray_whose_data_runs_code_is_not_started(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.__version__", "2.54.1")
    with pytest.raises(UserError, match=r"Ray 2\.54\.1 runs code .*--local.* 2\.56 or later"):
        mmray.init()
    assert joined == []


def test_a_ray_of_the_jobs_own_keeps_to_this_machine() -> None:
    code = (
        "import os; from mmray import runtime; runtime.keep_to_this_machine();"
        "from ray._private.services import get_node_ip_address;"
        "from ray._private.authentication.authentication_utils import is_token_auth_enabled;"
        "print(get_node_ip_address(), is_token_auth_enabled())"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )
    assert done.stdout.split() == ["127.0.0.1", "True"]
