"""Serve the trained models over HTTP, on this machine or on a running cluster.

    python -m mmray.serving                        # what serve_config.yaml says
    python -m mmray.serving --config mine.yaml
    python -m mmray.serving --available            # those of its models that are there already
    python -m mmray.serving --address auto         # on the Ray that runs here

Wrong settings and missing models are told before anything starts, which `serve run` does not
do. Ctrl-C ends the service.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mmray import cli, runtime
from mmray.errors import UserError
from mmray.serving import environment


@dataclass(kw_only=True)
class Args:
    """Flags of the service."""

    config: str = "serve_config.yaml"
    """Serve config file: models, limits, port."""
    available: bool = False
    """Leave out models that are missing, and say so; else a missing one is an error."""
    address: str | None = None
    """Ray cluster to serve on; default $RAY_ADDRESS, else a Ray of this process's own."""
    allow_open_cluster: bool = False
    """Use it although strangers can reach it: it asks for no token (docs/security.md)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is told to end."""
    args = cli.parse(Args, argv, __doc__)
    own_ray = not (args.address or os.environ.get("RAY_ADDRESS"))
    if own_ray:
        environment.apply()
        runtime.keep_to_this_machine()
    from mmray.serving.config import read_config
    from mmray.serving.deploy import deploy, leave_out_missing, locate

    config = read_config(args.config)
    if args.available:
        for left_out in leave_out_missing(config):
            cli.console.print(f"not served: {left_out}")
    locate(config)
    url = f"http://{config.http_options.host}:{config.http_options.port}"
    if own_ray:
        _check_port(config.http_options.host, config.http_options.port, args.config)
    started = time.monotonic()
    cli.console.print(f"starting {url} ...")
    runtime.init(address=args.address)
    stop = _stop_event()
    from ray import serve

    try:
        deploy(config, stop)
        if not stop.is_set():
            seconds = time.monotonic() - started
            cli.console.print(f"ready after {seconds:.0f} s: {url}   (Ctrl-C ends it)")
            stop.wait()
    finally:
        # Replicas finish what they are at. Other applications of a shared cluster stay.
        for application in config.applications:
            serve.delete(application.name)


def _check_port(host: str, port: int, config: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server does: a port that a connection has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise UserError(
                f"{config}: cannot listen on {host}:{port} ({e.strerror}); change http_options"
            ) from e


def _stop_event() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    cli.run(main)
