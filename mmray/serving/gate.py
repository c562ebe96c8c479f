"""Who may ask: keys and their rate, names of this host, and pages of other hosts."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mmray.errors import UserError
from mmray.serving.problems import problem

OPEN = re.compile(r"/(|healthz|docs(/.*)?|openapi\.json|page/.*|examples(/.*)?)")
"""Paths that need no key: they tell what everybody may know, and load balancers ask them."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MIN_KEY = 16


class Access(BaseModel):
    """Who may ask what and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: str | None = Field(
        default=None, description="file of API keys, a line each: NAME KEY; null asks for none"
    )
    requests_per_minute: int = Field(default=600, gt=0, description="of each key")
    hosts: list[str] | None = Field(
        default=None,
        description="names by which clients may call this host; null: where no key is asked for "
        "only localhost, else any",
    )
    origins: list[str] = Field(
        default=[], description="origins of other hosts' web pages that may call (CORS)"
    )


def read_keys(path: str | Path) -> dict[str, str]:
    """Names of the API keys in a file, by the hash of the key.

    Raises:
        UserError: it cannot be read, has no key, or a line that is not a name and a key.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeError) as e:
        raise UserError(f"{path}: cannot be read ({e}); expected lines of NAME KEY") from e
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < MIN_KEY or not words[1].isascii():
            raise UserError(
                f"{path}: line {number}: expected NAME KEY, the key of {MIN_KEY} letters and "
                "digits or more; `openssl rand -hex 24` makes one"
            )
        keys[_hash(words[1])] = words[0]
    if not keys:
        raise UserError(f"{path}: has no key; expected lines of NAME KEY")
    return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str | None, access: Access) -> None:
    """Refuse to serve whoever comes.

    Raises:
        UserError: other machines can reach `host`, and no key is asked for.
    """
    if not access.keys and not is_loopback("localhost" if host is None else host):
        raise UserError(
            f"http_options.host is {host}, which other machines can reach, and no API key is asked "
            "for: set args.access.keys to a file of keys, or host to 127.0.0.1"
        )


class Gate:
    """ASGI middleware that lets in who may ask.

    Args:
        access: the rules.
        keys: names of the keys by their hash, as `read_keys` gives them; none: no key is asked for.
    """

    def __init__(self, app: ASGIApp, *, access: Access, keys: Mapping[str, str]) -> None:
        self.app = app
        self.keys = keys
        self.origins = set(access.origins)
        # Without a key, the name in the request keeps out web pages of other hosts that make
        # their own name mean this machine (DNS rebinding).
        hosts = access.hosts or (None if keys else LOOPBACK_NAMES)
        self.hosts = hosts and {name.lower().strip("[]") for name in hosts}
        self.rate = RateLimitItemPerMinute(access.requests_per_minute)
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or not."""
        refused = await self._refused(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    async def _refused(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if self.hosts is not None and _host(headers) not in self.hosts:
            return problem(421, "this service is not known by that name; see args.access.hosts")
        if self._is_foreign(headers, scope["method"]):
            return problem(403, "web pages of other hosts may not call; see args.access.origins")
        if not self.keys or OPEN.fullmatch(scope["path"]):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        name = self.keys.get(_hash(key.strip())) if scheme.lower() == "bearer" else None
        if name is None:
            what = "is not known" if key else "is missing; send it as Authorization: Bearer KEY"
            return problem(401, f"the API key {what}", headers={"WWW-Authenticate": "Bearer"})
        scope["state"] = {**scope.get("state", {}), "key": name}
        return await self._too_often(name)

    def _is_foreign(self, headers: Headers, method: str) -> bool:
        """Whether a browser says that a page of another host asks."""
        site = headers.get("sec-fetch-site", "none")
        is_page = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        return (
            site not in ("same-origin", "none")
            and not is_page
            and headers.get("origin") not in self.origins
        )

    async def _too_often(self, name: str) -> ASGIApp | None:
        if await self.limiter.hit(self.rate, name):
            return None
        window = await self.limiter.get_window_stats(self.rate, name)
        wait = max(1, math.ceil(window.reset_time - time.time()))
        return problem(
            429,
            f"more than {self.rate.amount} requests a minute with the key of {name}",
            headers={"Retry-After": str(wait)},
        )


def _host(headers: Headers) -> str:
    """The name in the header Host, without a port."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and ":" in host else host


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
