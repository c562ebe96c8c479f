"""`make audit`: the lock and the ranges against the known holes, without a network."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
sys.modules["audit"] = audit  # its dataclass asks for it
spec.loader.exec_module(audit)

LOCK = audit.pins((ROOT / "requirements.lock").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RANGES = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]


def test_neither_lock_nor_ranges_have_a_known_hole() -> None:
    assert audit.known_holes(LOCK, RANGES) == []


def test_every_dependency_is_pinned() -> None:
    assert {audit.lowest(r)[0] for r in RANGES} <= LOCK.keys()


def test_advisories_are_of_packages_that_we_have() -> None:
    assert {advisory.package for advisory in audit.advisories()} <= LOCK.keys()


def test_reasons_stand_for_versions_that_are_there() -> None:
    """A reason that nothing needs any more would hide the next fall-back."""
    ranges = dict(map(audit.lowest, RANGES))
    for advisory in audit.advisories():
        assert bool(advisory.lock) == advisory.touches(LOCK[advisory.package]), advisory
        low = ranges.get(advisory.package)
        assert bool(advisory.range) == bool(low and advisory.touches(low)), advisory


def test_older_versions_are_found() -> None:
    (hole,) = audit.known_holes(LOCK | {"certifi": "2026.10.18"}, [])
    assert "requirements.lock has 2026.10.18 of certifi: eMudhra" in hole
    (hole,) = audit.known_holes(LOCK, ["sentencepiece>=0.2,<1"])
    assert "pyproject.toml lets 0.2 in of sentencepiece: CVE-2026-1260" in hole


@pytest.mark.parametrize("line", ["ray>=2.56", "ray", "-e .", "ray @ file:///ray.whl", ""])
def test_what_is_no_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        audit.pins(f"torch==2.14.1\n{line}\nx==1\n")


ANSWERS = {
    "clean": [{"name": n, "version": v, "vulns": []} for n, v in LOCK.items()],
    "hole": [{"name": "ray", "version": "2.60.0", "vulns": [{"id": "X-1", "fix_versions": []}]}],
    "skipped": [{"name": "ray", "skip_reason": "not found on the index"}],
}


@pytest.mark.parametrize(
    ("answer", "flags", "code", "told"),
    [
        ("clean", [], 0, "no known hole"),
        ("hole", ["--offline-ok"], 1, "HOLE: requirements.lock has 2.60.0 of ray: X-1"),
        ("skipped", [], 3, "NOT AUDITED: "),
        ("skipped", ["--offline-ok"], 0, "NOT AUDITED: "),
        ("unreachable", [], 3, "because: no route"),
    ],
)
def test_what_cannot_be_audited_is_no_pass(
    answer: str,
    flags: list[str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = json.dumps({"dependencies": ANSWERS[answer]}) if answer in ANSWERS else ""
    done = subprocess.CompletedProcess([], 0, said, "Traceback\nno route")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    assert audit.main(flags) == code
    assert told in capsys.readouterr().out
