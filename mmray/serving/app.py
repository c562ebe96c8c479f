"""The Serve application: `serve run`, `serve deploy` and `python -m mmray.serving` build it here.

One ingress deployment takes the HTTP requests and decodes uploads; one deployment a model
answers batches. `serve_config.yaml` names `mmray.serving.app:build` and gives its arguments.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the
# arguments, and would see a string.
import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any, cast

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve

from mmray import models, storage
from mmray.errors import UserError
from mmray.serving import caption, reports, sound, story, summary, tags
from mmray.serving.api import Limits, create_api
from mmray.serving.clients import ModelClient
from mmray.serving.gate import Access, check_host, read_keys
from mmray.serving.routes import model_routes
from mmray.serving.summary import State
from mmray.serving.upload import Decoder


class Models(BaseModel):
    """The models to serve: a model folder (path or URI), `models:/NAME/VERSION`, or null.

    A model that is null has no route.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tags: str | None = Field(default=None, description="of kind joint: /tags and /search")
    caption: str | None = Field(default=None, description="of kind captioner: /caption")
    story: str | None = Field(default=None, description="of kind storyteller: /story")
    sound: str | None = Field(default=None, description="of kind soundnet, or official:FILE")

    @model_validator(mode="after")
    def _at_least_one(self) -> "Models":
        if not self.given():
            raise ValueError("name at least one model")
        return self

    def given(self) -> dict[str, str]:
        """Where each model is that is not null."""
        return {name: where for name, where in self if where}


class Search(BaseModel):
    """What /search searches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str | None = Field(
        default=None, description="folder that `jobs/predict.py tags --index` made"
    )
    pictures: str | None = Field(
        default=None, description="the image dataset of those pictures, to show them"
    )


class ServeArgs(BaseModel):
    """Arguments of `build`, given as `args` in `serve_config.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Models
    search: Search = Search()
    reports: str | None = Field(
        default=None, description="folder that `jobs/report.py` wrote its pages to"
    )
    limits: Limits = Limits()
    access: Access = Access()
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(default=1, ge=1, description="CPU threads of each model's process")


KINDS = {"tags": "joint", "caption": "captioner", "story": "storyteller", "sound": "soundnet"}
# The decorator gives a `Deployment`; its annotation says the class itself.
DEPLOYMENTS = {
    "tags": cast(serve.Deployment, tags.TagModel),
    "caption": cast(serve.Deployment, caption.CaptionModel),
    "story": cast(serve.Deployment, story.StoryModel),
    "sound": cast(serve.Deployment, sound.SoundModel),
}
INGRESS = "Api"


def build(args: ServeArgs) -> serve.Application:
    """Build the application. Models are looked for here and loaded in their deployments.

    Raises:
        UserError: a model is missing or of another kind, or the file of API keys is not one.
    """
    args = located(args)
    # Hashes travel to the processes that need them, the keys and their file do not.
    keys = read_keys(args.access.keys) if args.access.keys else {}
    deployments = {}
    for name, where in args.models.given().items():
        options = args.search.model_dump() if name == "tags" else {}
        deployments[name] = DEPLOYMENTS[name].bind(
            where, device=args.device, threads=args.threads, **options
        )

    def make_app() -> FastAPI:  # in the replica: the app has locks and child processes
        return ingress_app(args, keys)

    # The app inside refuses what is too much with a problem; Serve's own limits are wider and
    # only a last resort, since Serve refuses with plain text.
    ingress = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=128,
        max_queued_requests=128,
        graceful_shutdown_timeout_s=60,
        ray_actor_options={"num_cpus": 0.25},
    )
    return ingress(serve.ingress(make_app)()).bind(**deployments)


def located(args: ServeArgs) -> ServeArgs:
    """The same arguments with absolute paths, since replicas may run in another folder.

    Raises:
        UserError: a model, an index or a file is missing, or a model is of another kind.
    """
    found = {name: find_model(name, where) for name, where in args.models.given().items()}
    search = {name: _find("search", where) for name, where in args.search if where}
    keys = args.access.keys and _find("access.keys", args.access.keys)
    # Its pages may be written later.
    pages = args.reports and storage.absolute(args.reports)
    return args.model_copy(
        update={
            "models": Models(**found),
            "search": Search(**search),
            "reports": pages,
            "access": args.access.model_copy(update={"keys": keys}),
        }
    )


def _find(what: str, where: str) -> str:
    if not storage.exists(path := storage.absolute(where)):
        raise UserError(f"cannot serve {what}: {path}: no such file or folder")
    return path


def find_model(name: str, where: str) -> str:
    """Check that a model is there and of the kind that `name` wants; give its absolute place.

    Raises:
        UserError: it is missing or of another kind.
    """
    try:
        if where.startswith("official:"):
            return f"official:{_find(name, where.removeprefix('official:'))}"
        if not where.startswith("models:/"):
            where = storage.absolute(where)
        kind = models.read_config(models.resolve(where)).get("kind")
    except UserError as error:
        raise UserError(f"cannot serve {name}: {error}") from error
    if kind != KINDS[name]:
        raise UserError(f"cannot serve {name}: {where} holds a {kind} model, not {KINDS[name]}")
    return where


def ingress_app(args: ServeArgs, keys: Mapping[str, str]) -> FastAPI:
    """The app of the ingress deployment, in its replica.

    Raises:
        UserError: Serve listens where other machines reach it, and there is no API key.
    """
    check_host(_listening_host(), args.access)
    limits = args.limits
    decoder = Decoder(max_duration_s=limits.max_duration_s, max_pixels=limits.max_pixels)
    clients = [
        ModelClient(name, serve.get_deployment_handle(DEPLOYMENTS[name].name))
        for name in args.models.given()
    ]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await decoder.start()
        yield
        decoder.close()

    async def states() -> Mapping[str, State]:
        application = serve.get_replica_context().app_name
        status = (await asyncio.to_thread(serve.status)).applications[application]
        return {c.name: _state(status.deployments.get(DEPLOYMENTS[c.name].name)) for c in clients}

    sources = {name: _source(where) for name, where in args.models.given().items()}
    searches = args.search.index is not None
    routers = [model_routes(client, decoder, limits.max_files, searches) for client in clients]
    routers.append(summary.routes(clients, sources, states, args.reports))
    routers.append(reports.routes(args.reports, frozenset(KINDS.values())))
    return create_api(limits, routers, states, lifespan, args.access, keys)


def _listening_host() -> str | None:
    """Where Serve listens; there is no public call that tells."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    config: Any = ray.get(client._controller.get_http_config.remote())
    return config.host


def _state(status: Any) -> State:
    if status is None:
        return State(state="missing", replicas=0)
    # While an update rolls out or a replica is replaced, the others go on answering.
    running = status.replica_states.get("RUNNING", 0)
    state = "ok" if running else status.status.lower().replace("_", " ")
    return State(state=state, replicas=running)


def _source(where: str) -> str:
    """What to tell of where a model is: the end of a path, not how the disk is laid out."""
    if where.startswith("models:/"):
        return where
    return "/".join(PurePosixPath(where).parts[-2:])
