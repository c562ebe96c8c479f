"""The Serve application: `serve run`, `serve deploy` and `python -m mmray.serving` build it here.

One ingress deployment takes the HTTP requests and decodes uploads; one deployment a model
answers batches. `serve_config.yaml` names `mmray.serving.app:build` and gives its arguments.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the
# arguments, and would see a string.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mmray import models, storage
from mmray.errors import UserError
from mmray.serving import sound
from mmray.serving.api import Limits, create_api
from mmray.serving.limits import RETRY_AFTER_S
from mmray.serving.upload import SoundDecoder

Request = TypeVar("Request")
Response = TypeVar("Response")


class Models(BaseModel):
    """The models to serve: a model folder (path or URI), `models:/NAME/VERSION`, or null.

    A model that is null has no route.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sound: str | None = Field(default=None, description="of kind soundnet, or official:FILE")

    @model_validator(mode="after")
    def _at_least_one(self) -> "Models":
        if not self.given():
            raise ValueError("name at least one model")
        return self

    def given(self) -> dict[str, str]:
        """Where each model is that is not null."""
        return {name: where for name, where in self if where}


class ServeArgs(BaseModel):
    """Arguments of `build`, given as `args` in `serve_config.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Models
    limits: Limits = Limits()
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")


KINDS = {"sound": "soundnet"}
DEPLOYMENTS = {"sound": sound.SoundModel}


def build(args: ServeArgs) -> serve.Application:
    """Build the application. Models are looked for here and loaded in their deployments.

    Raises:
        UserError: a model is missing or of another kind.
    """
    deployments = {}
    for name, where in args.models.given().items():
        deployments[name] = DEPLOYMENTS[name].bind(find_model(name, where), device=args.device)
    return Api.bind(args.limits, **deployments)


def find_model(name: str, where: str) -> str:
    """Check that a model is there and of the kind that `name` wants; give its absolute place.

    Raises:
        UserError: it is missing or of another kind.
    """
    try:
        if where.startswith("official:"):
            file = storage.absolute(where.removeprefix("official:"))
            if not storage.exists(file):
                raise UserError(f"{file}: no such file")
            return f"official:{file}"
        if not where.startswith("models:/"):
            where = storage.absolute(where)
        kind = models.read_config(models.resolve(where)).get("kind")
    except UserError as error:
        raise UserError(f"cannot serve {name}: {error}") from error
    if kind != KINDS[name]:
        raise UserError(f"cannot serve {name}: {where} holds a {kind} model, not {KINDS[name]}")
    return where


# The app inside refuses what is too much with a problem; Serve's own limits are wider and only
# a last resort, since Serve refuses with plain text.
@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=64,
    graceful_shutdown_timeout_s=20,
    ray_actor_options={"num_cpus": 0.25},
)
@serve.ingress()
class Api:
    """Takes the HTTP requests.

    Args:
        limits: of every request.
        deployments: one for each model that is served, by its name.
    """

    def __init__(self, limits: Limits, **deployments: DeploymentHandle) -> None:
        self._limits = limits
        self._deployments = deployments

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the app in the replica: it holds locks and child processes."""
        routers: list[APIRouter] = []
        closing: list[Callable[[], None]] = []
        if "sound" in self._deployments:
            decoder = SoundDecoder(max_duration_s=self._limits.max_duration_s)
            closing.append(decoder.close)
            routers.append(sound.router(decoder, calling(self._deployments["sound"])))

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield
            for close in closing:
                close()

        return create_api(self._limits, routers, self._health, lifespan=lifespan)

    async def _health(self) -> Mapping[str, str]:
        application = serve.get_replica_context().app_name
        status = (await asyncio.to_thread(serve.status)).applications[application]
        names = {name: handle.deployment_name for name, handle in self._deployments.items()}
        return {name: _state(status.deployments.get(d)) for name, d in names.items()}


def _state(status: Any) -> str:
    if status is None:
        return "missing"
    # While an update rolls out or a replica is replaced, the others go on answering.
    running = status.replica_states.get("RUNNING", 0)
    return "ok" if running else status.status.lower().replace("_", " ")


def calling(handle: DeploymentHandle) -> Callable[[Request], Awaitable[Response]]:
    """A model's deployment as a callable; what Serve raises becomes an HTTP error.

    Returns:
        A callable that raises `HTTPException` 503 when the model is busy or gone, and `UserError`
        when the model refuses the input.
    """

    async def call(request: Request) -> Response:
        later = {"Retry-After": str(RETRY_AFTER_S)}
        try:
            return await handle.predict.remote(request)
        except BackPressureError as error:
            raise HTTPException(503, "the model is busy; try again later", later) from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise HTTPException(503, "the model is not running; try later", later) from error

    return call
