"""The FastAPI app in front of the models. It knows nothing of Ray; models are callables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Lifespan

import mmray
from mmray.serving import problems
from mmray.serving.limits import RequestLimits


class Limits(BaseModel):
    """What the service carries; everything beyond is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_upload_bytes: int = Field(default=50 << 20, gt=0)
    max_duration_s: float = Field(default=120, gt=0)
    max_requests: int = Field(default=16, gt=0)
    timeout_s: float = Field(default=50, gt=0)


class Health(BaseModel):
    """The service can answer."""

    status: Literal["ok"] = "ok"
    models: dict[str, str] = Field(description="state of each model", examples=[{"sound": "ok"}])


def create_api(
    limits: Limits,
    routers: Sequence[APIRouter],
    health: Callable[[], Awaitable[Mapping[str, str]]],
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The app: the routes of the models, the health check, limits, errors as problems.

    Args:
        limits: of every request.
        routers: the routes of each model.
        health: tells the state of each model; `ok` where it can answer.
        lifespan: what to do when the app starts and ends.
    """
    api = FastAPI(
        title="mmray",
        summary="Multimodal learning from media nobody labelled",
        version=mmray.__version__,
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(api)
    api.add_middleware(
        RequestLimits,
        max_body_bytes=limits.max_upload_bytes,
        max_requests=limits.max_requests,
        timeout_s=limits.timeout_s,
    )
    for routes in routers:
        api.include_router(routes)

    @api.get("/healthz", responses=problems.openapi_responses(503), tags=["service"])
    async def healthz() -> Health:
        """Tell whether every model can answer."""
        models = dict(await health())
        ill = [f"{name} is {state}" for name, state in models.items() if state != "ok"]
        if ill:
            raise HTTPException(503, "; ".join(ill))
        return Health(models=models)

    return api
