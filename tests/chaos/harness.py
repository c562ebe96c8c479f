"""Undisturbed runs, disturbed runs, and the table of how they compare."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from rich.table import Table

from tests.chaos import runs, world
from tests.chaos.bucket import Bucket
from tests.chaos.cluster import STORE_BYTES, Raylets
from tests.chaos.faults import KINDS, Scene
from tests.chaos.runs import Run

POLL_S = 0.05
SPREAD = 0.8
"""Faults lie in so much of the job, so that the last ones hit too: shards end some at a time."""
MEASURED = "measured.json"
"""In the folder of an undisturbed run: its seconds, and how many shards or steps were seen."""
POISON = Path(__file__).parent / "poison"
KILLS = "MMRAY_CHAOS_KILLS"
"""In the environment: the file where poisoned files tell whom they have killed."""


@dataclass(frozen=True)
class Result:
    """How a job took one kind of fault.

    Args:
        kind: of fault.
        job: which.
        faults: wanted.
        hits: that hit.
        undisturbed_s: how long the job takes without.
        disturbed_s: how long it took.
        problems: all that was not as it should be.
    """

    kind: str
    job: str
    faults: int
    hits: int = 0
    undisturbed_s: float = 0.0
    disturbed_s: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether the job can meet such faults: training decodes nothing."""
        return bool(self.faults)

    @property
    def is_good(self) -> bool:
        """Whether all faults hit and nothing came of it."""
        return not self.problems and self.hits >= self.faults

    @property
    def text(self) -> str:
        """For a cell of the table."""
        if not self.applies:
            return "–"
        outcome = "; ".join(self.problems) or "equal"
        more = self.disturbed_s - self.undisturbed_s
        return f"{self.hits} of {self.faults}, {outcome}, {self.undisturbed_s:.0f} s {more:+.0f} s"

    @property
    def line(self) -> str:
        """For the terminal."""
        return f"{self.kind}, {self.job}: {self.text}"


