"""`GET /models`: what is served, how good it is, and how it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from mmray.serving.clients import ModelClient
from mmray.serving.problems import openapi_responses
from mmray.serving.reports import address_of


class State(BaseModel):
    """How a deployment is."""

    state: str = Field(description="ok, or what Serve calls it", examples=["ok"])
    replicas: int = Field(description="processes that can answer", examples=[1])


class ModelSummary(State):
    """One model. Figures of requests are of this entry's process, since it started."""

    name: str = Field(examples=["tags"])
    source: str = Field(description="where it came from", examples=["models:/mmray-joint/3"])
    kind: str | None = Field(default=None, examples=["joint"])
    version: str | None = Field(
        default=None, description="start of the weights' hash", examples=["1a2b3c4d5e6f"]
    )
    device: str | None = Field(default=None, examples=["cpu"])
    metrics: dict[str, float] = Field(default={}, description="on held-out data, of the training")
    details: dict[str, Any] = Field(default={}, description="what it knows")
    loaded_s: float | None = Field(default=None, description="seconds to load and warm up")
    requests: int = Field(description="answered or refused")
    latency_ms: dict[str, float] | None = Field(
        description="p50, p95 and p99 of the last 1,000, uploads not counted"
    )
    batch_size: float | None = Field(default=None, description="mean of the last 1,000 batches")
    report: str | None = Field(
        default=None, description="path of the page of what it learned", examples=["/reports/joint"]
    )


class Summary(BaseModel):
    """Everything that is served."""

    models: list[ModelSummary]


def routes(
    clients: Sequence[ModelClient],
    sources: Mapping[str, str],
    states: Callable[[], Awaitable[Mapping[str, State]]],
    reports: str | None = None,
) -> APIRouter:
    """The route.

    Args:
        clients: of the models.
        sources: where each came from.
        states: tells how each is.
        reports: folder of the pages of what they learned.
    """
    models = APIRouter(tags=["service"])

    async def summary(client: ModelClient, state: State) -> ModelSummary:
        try:
            known = await client.description()
        except HTTPException:
            told: dict[str, Any] = {}  # the state says it
        else:
            told = {
                "kind": known.about.kind,
                "version": known.about.fingerprint[:12],
                "device": known.about.device,
                "metrics": known.metrics,
                "details": known.about.details,
                "loaded_s": known.loaded_s,
                "batch_size": known.batch_size,
                "report": await asyncio.to_thread(address_of, reports, known.about.kind),
            }
        return ModelSummary(
            **state.model_dump(),
            name=client.name,
            source=sources[client.name],
            requests=client.requests,
            latency_ms=client.latency_ms(),
            **told,
        )

    @models.get("/models", responses=openapi_responses(401, 421, 429, 503))
    async def summaries() -> Summary:
        """Tell what is served: versions, metrics of the training, latencies, sizes of batches."""
        found = await states()
        return Summary(models=await asyncio.gather(*(summary(c, found[c.name]) for c in clients)))

    return models
