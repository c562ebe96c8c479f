"""Connecting to Ray, or doing without: local mode runs everything in this one process."""

from __future__ import annotations

import os
from typing import Any

_local_mode = False


def init(local_mode: bool = False, address: str | None = None, **options: Any) -> None:
    """Connect to Ray, once; later calls with the same mode do nothing.

    Args:
        local_mode: run every pipeline and trainer in this process, without a cluster, so that
            a breakpoint anywhere works. Nothing of Ray is started.
        address: of a running cluster; default `$RAY_ADDRESS`, else a Ray of this process's own.
        options: passed to `ray.init`.
    """
    set_local_mode(local_mode)
    if local_mode:
        return
    import ray

    if ray.is_initialized():
        return
    # Workers inherit this: a progress bar a worker is noise in a log.
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, **options)
        return
    ray.init(
        include_dashboard=options.pop("include_dashboard", False),
        log_to_driver=options.pop("log_to_driver", False),
        **options,
    )


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
    import sys

    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    mode = getattr(ray, "LOCAL_MODE", None)
    return mode is not None and ray._private.worker.global_worker.mode == mode
