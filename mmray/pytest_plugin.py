"""pytest plugin: `ray.init(local_mode=True)` works in tests on every supported Ray.

Ray 2.54.1 is the last release that takes the argument. On newer ones, where Ray raises, this
plugin takes it: mmray's pipelines and trainers then run in the test's own process, and a
minimal Ray (one CPU, no dashboard) answers whatever else the test asks of Ray.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from types import ModuleType
from typing import Any

import pytest
import wrapt

from mmray import runtime


def pytest_configure(config: pytest.Config) -> None:
    """Wrap `ray.init` when, and only if, a test imports ray."""
    config.addinivalue_line("markers", "local_mode: runs under ray.init(local_mode=True)")
    wrapt.when_imported("ray")(_wrap)


def _wrap(ray: ModuleType) -> None:
    if hasattr(ray, "LOCAL_MODE") or hasattr(ray.init, "takes_local_mode"):
        return  # this Ray still has local mode, or it is wrapped already
    original_init, original_shutdown = ray.init, ray.shutdown

    @functools.wraps(original_init)
    def init(*args: Any, local_mode: bool = False, **kwargs: Any) -> Any:
        if not local_mode:
            return original_init(*args, **kwargs)
        _say_once()
        runtime.set_local_mode(True)
        if ray.is_initialized():
            return None
        # "local", or Ray would join whatever cluster runs on this machine.
        own = {} if args else {"address": "local"}
        kwargs = {**own, "num_cpus": 1, "include_dashboard": False, **kwargs}
        return original_init(*args, **kwargs)

    @functools.wraps(original_shutdown)
    def shutdown(*args: Any, **kwargs: Any) -> Any:
        runtime.set_local_mode(False)
        return original_shutdown(*args, **kwargs)

    init.takes_local_mode = True  # type: ignore[attr-defined]
    init.__signature__ = inspect.signature(original_init)  # type: ignore[attr-defined]
    ray.init, ray.shutdown = init, shutdown  # type: ignore[attr-defined]


@functools.cache
def _say_once() -> None:
    warnings.warn(
        "this Ray has no local mode: mmray runs its pipelines and trainers in this process, "
        "over a minimal Ray",
        stacklevel=4,
    )
