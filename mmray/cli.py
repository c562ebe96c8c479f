"""What all jobs share on the command line: common flags, exit codes, the console.

A job is a dataclass of arguments and a `main(argv) -> result`; `python jobs/NAME.py` ends with
`cli.run(main)`. Exit codes: 0 done, 2 user error (one line on stderr), 1 failure.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import tyro
from rich.console import Console

from mmray.errors import UserError
from mmray.runtime import ALLOW_OPEN, is_upload
from mmray.storage import is_remote, local_path

logger = logging.getLogger(__name__)

# A file where a folder is wanted, a folder that may not be written: the user's, with the path.
WRONG_PATHS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# Without emoji: a folder may be called :one:.
console = Console(highlight=False, soft_wrap=True, emoji=False)
Args = TypeVar("Args")


@dataclass(kw_only=True)
class JobArgs:
    """Flags that every job has."""

    out: str = ""
    """Folder (or URI) that the job writes; default runs/NAME."""
    seed: int = 0
    """Seed of everything random."""
    limit: int | None = None
    """Use only the first N items."""
    address: str | None = None
    """Ray cluster to use; default $RAY_ADDRESS, else a Ray of this job's own."""
    allow_open_cluster: bool = False
    """Use it although strangers can reach it: it asks for no token (docs/security.md)."""
    local: bool = False
    """Run in this one process, without Ray (for debugging)."""
    overwrite: bool = False
    """Start afresh; without it, the same command resumes."""


class JobFailed(RuntimeError):
    """A job that ran but did not succeed; the message is for the user, exit code 1."""


def parse(args_type: type[Args], argv: Sequence[str] | None, doc: str | None) -> Args:
    """Parse a command line into `args_type`; usage errors end the process with 2."""
    args = tyro.cli(
        args_type,
        args=_words(argv),
        description=doc,
        # `--local`, not `--local/--no-local`: every flag here is off by default or says otherwise.
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return _checked(args)


def parse_subcommand(
    subcommands: Mapping[str, Callable[..., Args]], argv: Sequence[str] | None, doc: str | None
) -> Args:
    """As `parse`, for jobs of several subcommands, each with flags of its own."""
    args = tyro.extras.subcommand_cli_from_dict(
        dict(subcommands),
        args=_words(argv),
        description=doc,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return _checked(args)


def _words(argv: Sequence[str] | None) -> list[str]:
    words = sys.argv[1:] if argv is None else list(argv)
    for word in words:
        if word != word.encode("utf-8", "replace").decode():
            raise UserError(
                f"{_readable(word)}: is not UTF-8, which Parquet and JSON cannot hold; rename the "
                "folder, or name one above it"
            )
    return words


def _checked(args: Args) -> Args:
    if getattr(args, "allow_open_cluster", False):
        os.environ[ALLOW_OPEN] = "1"  # also for what a job starts
    if isinstance(args, JobArgs):
        if is_upload() and not (is_remote(args.out) or local_path(args.out).is_absolute()):
            logger.warning(
                "--out %s: a submitted job runs in a copy of the upload on one node, which Ray "
                "removes; name a bucket, or a folder that all nodes see",
                args.out,
            )
        if not 0 <= args.seed < 2**63:
            raise UserError(f"--seed {args.seed}: expected 0 or more")
        if args.limit is not None and args.limit < 1:
            raise UserError(f"--limit {args.limit}: expected 1 or more")
    return args


def _readable(text: object) -> str:
    """Text that any terminal takes: a file's name may hold bytes that are no characters."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def run(main: Callable[[], Any]) -> None:
    """Run a job's `main` as a script and exit with the code of its outcome."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    error = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    try:
        main()
    except (UserError, *WRONG_PATHS) as e:
        error.print(f"error: {_readable(e)}", style="red", markup=False)
        sys.exit(2)
    except JobFailed as e:
        error.print(f"failed: {_readable(e)}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        error.print("stopped; the same command resumes", style="yellow")
        sys.exit(130)
