"""Hold the pins of requirements.lock against known holes.

    make audit                        # fails where the service of advisories cannot be asked
    make audit AUDIT=--offline-ok     # says so, and goes by .ci/advisories.toml alone

Exit codes: 0 no known hole, 1 a hole, 3 not audited.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PIP_AUDIT = ROOT / ".venv-audit" / "bin" / "pip-audit"
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)")


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One entry of `.ci/advisories.toml`, which tells what its fields mean."""

    package: str
    id: str
    fixed: str
    what: str
    lock: str = ""
    range: str = ""

    def touches(self, version: str) -> bool:
        """Whether a release of the package has the hole."""
        return Version(version) < Version(self.fixed)

    def __str__(self) -> str:
        return f"{self.package}: {self.id}, fixed in {self.fixed}: {self.what}"


def advisories(path: Path = ROOT / ".ci" / "advisories.toml") -> list[Advisory]:
    """The known holes."""
    return [Advisory(**entry) for entry in tomllib.loads(path.read_text())["advisory"]]


def pins(text: str) -> dict[str, str]:
    """Name -> version of a lock file's lines.

    Raises:
        ValueError: a line is no pin, so that what it installs could not be known.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = PIN.fullmatch(line)
        if match is None:
            raise ValueError(f"{line!r}: expected NAME==VERSION")
        found[canonicalize_name(match["name"])] = match["version"]
    return found


def lowest(requirement: str) -> tuple[str, str]:
    """Name, and the lowest version that a requirement lets in ("0" without a bound)."""
    parsed = Requirement(requirement)
    bounds = [s.version for s in parsed.specifier if s.operator in (">=", "==", "~=")]
    return canonicalize_name(parsed.name), max(bounds, key=Version, default="0")


def known_holes(lock: dict[str, str], requirements: list[str]) -> list[str]:
    """What of the advisories the lock has, or the ranges let in, without a reason."""
    holes = []
    ranges = dict(map(lowest, requirements))
    for advisory in advisories():
        pinned, low = lock.get(advisory.package), ranges.get(advisory.package)
        if pinned and advisory.touches(pinned) and not advisory.lock:
            holes.append(f"requirements.lock has {pinned} of {advisory}")
        if low and advisory.touches(low) and not advisory.range:
            holes.append(f"pyproject.toml lets {low} in of {advisory}")
    return holes


def ask_service(lock: dict[str, str]) -> tuple[list[str], int, str]:
    """Holes that pip-audit finds, the number of packages it could judge, and why not all."""
    # One package first: where nobody answers, the other questions need not be asked.
    for asked in (dict(list(lock.items())[:1]), lock):
        packages, why_not = pip_audit(asked)
        if why_not:
            break
    accepted = {advisory.id for advisory in advisories() if advisory.lock}
    holes = [
        f"requirements.lock has {package['version']} of {package['name']}: {hole['id']}, fixed "
        f"in {', '.join(hole['fix_versions']) or 'no release'}"
        for package in packages
        for hole in package["vulns"]
        if not accepted & {hole["id"], *hole.get("aliases", ())}
    ]
    return holes, len(packages), why_not


def pip_audit(lock: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit tells of the packages that it could judge, and why it could not others."""
    command = [str(PIP_AUDIT), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--desc", "off", "--requirement"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in lock.items())
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except json.JSONDecodeError:
        return [], (done.stderr.strip().splitlines() or ["no answer"])[-1]
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    judged = [package for package in packages if "skip_reason" not in package]
    return judged, skipped[0] if skipped else ""


def main(argv: list[str]) -> int:
    """Print what is known and return the exit code."""
    lock = pins(LOCK.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    holes = known_holes(lock, requirements)
    print(f"{len(lock)} pins and {len(requirements)} ranges held against .ci/advisories.toml")
    found, judged, why_not = ask_service(lock)
    print(f"{judged} of {len(lock)} packages judged by the service of advisories")
    for hole in holes + found:
        print(f"HOLE: {hole}")
    if holes or found:
        return 1
    if judged < len(lock):
        print(f"NOT AUDITED: {len(lock) - judged} packages, because: {why_not}")
        return 0 if "--offline-ok" in argv else 3
    print("no known hole")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
