"""Faults of every kind while the real jobs run: `python -m tests.chaos`.

For each kind of fault and each job a fresh cluster of several raylets is started on this machine,
the job runs on it as a user would start it, and faults are spread over its progress. Then what it
has made is compared with what an undisturbed run has made: all rows and columns, the quarantine,
the loss of every step and the weights.

    python -m tests.chaos --markdown docs/chaos.md
    python -m tests.chaos --kinds worker driver --jobs prepare --faults 2

It takes more than an hour, so the last result of each kind and job is kept in `--work`, and the
table has all of them. It ends with 1 where a result differs, a job did not end well, or a fault did
not hit.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Before Ray is imported.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on this machine's loopback device only
    "OMP_NUM_THREADS": "1",
}
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")

import tyro
from rich.console import Console

from tests.chaos import harness
from tests.chaos.faults import KINDS

JOBS = ("prepare", "train", "predict")


@dataclass(kw_only=True)
class Args:
    """Flags."""

    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds of fault."""
    jobs: tuple[str, ...] = JOBS
    """Jobs to disturb."""
    faults: int = 10
    """Faults for each kind and job."""
    seed: int = 0
    """Decides who is struck."""
    videos: int = 960
    """Videos that the jobs work on: two cores prepare some ten a second, and ten spot notices take
    a minute."""
    work: Path = Path("runs/chaos")
    """Folder for what the jobs work on and make; undisturbed runs there are used again."""
    markdown: Path | None = None
    """Also write the table to this file."""


def main() -> int:
    args = tyro.cli(Args, description=__doc__)
    console = Console(highlight=False, soft_wrap=True)
    results = []
    with harness.Harness(args.work.absolute(), args.seed, args.videos) as chaos:
        for kind in args.kinds:
            for job in args.jobs:
                results.append(chaos.disturb(kind, job, args.faults))
                console.print(results[-1].line)
                known = harness.keep(args.work, results)
    console.print(harness.table(known))
    if args.markdown:
        args.markdown.write_text(harness.markdown(known))
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
