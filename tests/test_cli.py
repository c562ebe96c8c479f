from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmray import cli, runtime
from mmray.errors import MediaError, UserError

ROOT = Path(__file__).parent.parent
JOBS = sorted(p.name for p in (ROOT / "jobs").glob("*.py"))


@dataclass(kw_only=True)
class Args(cli.JobArgs):
    speed: float = 1.0


def test_common_flags() -> None:
    args = cli.parse(Args, ["--out", "x", "--local", "--limit", "3", "--speed", "2"], "doc")
    assert (args.out, args.local, args.limit, args.speed) == ("x", True, 3, 2.0)
    assert (args.seed, args.address, args.overwrite) == (0, None, False)


def test_an_open_cluster_is_allowed_by_its_flag_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.ALLOW_OPEN, "")
    cli.parse(Args, [], "doc")
    assert os.environ[runtime.ALLOW_OPEN] == ""
    cli.parse(Args, ["--allow-open-cluster"], "doc")
    assert os.environ[runtime.ALLOW_OPEN] == "1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (UserError("--data: no such folder"), 2),
        (MediaError("open", "is empty", "a.mp4"), 2),
        (cli.JobFailed("too many errors"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    error: BaseException | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        if error:
            raise error

    if code == 0:
        cli.run(main)
        return
    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_usage_errors_exit_with_2() -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.parse(Args, ["--nonsense"], "doc")
    assert exit_.value.code == 2


@pytest.mark.parametrize("job", JOBS)
def test_help_is_quick_and_light(job: str) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules), 'heavy import'\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "jobs" / job)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout or "soundnet" in done.stdout or "sounds" in done.stdout
    # Twice the promised 3 s, since other tests may run beside.
    assert time.monotonic() - start < 6


def test_names_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(UserError, match="is not UTF-8"):
        cli.parse(Args, ["--out", "a\udcff"], "doc")


@pytest.mark.parametrize(
    ("out", "warned"), [("runs/a", True), ("/data/a", False), ("s3://bucket/a", False)]
)
def test_a_submitted_job_says_that_relative_paths_do_not_last(
    out: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unpacked = tmp_path / "working_dir_files" / "_ray_pkg_0"
    unpacked.mkdir(parents=True)
    cli.parse(Args, ["--out", out], None)
    assert not caplog.text
    monkeypatch.chdir(unpacked)
    cli.parse(Args, ["--out", out], None)
    assert (f"--out {out}: a submitted job" in caplog.text) == warned
