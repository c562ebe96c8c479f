"""`GET /models`: what each model is and how it does, also where one cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException

from mmray.serving import problems, summary
from mmray.serving.batching import About, Description
from mmray.serving.summary import State


class FakeClient:
    """A model that can say what it is, or not."""

    requests = 3

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error

    async def description(self) -> Description:
        if self.error:
            raise self.error
        about = About(kind="toy", fingerprint="f" * 64, device="cpu", details={"styles": ["old"]})
        return Description(about=about, metrics={"loss": 0.5}, loaded_s=1.5, batch_size=2.5)

    def latency_ms(self) -> dict[str, float]:
        return {"p50": 1.0, "p95": 2.0, "p99": 3.0}


def models_of(client_of: Callable[[FastAPI], Any], *clients: FakeClient) -> Any:
    async def states() -> Mapping[str, State]:
        return {c.name: State(state="unhealthy" if c.error else "ok", replicas=2) for c in clients}

    app = FastAPI()
    problems.install(app)
    sources = {client.name: f"models/{client.name}" for client in clients}
    app.include_router(summary.routes(clients, sources, states))  # type: ignore[arg-type]
    return client_of(app).get("/models")


def test_each_model_tells_what_it_is_and_how_it_does(client_of: Callable[[FastAPI], Any]) -> None:
    (told,) = models_of(client_of, FakeClient("tags")).json()["models"]
    assert told == {
        "name": "tags",
        "source": "models/tags",
        "state": "ok",
        "replicas": 2,
        "kind": "toy",
        "version": "f" * 12,
        "device": "cpu",
        "metrics": {"loss": 0.5},
        "details": {"styles": ["old"]},
        "loaded_s": 1.5,
        "requests": 3,
        "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
        "batch_size": 2.5,
        "report": None,
    }


def test_a_model_that_cannot_say_hides_no_other(client_of: Callable[[FastAPI], Any]) -> None:
    gone = FakeClient("story", HTTPException(503, "the model is not running"))
    first, second = models_of(client_of, FakeClient("tags"), gone).json()["models"]
    assert (first["kind"], first["state"]) == ("toy", "ok")
    assert (second["name"], second["kind"], second["state"]) == ("story", None, "unhealthy")
    assert (second["metrics"], second["details"], second["requests"]) == ({}, {}, 3)
