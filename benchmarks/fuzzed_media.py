"""2,000 damaged media files through the real jobs: each becomes rows, or a reason in `errors/`.

    python benchmarks/fuzzed_media.py [--files 2000] [--seed 0] [--keep FOLDER]

Half of the files are videos (`jobs/prepare_videos.py`), a quarter pictures (`prepare_images.py`),
a quarter sounds (`predict.py sounds`), of all containers and with all damages of
`tests/media/fuzzing.py`. The jobs run as their users run them, each on a Ray of its own, with tiny
nets. Ends with 1 unless every job ends with 0 and without a traceback, every file is in rows or in
`errors/` once (of a video every clip), every file that is whole gave rows, and no process that
decodes takes more memory than it may.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mmray import storage  # noqa: E402 (found by the line above)
from mmray.cli import console  # noqa: E402
from mmray.media.sandbox import MEMORY_BYTES  # noqa: E402
from mmray.pipeline.dataset import Dataset  # noqa: E402
from tests.media.fuzzing import (  # noqa: E402
    CONTAINERS,
    DAMAGES,
    DamagedFile,
    Kind,
    write_damaged,
)

if TYPE_CHECKING:
    import pyarrow as pa

SHARES: dict[Kind, float] = {"videos": 0.5, "sounds": 0.25, "pictures": 0.25}
CLIP_MS = 1000
_DATASETS: dict[Kind, str] = {"videos": "clips", "sounds": "sounds", "pictures": "images"}
_DECODER = "mmray.media.sandbox"


@dataclass
class Outcome:
    """What became of the files of a kind.

    Args:
        files: the files by their paths.
        rows: good rows of each file.
        reasons: why the others failed, one for each bad file or clip.
        problems: what ought not to be; empty when all is well.
        seconds: that the job took.
        decoder_mb: largest memory of a child that decodes.
        worker_mb: largest memory of a worker of Ray.
    """

    files: dict[Path, DamagedFile]
    rows: Counter[Path] = field(default_factory=Counter)
    reasons: dict[Path, list[str]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    decoder_mb: int = 0
    worker_mb: int = 0


def job(kind: Kind, folder: Path, out: Path, nets: Path) -> list[str]:
    """The command that takes a folder of such files."""
    teacher, source = f"mmray:{nets / 'teacher'}", f"folder:{folder}"
    if kind == "videos":
        words = ["jobs/prepare_videos.py", source, "--objects", teacher, "--scenes", "none"]
        words += ["--clip-s", f"{CLIP_MS / 1000:g}", "--frame-s", "0.5", "--min-clip-s", "0.2"]
    elif kind == "pictures":
        words = ["jobs/prepare_images.py", source, "--backbone", teacher]
    else:
        words = ["jobs/predict.py", "sounds", "--input", source, "--model", str(nets / "ear")]
    return [sys.executable, *words, "--out", str(out), "--max-error-ratio", "1"]


def write_nets(folder: Path) -> None:
    """A tiny teacher and a SoundNet that know nothing."""
    import torch

    from mmray.soundnet.config import SoundNetConfig
    from mmray.soundnet.model import SoundNetModel, save_model
    from tests.joint.worlds import write_teacher

    write_teacher(folder / "teacher")
    torch.manual_seed(0)
    ear = SoundNetModel(SoundNetConfig(objects=["cat", "dog"], scenes=["beach", "street"]))
    save_model(str(folder / "ear"), ear.eval(), {})


def fuzz(kind: Kind, count: int, seed: int, root: Path) -> Outcome:
    """Damage so many files, run their job, and look for every one of them."""
    folder, out = root / kind, root / f"{kind}-out"
    outcome = Outcome(write_damaged(folder, kind, count, seed))
    log = root / f"{kind}.log"
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            job(kind, folder, out, root / "nets"), cwd=ROOT, stdout=output, stderr=output
        )
        watcher = threading.Thread(target=_watch, args=(process.pid, outcome))
        watcher.start()
        code = process.wait()
        watcher.join()
    outcome.seconds = time.perf_counter() - start
    text = log.read_text(errors="replace")
    if code or "Traceback" in text:
        outcome.problems.append(f"the job ended with {code}: {text[-2000:]}")
    else:
        _account(kind, Dataset(str(out), _DATASETS[kind]), outcome)
    if outcome.decoder_mb > MEMORY_BYTES >> 20:
        outcome.problems.append(f"a decoder took {outcome.decoder_mb} MB")
    return outcome


def _watch(pid: int, outcome: Outcome) -> None:
    """Follow the memory of the job's processes until it ends."""
    job = psutil.Process(pid)
    while job.is_running() and job.status() != psutil.STATUS_ZOMBIE:
        try:
            for process in job.children(recursive=True):
                command, mb = " ".join(process.cmdline()), process.memory_info().rss >> 20
                if _DECODER in command:
                    outcome.decoder_mb = max(outcome.decoder_mb, mb)
                elif command.startswith("ray::"):
                    outcome.worker_mb = max(outcome.worker_mb, mb)
        except psutil.Error:  # one has ended while it was looked at
            pass
        time.sleep(0.2)


