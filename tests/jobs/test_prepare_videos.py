"""The job as its user runs it: a process with a command line, which may be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor

ROOT = Path(__file__).parent.parent.parent


def command(world: Path, teacher: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "jobs/prepare_videos.py", f"toy:{world}", "--out", str(out)),
        *("--objects", f"mmray:{teacher}", "--scenes", "none", "--max-error-ratio", "0.6"),
        *("--clip-s", "4", "--frame-s", "4", *more),
    ]


def content(out: Path) -> dict[str, tuple]:
    """All rows of a dataset by id; fails when an id appears twice."""
    table = Dataset(str(out)).read(["id", "uri", "start_s", "duration_s", "audio", "objects"])
    rows = table.drop_columns(["objects"]).to_pylist()
    objects = tensor(table["objects"])
    found = {r["id"]: (*r.values(), o.tobytes()) for r, o in zip(rows, objects, strict=True)}
    assert len(found) == len(rows), "a row is there twice"
    return found


def quarantine(out: Path) -> list[tuple]:
    rows = Dataset(str(out)).errors().to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def kill_when(ready: Callable[[], bool], args: list[str], log: Path) -> None:
    """Start the job and `kill -9` it once `ready()`."""
    with log.open("wb") as output:
        job = subprocess.Popen(args, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    while job.poll() is None and not ready():
        time.sleep(0.01)
    job.kill()
    assert job.wait() == -signal.SIGKILL, f"ended before it was killed: {log.read_text()}"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("mode", ["cluster", "local"])
def test_killed_at_five_moments_gives_the_same_rows(
    small_world: Path, random_teacher: Path, tmp_path: Path, mode: str
) -> None:
    more = ["--local"] if mode == "local" else []
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    subprocess.run(command(small_world, random_teacher, undisturbed, *more), cwd=ROOT, check=True)
    total = len(list(undisturbed.glob("part-*.parquet")))
    assert total >= 5

    def parts() -> int:
        return len(list(disturbed.glob("part-*.parquet")))

    moments: list[Callable[[], bool]] = [
        lambda: (disturbed / ".work").exists(),
        lambda: (disturbed / ".work" / "items" / "index.json").exists(),
        lambda: parts() >= 1,
        lambda: parts() >= total // 2,
        lambda: parts() >= total - 2,
    ]
    args = command(small_world, random_teacher, disturbed, *more)
    for i, moment in enumerate(moments):
        kill_when(moment, args, tmp_path / f"killed-{i}.log")
    subprocess.run(args, cwd=ROOT, check=True)
    assert content(disturbed) == content(undisturbed)
    assert quarantine(disturbed) == quarantine(undisturbed)
    assert not list(disturbed.rglob("*.tmp"))


def test_bad_commands_end_with_one_line_and_2(tmp_path: Path) -> None:
    for args in (["folder:/no/such/folder"], ["toy", "--objects", "clip_vit"], ["what:x"]):
        done = subprocess.run(
            [
                sys.executable,
                "jobs/prepare_videos.py",
                *args,
                "--local",
                "--out",
                str(tmp_path / "x"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("error: ")


def test_main_is_importable(
    small_world: Path,
    random_teacher: Path,
    tmp_path: Path,
    local_mode: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from jobs import prepare_videos

    args = command(small_world, random_teacher, tmp_path / "clips", "--local", "--limit", "6")
    result = prepare_videos.main(args[2:])
    assert result.rows == Dataset(str(tmp_path / "clips")).num_rows
    table = pq.read_table(next((tmp_path / "clips").glob("part-*.parquet")))
    assert "objects" in table.column_names
    # The same folder by another name is the same source.
    monkeypatch.chdir(small_world.parent)
    assert prepare_videos.main([f"toy:{small_world.name}", *args[3:]]) == result
    assert "clips is complete: 6 videos; the source was not looked at" in capsys.readouterr().out


def test_estimate_prints_and_writes_numbers_and_touches_nothing_else(
    small_world: Path, random_teacher: Path, tmp_path: Path
) -> None:
    from jobs import prepare_videos

    out, numbers = tmp_path / "clips", tmp_path / "numbers.json"
    args = command(small_world, random_teacher, out, "--estimate", "--items", "2000000")
    found = prepare_videos.main([*args[2:], "--sample", "4", "--json", str(numbers)])
    assert found.items == 2_000_000
    assert len(found.sample.videos) == 4
    assert json.loads(numbers.read_text()) == found.metrics
    assert not out.exists()


def test_flags_of_the_estimate_are_not_ignored_without_it(tmp_path: Path) -> None:
    from jobs import prepare_videos

    more = ["--within-hours", "12", "--json", "x.json"]
    with pytest.raises(UserError, match="--json, --within-hours: has no effect without --estimate"):
        prepare_videos.main([f"folder:{tmp_path}", "--out", str(tmp_path / "clips"), *more])


@pytest.mark.parametrize("name", ["", "missing/x.json"])
def test_a_place_for_the_numbers_is_looked_at_first(tmp_path: Path, name: str) -> None:
    from jobs import prepare_videos

    with pytest.raises(UserError, match=r"--json .*: expected a file, in a folder that is there"):
        prepare_videos.main(["folder:missing", "--estimate", "--json", str(tmp_path / name)])
