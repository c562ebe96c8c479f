"""Connecting to Ray, or doing without: local mode runs everything in this one process."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

_local_mode = False


def init(local_mode: bool = False, address: str | None = None, **options: Any) -> None:
    """Connect to Ray, once; later calls do nothing.

    Args:
        local_mode: run every pipeline and trainer in this process, without a cluster, so that
            a breakpoint anywhere works. Nothing of Ray is started. Once on, it stays on, so
            that a job called in such a process does not leave it.
        address: of a running cluster; default `$RAY_ADDRESS`, else a Ray of this process's own.
        options: passed to `ray.init`.
    """
    if local_mode:
        set_local_mode(True)
    if is_local():
        return
    # Without a token, anybody who reaches the ports of a Ray may run code in it. Ray reads this
    # when it is imported: set later, its servers would ask for a token that its client lacks.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Of Ray's own chatter on the driver's terminal only what stops the job; files have the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    options = {"log_to_driver": False, "logging_level": logging.WARNING, **options}
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **options)
    else:  # "local", or Ray would join whatever cluster it finds on this machine
        ray.init(**{"address": "local", "include_dashboard": False, **options})


def set_local_mode(on: bool) -> None:
    """Switch local mode on or off for what runs next in this process."""
    global _local_mode
    _local_mode = on


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
