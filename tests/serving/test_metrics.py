"""What operators see of a running service: Prometheus metrics and the log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from tests.serving.models import picture

pytestmark = pytest.mark.cluster
# By Serve's own means: latency, batches and queues of each model.
METRICS = [
    "ray_serve_deployment_processing_latency_ms_bucket",
    "ray_serve_actual_batch_size_bucket",
    "ray_serve_batch_execution_time_ms_bucket",
    "ray_serve_batch_queue_length",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_request_counter_total",
    "ray_serve_replica_processing_queries",
]


def scraped() -> str:
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return httpx.get(address, timeout=30).text


def test_prometheus_sees_latencies_batches_and_queues_of_each_model(service: httpx.Client) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert service.post("/caption", files={"file": picture()}).status_code == 200
        lines = scraped().splitlines()
        ours = {name: [x for x in lines if x.startswith(f"{name}{{")] for name in METRICS}
        missing = [name for name, found in ours.items() if "CaptionModel" not in "".join(found)]
        if not missing:
            return
        assert time.monotonic() < deadline, missing  # metrics come every ten seconds
        time.sleep(2)


def test_a_request_is_one_line_of_the_log_with_its_id(service: httpx.Client) -> None:
    answer = service.post(
        "/tags", files={"file": picture()}, headers={"X-Request-ID": "test-of-the-log"}
    )
    assert answer.headers.get_list("x-request-id") == ["test-of-the-log"]
    other = service.get("/healthz").headers["x-request-id"]
    assert other != service.get("/healthz").headers["x-request-id"]
    lines = wait_for_lines("test-of-the-log")
    (line,) = [x for x in lines if x["message"].startswith("POST '/tags'")]
    assert line["request_id"] == "test-of-the-log"
    assert line["status"] == 200
    assert line["bytes_in"] > len(picture())
    assert line["bytes_out"] == len(answer.content)
    assert 0 < line["ms"] < 60_000
    assert line["key"] is None


def wait_for_lines(request_id: str) -> list[dict[str, Any]]:
    """Lines of the log that name a request, once there are some; logs are written in blocks."""
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs/serve"
    deadline = time.monotonic() + 60
    while True:
        texts = [file.read_text() for file in logs.glob("replica_mmray_Api_*.log")]
        found = [json.loads(x) for text in texts for x in text.splitlines() if request_id in x]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(1)
