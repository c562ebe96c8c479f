"""Tells Ray when the cloud is about to take this machine away.

AWS and GCP announce the end of a spot machine in its metadata service, two minutes and half a
minute ahead. Ray does not look there. A node that is told to drain gets no more work, actors that
are lost with it start elsewhere without using up their restarts, and a training is told to write
a checkpoint in time (`ray.train.get_preemption_info`). Nodes have the packages of the lock file
but not mmray, so `cluster.yaml` copies this one file to each spot node and starts it:

    python spot.py aws --address $RAY_HEAD_IP:6379

AWS also recommends to rebalance, often long before or without an end. A node that drains does no
work and is paid for, so that is not heeded.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

METADATA = "http://169.254.169.254"  # of both clouds
GCP_NOTICE_S = 30.0
ANSWER_S = 2.0  # the service is on the same host and answers in milliseconds
GCS_S = 5.0

log = logging.getLogger("spot")
# A proxy that the environment names would ask another machine's metadata service.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def aws_notice(url: str = METADATA) -> float | None:
    """Seconds that this EC2 instance has left, or None while it may stay.

    Raises:
        OSError: the service does not answer.
        ValueError: its answer is not a notice.
    """
    # Each time a new token: it costs a millisecond, and there is none that could expire.
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(f"{url}/latest/api/token", ttl, "PUT")
    try:
        answer = _ask(
            f"{url}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}
        )
    except urllib.error.HTTPError as e:
        if e.code == 404:  # how the service says that there is no notice
            return None
        raise
    notice = json.loads(answer)
    if not isinstance(notice, dict) or not isinstance(notice.get("time"), str):
        raise ValueError(f"expected an action and its time, got {answer[:100]!r}")
    end = datetime.fromisoformat(notice["time"])
    return (end.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def gcp_notice(url: str = METADATA) -> float | None:
    """Seconds that this Compute Engine instance has left, or None while it may stay.

    Raises:
        OSError: the service does not answer.
        ValueError: its answer is neither TRUE nor FALSE.
    """
    answer = _ask(f"{url}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    if answer not in ("TRUE", "FALSE"):
        raise ValueError(f"expected TRUE or FALSE, got {answer[:100]!r}")
    return GCP_NOTICE_S if answer == "TRUE" else None


NOTICES = {"aws": aws_notice, "gcp": gcp_notice}


def watch(
    notice: Callable[[], float | None], drain: Callable[[float], object], every_s: float
) -> None:
    """Waits for a notice, drains, and returns.

    Nothing that either raises ends the wait: what fails is tried again after `every_s`, and each
    kind of failure is logged once, since this runs for weeks.
    """
    said: set[str] = set()

    def say(key: str, message: str) -> None:
        if key not in said:
            said.add(key)
            log.info(message)

    while True:
        try:
            left_s = notice()
            if left_s is not None:
                say("notice", f"this machine ends in {left_s:.0f} s; draining its Ray node")
                drain(max(left_s, 0.0))
                return
        except Exception as e:  # the answers of two services, or none
            say(type(e).__name__, f"{type(e).__name__}: {e}; trying on")
        time.sleep(every_s)


def nodes_at(address: str, ip: str) -> list[str]:
    """Ids (hex) of the living Ray nodes at an address.

    Args:
        address: HOST:PORT of the head.
        ip: the nodes' address, as Ray knows it.

    Raises:
        RuntimeError: there is none, or the head does not answer.
    """
    from ray.core.generated import gcs_pb2

    alive = cast(Any, gcs_pb2).GcsNodeInfo.ALIVE
    nodes = _head(address).get_all_node_info(timeout=GCS_S, state_filter=alive)
    found = [node_id.hex() for node_id, node in nodes.items() if node.node_manager_address == ip]
    if not found:
        raise RuntimeError(f"{address} knows no living Ray node at {ip}")
    return found


def drain_nodes(address: str, ip: str, left_s: float) -> None:
    """Tells the head that the nodes at `ip` end in `left_s` seconds.

    Raises:
        RuntimeError: the head does not answer, knows no such node, or refuses.
    """
    from ray.core.generated import autoscaler_pb2

    preemption = cast(Any, autoscaler_pb2).DRAIN_NODE_REASON_PREEMPTION
    end_ms = round((time.time() + left_s) * 1000)
    for node_id in nodes_at(address, ip):
        accepted, reason = _head(address).drain_node(
            node_id, preemption, "the cloud takes the spot machine back", end_ms, timeout=GCS_S
        )
        if not accepted:
            raise RuntimeError(f"{address} does not drain {node_id}: {reason}")
        log.info("node %s drains", node_id)


def _head(address: str) -> Any:
    """The head's store of all nodes.

    Ray has no public call for what its hidden command `ray drain-node` does, and that one would
    first start a driver to learn on which node it is.
    """
    from ray import _raylet

    return cast(Any, _raylet).GcsClient(address=address)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with _direct.open(request, timeout=ANSWER_S) as answer:
        return answer.read(4096).decode().strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Watches until the notice comes and the node drains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("cloud", choices=NOTICES)
    parser.add_argument("--address", required=True, help="HOST:PORT of the head")
    parser.add_argument("--node-ip", help="this node's address, where Ray was told another")
    parser.add_argument("--metadata", default=METADATA, help="the metadata service")
    parser.add_argument("--every-s", type=float, default=2.0, help="seconds between two looks")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)

    # Ray is loaded now, since on a busy machine that may take most of GCP's half minute. And a
    # wrong address shows in the log today, not on the day of the notice.
    from ray.util import get_node_ip_address

    ip = args.node_ip or get_node_ip_address(args.address)
    try:
        log.info("watching %s for node %s", args.cloud, ", ".join(nodes_at(args.address, ip)))
    except Exception as e:
        log.info("no notice can be passed on yet: %s", e)
    watch(
        lambda: NOTICES[args.cloud](args.metadata),
        lambda left_s: drain_nodes(args.address, ip, left_s),
        args.every_s,
    )


if __name__ == "__main__":
    main()