def _account(kind: Kind, dataset: Dataset, outcome: Outcome) -> None:
    """Find every file in the rows or the quarantine, and say what is not as it should be."""
    ids: dict[Path, list[str]] = defaultdict(list)
    for path, name in _places(dataset.read(["id", "uri"])):
        outcome.rows[path] += 1
        ids[path].append(name)
    errors = dataset.errors()
    for (path, name), reason in zip(_places(errors), errors["message"].to_pylist(), strict=True):
        outcome.reasons[path].append(reason)
        ids[path].append(name)
    for path in ids.keys() - outcome.files.keys():
        outcome.problems.append(f"{path}: is none of the files")
    for path, file in outcome.files.items():
        wrong = wrong_ids(kind, ids[path])
        if file.damage == "none" and outcome.reasons[path]:
            wrong = f"is whole, but {outcome.reasons[path][0]}"
        if wrong:
            outcome.problems.append(f"{path.name!r} ({file.container}, {file.damage}): {wrong}")


def _places(table: pa.Table) -> Iterable[tuple[Path, str]]:
    paths = [Path(storage.local_path(uri)) for uri in table["uri"].to_pylist()]
    return zip(paths, table["id"].to_pylist(), strict=True)


def wrong_ids(kind: Kind, ids: list[str]) -> str:
    """What is wrong with the identifiers of a file's rows and errors; empty when nothing is."""
    if not ids:
        return "is in neither rows nor errors"
    if len(set(ids)) < len(ids):
        return f"is there twice: {sorted(ids)}"
    starts = sorted(int(name.rpartition("-")[2]) for name in ids if "-" in name)
    if len(ids) > 1 and len(starts) < len(ids):
        return f"failed as a whole and has clips: {sorted(ids)}"
    if kind == "videos" and starts != [CLIP_MS * i for i in range(len(starts))]:
        return f"lacks clips: there are those at {starts} ms"
    return ""


def show(outcomes: dict[Kind, Outcome]) -> None:
    """Print of how many files of each container and damage something good came out, and why not."""
    table = Table("kind", "container", *DAMAGES, title="good / files", title_justify="left")
    for kind, outcome in outcomes.items():
        groups: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for path, file in outcome.files.items():
            groups[file.container, file.damage].append(outcome.rows[path] > 0)
        for container in CONTAINERS[kind]:
            cells = [groups[container, damage] for damage in DAMAGES]
            table.add_row(kind, container, *(f"{sum(cell)} / {len(cell)}" for cell in cells))
    Console(width=160).print(table)
    for kind, outcome in outcomes.items():
        good = sum(outcome.rows[path] > 0 for path in outcome.files)
        console.print(
            f"{kind}: {len(outcome.files)} files in {outcome.seconds:.0f} s, {good} of them gave "
            f"{outcome.rows.total()} rows, {sum(map(len, outcome.reasons.values()))} reasons in "
            f"errors/; at most {outcome.decoder_mb} MB in a decoder, {outcome.worker_mb} MB in a "
            "worker"
        )
        for reason, count in _common(outcome).most_common(12):
            console.print(f"    {count:4} x {reason[:120]}", markup=False)
        for problem in outcome.problems:
            console.print(f"    WRONG: {problem}", markup=False)


def _common(outcome: Outcome) -> Counter[str]:
    """How often each reason came, whatever its numbers; but signals keep theirs."""
    reasons = itertools.chain.from_iterable(outcome.reasons.values())
    return Counter(re.sub(r"(?<!signal )\b[\d.e+-]*\d", "#", reason) for reason in reasons)


def main() -> None:
    """Fuzz all kinds, print the table; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files, to look at them")
    args = parser.parse_args()
    root = args.keep or Path(tempfile.mkdtemp(prefix="mmray-fuzz-"))
    try:
        write_nets(root / "nets")
        kinds: tuple[Kind, ...] = get_args(Kind)
        outcomes = {
            kind: fuzz(kind, round(args.files * SHARES[kind]), args.seed, root) for kind in kinds
        }
        show(outcomes)
    finally:
        if args.keep is None:
            shutil.rmtree(root)
    sys.exit(any(outcome.problems for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
