"""The watcher for spot notices, with a metadata service of our own, alone and on a real Ray."""

from __future__ import annotations

import ast
import http.server
import itertools
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmray import spot
from tests.ray_nodes import Nodes, free_port

FILE = Path(spot.__file__)


class Metadata:
    """A metadata service that answers as AWS and GCP do.

    `answer` is status, body and delay in seconds of what tells about the end of the machine.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, bytes, float] = (404, b"", 0)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                allowed = (
                    self.path == "/latest/api/token"
                    and (self.headers["X-aws-ec2-metadata-token-ttl-seconds"])
                )
                self.reply(200 if allowed else 403, b"a-token")

            def do_GET(self) -> None:
                aws = self.path == "/latest/meta-data/spot/instance-action"
                gcp = self.path == "/computeMetadata/v1/instance/preempted"
                if aws and self.headers["X-aws-ec2-metadata-token"] != "a-token":
                    self.reply(401, b"")
                elif gcp and self.headers["Metadata-Flavor"] != "Google":
                    self.reply(403, b"")
                elif aws or gcp:
                    status, body, delay_s = service.answer
                    time.sleep(delay_s)
                    self.reply(status, body)
                else:
                    self.reply(404, b"")

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Whoever asked may have given up on a slow answer.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def aws_body(seconds: float) -> bytes:
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{end:%Y-%m-%dT%H:%M:%SZ}"}}'.encode()


@pytest.fixture(scope="module")
def metadata() -> Iterator[Metadata]:
    service = Metadata()
    yield service
    service.server.shutdown()


def test_aws_tells_the_end(metadata: Metadata) -> None:
    metadata.answer = (404, b"", 0)
    assert spot.aws_notice(metadata.url) is None
    metadata.answer = (200, aws_body(120), 0)
    assert spot.aws_notice(metadata.url) == pytest.approx(119.5, abs=2)


def test_gcp_tells_that_the_end_is_near(metadata: Metadata) -> None:
    metadata.answer = (200, b"FALSE\n", 0)
    assert spot.gcp_notice(metadata.url) is None
    metadata.answer = (200, b"TRUE\n", 0)
    assert spot.gcp_notice(metadata.url) == 30


def test_a_proxy_of_the_environment_is_not_asked(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    metadata.answer = (200, b"TRUE", 0)
    assert spot.gcp_notice(metadata.url) == 30


@settings(max_examples=25, deadline=None)
@given(body=st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
def test_garbage_is_no_notice(metadata: Metadata, body: bytes) -> None:
    assume(body.strip() not in (b"TRUE", b"FALSE"))  # Hypothesis tries words of the code too
    metadata.answer = (200, body, 0)
    for notice in spot.NOTICES.values():
        with pytest.raises(ValueError, match=r"."):
            notice(metadata.url)


@pytest.mark.parametrize("cloud", spot.NOTICES)
def test_no_fault_ends_the_watch_or_fills_the_log(
    cloud: str,
    metadata: Metadata,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(spot, "ANSWER_S", 0.5)
    quiet = (404, b"", 0.0) if cloud == "aws" else (200, b"FALSE", 0.0)
    faults = [quiet, (500, b"", 0.0), (200, b"<html>", 0.0), (200, b"\xff", 0.0)]
    notice = (200, aws_body(60) if cloud == "aws" else b"TRUE", 0.0)
    answers = itertools.chain(faults * 5, [(200, b"", 1.0)], itertools.repeat(notice))
    failures = iter([RuntimeError("no head"), ConnectionError("reset")])
    drained = []

    def ask() -> float | None:
        metadata.answer = next(answers)
        return spot.NOTICES[cloud](metadata.url)

    def drain(left_s: float) -> None:
        for failure in failures:
            raise failure
        drained.append(left_s)

    spot.watch(ask, drain, every_s=0)
    assert len(drained) == 1
    assert drained[0] > 20
    assert len(caplog.messages) <= 8, caplog.messages
    assert "no head" in caplog.text


def test_nobody_at_the_address_is_an_error_that_the_watch_survives() -> None:
    port = free_port()
    with pytest.raises(OSError, match="refused"):
        spot.aws_notice(f"http://127.0.0.1:{port}")


def test_the_file_stands_alone_and_its_help_needs_no_ray(tmp_path: Path) -> None:
    modules = [
        name
        for node in ast.walk(ast.parse(FILE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    roots = {str(name).split(".")[0] for name in modules}
    assert roots - set(sys.stdlib_module_names) == {"ray"}
    shutil.copy(FILE, tmp_path / "spot.py")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "spot.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "metadata service" in done.stdout
    assert " ray" not in done.stderr


DRIVER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)

def ip():
    return ray.util.get_node_ip_address()

@ray.remote(num_cpus=1, max_restarts=1, max_task_retries=-1)
class Actor:
    def ip(self):
        return ip()

actor, task = Actor.remote(), ray.remote(num_cpus=1)(ip)
for line in sys.stdin:
    print("at", *ray.get([actor.ip.remote(), task.remote()]), flush=True)
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("cloud", spot.NOTICES)
def test_a_notice_drains_the_node_and_its_work_moves(
    cloud: str, metadata: Metadata, tmp_path: Path
) -> None:
    metadata.answer = (404, b"", 0) if cloud == "aws" else (200, b"FALSE", 0)
    shutil.copy(FILE, tmp_path / "spot.py")
    with Nodes(include_dashboard=False) as nodes, (tmp_path / "log").open("w") as log:
        lost = nodes.add("127.0.0.2", num_cpus=2)
        watcher = subprocess.Popen(
            [
                sys.executable,
                "spot.py",
                cloud,
                f"--address={nodes.address}",
                "--every-s=0.2",
                "--node-ip=127.0.0.2",
                f"--metadata={metadata.url}",
            ],
            cwd=tmp_path,
            env=nodes.env,
            stdout=log,
            stderr=log,
        )
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, nodes.address],
            cwd=tmp_path,
            env=nodes.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def where() -> list[str]:
            """Where the actor is, and where a task runs now."""
            assert driver.stdin
            assert driver.stdout
            driver.stdin.write("\n")
            driver.stdin.flush()
            return next(line.split()[1:] for line in driver.stdout if line.startswith("at "))

        try:
            assert where() == ["127.0.0.2", "127.0.0.2"]
            assert watcher.poll() is None, (tmp_path / "log").read_text()
            metadata.answer = (200, aws_body(120) if cloud == "aws" else b"TRUE", 0)
            assert watcher.wait(30) == 0
            nodes.add("127.0.0.3", num_cpus=2)
            # The actor, which has work, may stay until the end; new work is for others.
            assert where() == ["127.0.0.2", "127.0.0.3"]
            nodes.kill(lost)
            assert where() == ["127.0.0.3", "127.0.0.3"]
        finally:
            watcher.kill()
            driver.kill()
            watcher.wait()
            driver.wait()
    told = (tmp_path / "log").read_text()
    assert "this machine ends in" in told
    assert told.count("\n") == 3, told