class Harness:
    """Runs jobs with and without faults.

    Args:
        folder: where all of it lies; kept, and used again.
        seed: decides who is struck.
        videos: how many the jobs work on.
    """

    def __init__(self, folder: Path, seed: int, videos: int) -> None:
        self.folder, self.seed, self.videos = folder, seed, videos

    def __enter__(self) -> Harness:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.world = world.make(self.folder, self.videos)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.folder}/mlflow.db"
        self._all = contextlib.ExitStack()
        self._bucket: Bucket | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)

    def disturb(self, kind: str, job: str, faults: int) -> Result:
        """Run a job with so many faults of a kind, and compare."""
        where = KINDS[kind].where
        if where == "poisoned" and job == "train":
            return Result(kind, job, faults=0)
        if where == "poisoned":
            faults = world.NUM_POISON
        undisturbed = self._undisturbed(job, where)
        seconds, total = json.loads((undisturbed / MEASURED).read_text())
        out = self.folder / "disturbed" / f"{kind}-{job}"
        start = time.monotonic()
        hits, problems = 0, []
        try:
            hits = self._run(kind, job, faults, total, out)
        except Exception as e:  # the others are still to be tried
            problems.append(f"{type(e).__name__}: {e}")
        else:
            compare = runs.poison_differences if where == "poisoned" else runs.differences
            args = () if where == "poisoned" else (self._job(job, where),)
            problems += compare(*args, undisturbed, out)
        took = time.monotonic() - start
        return Result(kind, job, faults, hits, seconds, self._took or took, tuple(problems))

    def _undisturbed(self, job: str, where: str) -> Path:
        """The folder of an undisturbed run, made when it is not there."""
        out = self.folder / "undisturbed" / f"{job}-{where}"
        if not (out / MEASURED).exists():
            self._run(None, job, 0, 0, out, where)
            (out / MEASURED).write_text(json.dumps([self._took, self._most]))
        return out

    def _run(
        self,
        kind: str | None,
        job: str,
        faults: int,
        total: int,
        out: Path,
        where: str = "disk",
    ) -> int:
        """Run a job into the local folder `out`; how many faults hit."""
        if kind is not None:
            where = KINDS[kind].where
        self._took = 0.0
        the_job = self._job(job, where)
        shutil.rmtree(out, ignore_errors=True)
        log = self.folder / "logs" / f"{kind or 'undisturbed'}-{job}-{where}.log"
        log.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        bucket = self._bucket if where == "bucket" else None
        path = f"{time.time_ns()}"
        kills = self.folder / "kills.txt"
        kills.unlink(missing_ok=True)
        poison = {KILLS: str(kills), "PYTHONPATH": str(POISON)} if kind == "poison" else {}
        store = KINDS[kind].store_bytes if kind else STORE_BYTES
        with mock.patch.dict(os.environ, poison), Raylets(store) as raylets:
            uri = bucket.uri(path) if bucket else str(out)
            names = (lambda: bucket.names(path)) if bucket else (lambda: runs.names_below(out))
            run = Run(the_job, uri, raylets.address, log, names)
            run.total = total
            scene = Scene(raylets, run, random.Random(self.seed), bucket)
            start = time.monotonic()
            run.start()
            try:
                hits = self._strike(scene, kind, faults)
            finally:
                scene.close()
                self._took, self._most = time.monotonic() - start, run.most
        if bucket:
            bucket.get(path, out)
        if kind == "poison":
            hits = len(set(kills.read_text().split())) if kills.exists() else 0
        return hits

    def _strike(self, scene: Scene, kind: str | None, faults: int) -> int:
        """Strike as the job gets on, until it ends; how often it was hit."""
        run, strike = scene.run, KINDS[kind].strike if kind else None
        while (code := run.code()) is None:
            due = SPREAD * run.total * (scene.strikes + 0.5) / max(1, faults)
            done = run.done()
            is_due = strike and scene.strikes < faults and due <= done < run.total
            if is_due and strike(scene):
                scene.strikes += 1
                self._say(f"{kind}, {run.job.name}: strike {scene.strikes} at {done}")
            time.sleep(POLL_S)
        if code:
            raise RuntimeError(f"ended with {code} (see {run.log})")
        return scene.strikes

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def _job(self, job: str, where: str) -> runs.Job:
        """A job, with what it works on at its place."""
        clips = self._undisturbed("prepare", "disk") if job == "train" else Path()
        if where != "bucket":
            source = self.world.videos if where == "disk" else self.world.poisoned
            return runs.jobs(self.world, str(source), str(clips))[job]
        if self._bucket is None:
            self._bucket = self._all.enter_context(Bucket())
        names = self._bucket.names("")
        for folder, name in ((self.world.videos, "videos"), (clips, "clips")):
            if folder != Path() and not any(n.startswith(f"{name}/") for n in names):
                self._bucket.put(folder, name)
        return runs.jobs(self.world, self._bucket.uri("videos"), self._bucket.uri("clips"))[job]


def keep(folder: Path, results: list[Result]) -> list[Result]:
    """Put results to those of earlier runs in a folder; the last of each kind and job, in order."""
    path = folder / "results.json"
    earlier = json.loads(path.read_text()) if path.exists() else []
    earlier = [Result(**{**each, "problems": tuple(each["problems"])}) for each in earlier]
    known = {(result.kind, result.job): result for result in [*earlier, *results]}
    order = [*KINDS], ["prepare", "train", "predict"]
    last = sorted(known.values(), key=lambda r: (order[0].index(r.kind), order[1].index(r.job)))
    path.write_text(json.dumps([asdict(result) for result in last], indent=1))
    return last


def table(results: list[Result]) -> Table:
    """One row a kind, one column a job."""
    kinds, names = _axes(results)
    cells = {(r.kind, r.job): r for r in results}
    out = Table("fault", *names)
    for kind in kinds:
        out.add_row(KINDS[kind].what, *(_text(cells.get((kind, name))) for name in names))
    return out


def markdown(results: list[Result]) -> str:
    """The same for the docs."""
    kinds, names = _axes(results)
    cells = {(r.kind, r.job): r for r in results}
    lines = [f"| fault | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind in kinds:
        row = [KINDS[kind].what, *(_text(cells.get((kind, name))) for name in names)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _text(result: Result | None) -> str:
    return result.text if result else "not run"


def _axes(results: list[Result]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(r.kind for r in results)), list(dict.fromkeys(r.job for r in results))
