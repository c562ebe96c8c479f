"""The Serve application: `serve run`, `serve deploy` and `python -m mmray.serving` build it here.

One ingress deployment takes the HTTP requests and decodes uploads; one deployment a model
answers batches. `serve_config.yaml` names `mmray.serving.app:build` and gives its arguments.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the
# arguments, and would see a string.
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from fastapi import APIRouter, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
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
# The decorator gives a `Deployment`; its annotation says the class itself.
DEPLOYMENTS = {"sound": cast(serve.Deployment, sound.SoundModel)}
INGRESS = "Api"


def build(args: ServeArgs) -> serve.Application:
    """Build the application. Models are looked for here and loaded in their deployments.

    Raises:
        UserError: a model is missing or of another kind.
    """
    deployments = {}
    for name, where in args.models.given().items():
        deployments[name] = DEPLOYMENTS[name].bind(find_model(name, where), device=args.device)

    def make_app() -> FastAPI:  # in the replica: the app has locks and child processes
        return ingress_app(args.limits, list(deployments))

    # The app inside refuses what is too much with a problem; Serve's own limits are wider and
    # only a last resort, since Serve refuses with plain text.
    ingress = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=64,
        max_queued_requests=64,
        graceful_shutdown_timeout_s=20,
        ray_actor_options={"num_cpus": 0.25},
    )
    return ingress(serve.ingress(make_app)()).bind(**deployments)


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


def ingress_app(limits: Limits, names: Sequence[str]) -> FastAPI:
    """The app of the ingress deployment, in its replica.

    Args:
        limits: of every request.
        names: of the models that are served.
    """
    routers: list[APIRouter] = []
    decoders: list[SoundDecoder] = []
    if "sound" in names:
        decoders.append(SoundDecoder(max_duration_s=limits.max_duration_s))
        handle = serve.get_deployment_handle(DEPLOYMENTS["sound"].name)
        routers.append(sound.router(decoders[-1], calling(handle)))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for decoder in decoders:
            await decoder.start()
        yield
        for decoder in decoders:
            decoder.close()

    async def health() -> Mapping[str, str]:
        application = serve.get_replica_context().app_name
        status = (await asyncio.to_thread(serve.status)).applications[application]
        return {name: _state(status.deployments.get(DEPLOYMENTS[name].name)) for name in names}

    return create_api(limits, routers, health, lifespan)


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
        except RayTaskError as error:
            # Its text is the replica's whole traceback; its cause is what the model raised.
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise

    return call
