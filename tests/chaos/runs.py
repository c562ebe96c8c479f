"""Runs of the real jobs: their commands, how far they are, and whether two came out the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.chaos.world import CLIP_S, FRAME_S, POISON, World

ROOT = Path(__file__).parent.parent.parent
STEPS = 330
HUNG_S = 300.0
"""A job without progress for so long hangs."""


@dataclass(frozen=True)
class Job:
    """One of the jobs.

    Args:
        name: of the column in the table.
        command: all but `--out` and `--address`.
        is_training: or else it makes a dataset.
    """

    name: str
    command: tuple[str, ...]
    is_training: bool = False


def jobs(world: World, source: str, clips: str) -> dict[str, Job]:
    """The three jobs.

    Args:
        world: what they work on.
        source: folder or URI of the videos.
        clips: folder or URI of a clip dataset, to train on.
    """
    pools = {"decoders": 4, "max-error-ratio": 0.5}
    prepare = {
        **{head: f"mmray:{net}" for head, net in world.teachers.items()},
        **{"clip-s": CLIP_S, "frame-s": FRAME_S, "min-clip-s": 0.5},
        **{"teachers": 2, **pools},
    }
    train = {
        **{"data": clips, "arch": "soundnet5", "crop-s": CLIP_S, "num-workers": 2},
        **{"steps": STEPS, "batch-size": 8, "warmup": 5, "max-failures": 100},
        **{"log-every": 1, "checkpoint-every": 5, "eval-every": STEPS // 3, "eval-limit": 16},
    }
    predict = {
        **{"model": world.net, "input": f"folder:{source}", "part-s": CLIP_S, "layer": "pool3"},
        **{"nets": 2, **pools},
    }
    return {
        "prepare": Job("prepare", ("prepare_videos.py", f"folder:{source}", *_flags(prepare))),
        "train": Job("train", ("distill_soundnet.py", *_flags(train)), is_training=True),
        "predict": Job("predict", ("predict.py", "sounds", *_flags(predict))),
    }


def _flags(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@dataclass
class Run:
    """A job that runs, in a process of its own that may be killed and started again.

    Args:
        job: which.
        out: folder or URI that it writes.
        address: of the cluster.
        log: file for what it prints.
        names: of the files below `out`; how the harness sees how far it is.
        total: what an undisturbed run comes to.
        most: that were seen to be done.
    """

    job: Job
    out: str
    address: str
    log: Path
    names: Callable[[], list[str]]
    total: int = 0
    most: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _seen: tuple[int, float] = field(default=(0, 0.0))

    def start(self) -> None:
        """Start it; once more, it goes on."""
        script, *flags = self.job.command
        command = [sys.executable, f"jobs/{script}", *flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--out", self.out, "--address", self.address],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self._seen = (-1, time.monotonic())

    def kill(self) -> bool:
        """SIGKILL its driver; whether it still ran."""
        assert self._process is not None
        ran = self._process.poll() is None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return ran

    def done(self) -> int:
        """How many of `total` are done: steps, or shards of both passes."""
        names = self.names()
        if self.job.is_training:
            steps = [re.match(r"checkpoints/step_(\d+)/state\.json", name) for name in names]
            return max((int(step[1]) for step in steps if step), default=0)
        return sum(bool(re.match(r"(\.work/split/)?part-", name)) for name in names)

    def code(self) -> int | None:
        """Its exit code; None while it runs.

        Raises:
            TimeoutError: it has made no progress for a long time.
        """
        assert self._process is not None
        code = self._process.poll()
        done = self.done()
        if done != self._seen[0]:
            self._seen = (done, time.monotonic())
        self.most = max(self.most, done)
        if code is None and time.monotonic() - self._seen[1] > HUNG_S:
            raise TimeoutError(f"hangs at {done} of {self.total}")
        return code


def differences(job: Job, undisturbed: Path, out: Path) -> list[str]:
    """How the results of two runs differ; none where they are the same."""
    if job.is_training:
        return _trainings(undisturbed, out)
    found = []
    for what, folder in (("rows", ""), ("errors", "errors")):
        one, two = (_read(root / folder) for root in (undisturbed, out))
        found += _tables(what, one, two)
    return found + _leftovers(out)


def poison_differences(undisturbed: Path, out: Path) -> list[str]:
    """As `differences`, where the poisoned files must be in the quarantine and nothing else."""
    rows, errors = _read(undisturbed), _read(undisturbed / "errors")
    others = _read(out / "errors")
    found = _tables("rows", rows.filter(pc.invert(_is_poison(rows))), _read(out))
    found += _tables("errors", errors, others.filter(pc.invert(_is_poison(others))))
    quarantined = others.filter(_is_poison(others)).to_pylist()
    wanted = {Path(uri).name for uri in rows.filter(_is_poison(rows))["uri"].to_pylist()}
    if missing := wanted - {Path(row["uri"]).name for row in quarantined}:
        found.append(f"not quarantined: {sorted(missing)}")
    if odd := {row["message"] for row in quarantined if "signal 9" not in row["message"]}:
        found.append(f"quarantined with another reason: {sorted(odd)}")
    return found + _leftovers(out)


def _is_poison(table: pa.Table) -> pa.Array:
    return pa.array([Path(uri).name.startswith(POISON) for uri in table["uri"].to_pylist()])


def _tables(what: str, one: pa.Table, two: pa.Table) -> list[str]:
    if one.equals(two):
        return []
    if one.schema != two.schema:
        return [f"{what}: other columns"]
    ids = [table["id"].to_pylist() for table in (one, two)]
    if ids[0] == ids[1]:
        wrong = [name for name in one.column_names if not one[name].equals(two[name])]
        return [f"{what}: other values in {', '.join(wrong)}"]
    lost, new = set(ids[0]) - set(ids[1]), set(ids[1]) - set(ids[0])
    double = len(ids[1]) - len(set(ids[1]))
    return [f"{what}: {len(lost)} lost, {len(new)} new, {double} double, or in another order"]


def _leftovers(out: Path) -> list[str]:
    """What the manifest does not know of."""
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    parts = list(out.glob("part-*.parquet"))
    there = {"rows": len(_read(out)), "errors": len(_read(out / "errors")), "shards": len(parts)}
    wrong = [
        f"{counts[name]} {name}, there are {n}" for name, n in there.items() if counts[name] != n
    ]
    known = {*parts, out / "errors", out / "manifest.json", *(out / "errors").glob("*.parquet")}
    stray = {path for folder in (out, out / "errors") for path in folder.iterdir()} - known
    return [f"its manifest counts {w}" for w in wrong] + [f"left over: {p.name}" for p in stray]


def _read(folder: Path) -> pa.Table:
    """All rows of a folder of Parquet files; those of the quarantine by their id."""
    names = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(name) for name in names]).combine_chunks()
    return table.sort_by("id") if folder.name == "errors" else table


def _trainings(undisturbed: Path, out: Path) -> list[str]:
    from safetensors.numpy import load_file

    from mmray.training.checkpoint import Checkpoints

    states = [Checkpoints(str(folder)).newest() for folder in (undisturbed, out)]
    if any(state is None or state.step != STEPS for state in states):
        return ["has not come to its end"]
    losses, others = (np.array(state.losses) for state in states if state is not None)
    found = []
    if len(losses) != len(others) or not np.array_equal(losses, others):
        first = int(np.argmax(losses[: len(others)] != others[: len(losses)]))
        worst = np.abs(losses[: len(others)] - others[: len(losses)]).max()
        found.append(f"losses differ from step {first + 1} on, by up to {worst:.2g}")
    nets = [load_file(folder / "model" / "model.safetensors") for folder in (undisturbed, out)]
    if wrong := [k for k in nets[0] if not np.array_equal(nets[0][k], nets[1][k])]:
        worst = max(float(np.abs(nets[0][k] - nets[1][k]).max()) for k in wrong)
        found.append(f"weights differ by up to {worst:.2g}")
    return found


def names_below(folder: Path) -> list[str]:
    """Files of a job's folder that show how far it is."""
    return [
        os.path.relpath(path, folder)
        for pattern in (".work/split/part-*", "part-*.parquet", "checkpoints/step_*/state.json")
        for path in folder.glob(pattern)
    ]
