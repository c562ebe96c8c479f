"""Whether strangers get into a running Ray, found out by knocking as one of them: without a token.

Whoever reaches a port of a Ray that asks for no token runs code in it. What a cluster was meant
to be says little here: `--node-ip-address=127.0.0.1` has Ray listen on all addresses of a machine
that has a network, and the environment of a job need not be that of the cluster.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Any

import grpc
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from mmray.errors import UserError

# Made by a compiler that writes no types.
messages: Any = gcs_service_pb2
services: Any = gcs_service_pb2_grpc
ALIVE: int = gcs_pb2.GcsNodeInfo.ALIVE  # type: ignore[attr-defined]

ANSWER_S = 10.0
"""Longest wait for the head's first answer."""
CONNECT_S = 2.0


@dataclass(frozen=True)
class Cluster:
    """What a running Ray told to somebody without a token.

    Args:
        gcs: HOST:PORT of the head's control service.
        token: it asks for a token, and told nothing. All of a cluster does or nothing of it:
            a node or a dashboard without the token could not speak to the head.
        tls: its gRPC ports ask for a certificate, which leaves the dashboard, which is HTTP.
        nodes: HOST:PORT of every node that is alive.
        dashboard: HOST:PORT, or "" without one.
    """

    gcs: str
    token: bool = False
    tls: bool = False
    nodes: tuple[str, ...] = ()
    dashboard: str = ""

    def open_doors(self) -> list[str]:
        """What takes orders from other machines without a token, as `NAME HOST:PORT`.

        A loopback address is no proof that it does not: servers on all addresses are known by it
        too. But a cluster whose head has one is on this machine, so this machine's own address
        in the network tells.
        """
        doors = {} if self.tls else {self.gcs: "head"} | dict.fromkeys(self.nodes, "node")
        if self.dashboard:
            doors[self.dashboard] = "dashboard"
        own = own_address() if _is_loopback(self.gcs) else ""
        found = []
        for door, name in ({} if self.token else doors).items():
            port = door.rpartition(":")[2]
            if not _is_loopback(door):
                found.append(f"{name} {door}")
            elif own and _listens(own, int(port)):
                found.append(f"{name} {own}:{port}")
        return found


def find(address: str, name: str) -> Cluster:
    """Ask the Ray at `address` as a stranger would.

    Args:
        address: HOST:PORT, or `auto` for the Ray that runs on this machine.
        name: what the address is called in messages.

    Raises:
        UserError: it is no address of a head, or nothing answers there.
    """
    try:
        gcs = canonicalize_bootstrap_address(address)
    except ValueError:
        raise UserError(
            f"{name}: expected HOST:PORT of a head, as `ray start --head` prints it, or auto; to "
            "send a job to a cluster from outside use `ray job submit`"
        ) from None
    if gcs is None:
        raise UserError(f"{name}: no Ray runs on this machine; leave it out for one of the job's")
    tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        with _channel(gcs, tls) as channel:
            return Cluster(gcs, tls=tls, nodes=_nodes(channel), dashboard=_dashboard(channel))
    except grpc.RpcError as e:
        if e.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return Cluster(gcs, tls=tls, token=True)
        raise UserError(f"{name}: no Ray answers at {gcs} ({e.code().name}); is it up?") from None


def _channel(gcs: str, tls: bool) -> grpc.Channel:
    """Ray's own channels would bring the token of this user."""
    if not tls:
        return grpc.insecure_channel(gcs, [("grpc.enable_http_proxy", 0)])
    from ray._common.tls_utils import load_certs_from_env

    certificate, key, authority = load_certs_from_env()
    return grpc.secure_channel(gcs, grpc.ssl_channel_credentials(authority, key, certificate))


def _nodes(channel: grpc.Channel) -> tuple[str, ...]:
    request = messages.GetAllNodeInfoRequest(state_filter=ALIVE)
    ask = services.NodeInfoGcsServiceStub(channel).GetAllNodeInfo
    nodes = ask(request, timeout=ANSWER_S, wait_for_ready=True).node_info_list
    return tuple(_join(node.node_manager_address, node.node_manager_port) for node in nodes)


def _dashboard(channel: grpc.Channel) -> str:
    request = messages.InternalKVGetRequest(key=b"dashboard", namespace=b"dashboard")
    ask = services.InternalKVGcsServiceStub(channel).InternalKVGet
    found: bytes = ask(request, timeout=ANSWER_S).value
    return found.decode()


def own_address() -> str:
    """This machine's address in its network; "" without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # an address of nobody; nothing is sent
        except OSError:
            return ""
        own: str = probe.getsockname()[0]
        return "" if ipaddress.ip_address(own).is_loopback else own


def _is_loopback(door: str) -> bool:
    host = door.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_S):
            return True
    except OSError:
        return False


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
