"""Requests made up from the OpenAPI description, good and bad: none brings a 5xx."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

pytestmark = pytest.mark.cluster
EXAMPLES = 20
"""Requests of each mode to each route."""


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_brings_a_5xx(service: httpx.Client, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{service.base_url}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for operation in (result.ok() for result in schema.get_all_operations()):
        seen = statuses.setdefault(f"{operation.method} {operation.path}", set())
        _send(operation, mode, seen)
    assert len(statuses) >= 12
    assert {200} <= set().union(*statuses.values())
    if mode == GenerationMode.NEGATIVE:
        assert {422} <= set().union(*statuses.values())


def _send(operation: Any, mode: GenerationMode, seen: set[int]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        response = case.call(timeout=60)
        seen.add(response.status_code)
        assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text}"
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]

    try:
        send()
    except Exception as error:
        if "Unsatisfiable" not in type(error).__name__:  # a route without input
            raise
