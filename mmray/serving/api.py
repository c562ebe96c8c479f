"""The FastAPI app in front of the models. It knows nothing of Ray; models are callables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from fastapi import APIRouter, FastAPI, HTTPException, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Lifespan

import mmray
from mmray.serving import problems, web
from mmray.serving.gate import Access, Gate
from mmray.serving.limits import RequestLimits
from mmray.serving.log import RequestLog
from mmray.serving.summary import State


class Limits(BaseModel):
    """What the service carries; everything beyond is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_upload_bytes: int = Field(default=50 << 20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0)
    max_duration_s: float = Field(default=120, gt=0)
    max_files: int = Field(default=32, gt=0)
    max_requests: int = Field(default=64, gt=0)
    timeout_s: float = Field(default=50, gt=0)


class Health(BaseModel):
    """The service can answer."""

    status: Literal["ok"] = "ok"
    models: dict[str, str] = Field(description="state of each model", examples=[{"sound": "ok"}])


def create_api(
    limits: Limits,
    routers: Sequence[APIRouter],
    states: Callable[[], Awaitable[Mapping[str, State]]],
    lifespan: Lifespan[FastAPI] | None = None,
    access: Access | None = None,
    keys: Mapping[str, str] | None = None,
) -> FastAPI:
    """The app: the routes of the models, the page, the health check, limits, errors as problems.

    Args:
        limits: of every request.
        routers: the routes of each model.
        states: tells how each model is.
        lifespan: what to do when the app starts and ends.
        access: who may ask.
        keys: names of API keys by their hash; none: no key is asked for.
    """
    # The key is looked at before anything is read, by `Gate`; here it only comes to be documented.
    documented = [Security(HTTPBearer(auto_error=False))] if keys else []
    api = FastAPI(
        title="mmray",
        summary="Multimodal learning from media nobody labelled",
        version=mmray.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=documented,
    )
    problems.install(api)
    _add_middleware(api, limits, access or Access(), keys or {})
    for routes in (*routers, web.routes()):
        api.include_router(routes)
    for path, folder in web.static_files().items():
        api.mount(path, folder)

    @api.get("/healthz", responses=problems.openapi_responses(421, 503), tags=["service"])
    async def healthz() -> Health:
        """Tell whether every model can answer."""
        models = {name: found.state for name, found in (await states()).items()}
        ill = [f"{name} is {state}" for name, state in models.items() if state != "ok"]
        if ill:
            raise HTTPException(503, "; ".join(ill))
        return Health(models=models)

    return api


def _add_middleware(api: FastAPI, limits: Limits, access: Access, keys: Mapping[str, str]) -> None:
    """Each is around those before it: the log sees what the others refuse."""
    api.add_middleware(
        RequestLimits,
        max_body_bytes=limits.max_upload_bytes,
        max_requests=limits.max_requests,
        timeout_s=limits.timeout_s,
    )
    api.add_middleware(Gate, access=access, keys=keys)
    if access.origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    api.add_middleware(RequestLog)
