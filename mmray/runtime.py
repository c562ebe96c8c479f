"""Connecting to Ray, or doing without: local mode runs everything in this one process."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from mmray.errors import UserError

ALLOW_OPEN = "MMRAY_ALLOW_OPEN_CLUSTER"
"""Set to 1, by `--allow-open-cluster` too, jobs use a Ray that strangers get into as well."""
SAFE_RAY = (2, 56)
"""Ray Data of releases before has pyarrow unpickle what Parquet files name (CVE-2026-41486)."""
_local_mode = False


def init(local_mode: bool = False, address: str | None = None, **options: Any) -> None:
    """Connect to Ray, once; later calls do nothing.

    Args:
        local_mode: run every pipeline and trainer in this process, without a cluster, so that
            a breakpoint anywhere works. Nothing of Ray is started. Once on, it stays on, so
            that a job called in such a process does not leave it.
        address: of a running cluster; default `$RAY_ADDRESS`, else a Ray of this process's own.
        options: passed to `ray.init`.

    Raises:
        UserError: Ray is too old; no cluster is at `address`; its token is missing; or it takes
            orders from other machines without one and `$MMRAY_ALLOW_OPEN_CLUSTER` is not 1.
    """
    if local_mode:
        set_local_mode(True)
    if is_local():
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where == "local":
        keep_to_this_machine()
    # Of Ray's own chatter on the driver's terminal only what stops the job; files have the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    if tuple(map(int, ray.__version__.split(".")[:2])) < SAFE_RAY:
        raise UserError(
            f"Ray {ray.__version__} runs code that a Parquet file brings; its local mode alone may "
            f"be used (--local). Install {'.'.join(map(str, SAFE_RAY))} or later"
        )
    options = {"log_to_driver": False, "logging_level": logging.WARNING, **options}
    if where == "local":  # said aloud, or Ray would join whatever cluster it finds on this machine
        ray.init(**{"address": "local", "include_dashboard": False, **options})
    else:
        _join(where, f"--address {where}" if address else f"RAY_ADDRESS={where}", options)


def keep_to_this_machine() -> None:
    """Have the Ray that this process starts ask for a token, and listen on loopback alone.

    Does nothing once Ray is imported, which is when it reads both: set later, its servers would
    ask for a token that its client lacks.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Named after the systems where loopback is Ray's default.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _join(address: str, name: str, options: dict[str, Any]) -> None:
    """Connect to the running Ray at `address`, which messages call `name`."""
    import ray
    from ray.exceptions import AuthenticationError

    from mmray import exposure

    cluster = exposure.find(address, name)
    doors = cluster.open_doors()
    if doors and os.environ.get(ALLOW_OPEN) != "1":
        more = f" and {len(doors) - 3} more" if len(doors) > 3 else ""
        raise UserError(
            f"{name}: this Ray asks nobody for a token, and whoever reaches {', '.join(doors[:3])}"
            f"{more} runs code on it; make one token (`ray get-auth-token --generate`), copy its "
            "file ~/.ray/auth_token to every node and start Ray there with RAY_AUTH_MODE=token "
            "(docs/security.md), or, where only people you trust get there, say "
            f"--allow-open-cluster or {ALLOW_OPEN}=1"
        )
    _use_token(cluster.token)
    try:
        ray.init(address=address, **options)
    except (AuthenticationError, ConnectionError) as e:
        token = "it asks for a token, and the one in ~/.ray/auth_token, $RAY_AUTH_TOKEN or "
        token += "$RAY_AUTH_TOKEN_PATH is missing or another; copy that of its head"
        raise UserError(f"{name}: {token if cluster.token else e}") from e


def _use_token(on: bool) -> None:
    """Speak as the cluster does: a driver in the other mode sees its actors die, without a word."""
    if on and os.environ.get("RAY_AUTH_MODE", "disabled") != "disabled":
        return  # there are other ways than `token` to ask for one
    import ray

    raylet: Any = ray._raylet
    os.environ["RAY_AUTH_MODE"] = "token" if on else "disabled"
    raylet.Config.initialize("")  # what Ray itself does after such a change


def set_local_mode(on: bool) -> None:
    """Switch local mode on or off for what runs next in this process."""
    global _local_mode
    _local_mode = on


def is_upload() -> bool:
    """Whether this is a submitted job, in what Ray has unpacked of `--working-dir`."""
    return "working_dir_files" in Path.cwd().parts


def is_local() -> bool:
    """Whether pipelines and trainers run in this process.

    True after `mmray.init(local_mode=True)`, and after `ray.init(local_mode=True)` on a Ray that
    still has it (2.54.1 and older) or under pytest with mmray's plugin.
    """
    if _local_mode:
        return True
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    mode = getattr(ray, "LOCAL_MODE", None)
    return mode is not None and ray._private.worker.global_worker.mode == mode
