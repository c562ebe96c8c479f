"""What every model's deployment does: warm up, gather requests into batches, tell how it is."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from mmray.errors import UserError
from mmray.models import read_config, resolve
from mmray.serving.upload import Square

Options = TypeVar("Options", bound=BaseModel)
Response = TypeVar("Response", bound=BaseModel)

OFFICIAL = "official:"
MAX_BATCH_SIZE = 16
# While one batch is computed the next gathers by itself. To wait for more would only keep a lone
# client waiting.
BATCH_WAIT_S = 0.0
TRUST_S = 60.0
"""How long a model that has answered is taken to be well."""
# Of calls, which bring up to a batch each. Beyond the queue, callers are told to come back later.
DEPLOYMENT: dict[str, Any] = {
    "max_ongoing_requests": 8,
    "max_queued_requests": 16,
    "health_check_period_s": 10,
    "health_check_timeout_s": 30,
    "graceful_shutdown_timeout_s": 60,
    "ray_actor_options": {"num_cpus": 0.25},  # so that every model finds a place on a laptop
}


@dataclass(frozen=True)
class Asked(Generic[Options]):
    """One request to a model.

    Args:
        media: a picture, uint8 [H, W, 3], a sound, float32 [n], or none.
        options: what is asked about it.
        tell: what takes news of the work under way, by name; only inside the model's process.
    """

    media: np.ndarray | None
    options: Options
    tell: Callable[[str, Any], None] | None = None


class Batching(BaseModel):
    """The `user_config` of a model's deployment; a change needs no restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(default=MAX_BATCH_SIZE, ge=1)
    batch_wait_s: float = Field(default=BATCH_WAIT_S, ge=0)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a model says of itself.

    Args:
        kind: as its folder names it.
        fingerprint: hash of all that its answers depend on.
        device: that it runs on.
        details: what it knows: counts, names of styles.
        square: the form in which it wants pictures.
    """

    kind: str
    fingerprint: str
    device: str
    details: dict[str, Any]
    square: Square | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model's process says of itself.

    Args:
        about: the model.
        metrics: on held-out data, from the training.
        loaded_s: seconds that loading and warming up took.
        batch_size: mean size of the last batches.
    """

    about: About
    metrics: dict[str, float]
    loaded_s: float
    batch_size: float | None


class BatchedModel(Generic[Options, Response]):
    """One model in a process of its own; requests that arrive together are computed together.

    Args:
        where: anything that `mmray.load` takes.
        device: as `mmray.load` takes it.
        threads: CPU threads.
        options: more for `load`.
    """

    def __init__(self, where: str, device: str = "auto", threads: int = 1, **options: Any) -> None:
        import torch

        started = time.monotonic()
        torch.set_num_threads(threads)
        self._metrics = {} if where.startswith(OFFICIAL) else validation_of(where)
        self.load(where, device, threads, **options)
        self.probe()  # the first request should not pay for the warm-up
        self._answered = time.monotonic()
        self._loaded_s = self._answered - started
        self._sizes: deque[int] = deque(maxlen=1000)

    def load(self, where: str, device: str, threads: int, **options: Any) -> None:
        """Load the model."""
        raise NotImplementedError

    def probe(self) -> None:
        """Compute something small.

        Raises:
            RuntimeError: what comes out is no answer.
        """
        raise NotImplementedError

    def answers(self, asked: Sequence[Asked[Options]]) -> list[Response]:
        """Answer requests of one group.

        Raises:
            UserError: one of them cannot be answered.
        """
        raise NotImplementedError

    def group(self, options: Options) -> Hashable:
        """What requests must have in common to be computed together: by default, all options."""
        return options.model_dump_json()

    def about(self) -> About:
        """What to say of the model."""
        raise NotImplementedError

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take over the `user_config` of the config file."""
        batching = Batching.model_validate(config)
        self._batched.set_max_batch_size(batching.max_batch_size)  # type: ignore[attr-defined]
        self._batched.set_batch_wait_timeout_s(batching.batch_wait_s)  # type: ignore[attr-defined]

    async def check_health(self) -> None:
        """Fail when the model does, so that Serve replaces the process.

        A model that has just answered is well. Else it has to: a story would take 5% of a core.
        """
        if time.monotonic() - self._answered > TRUST_S:
            await asyncio.to_thread(self.probe)
            self._answered = time.monotonic()

    async def describe(self) -> Description:
        """What to say of this model."""
        sizes = list(self._sizes)
        return Description(
            about=self.about(),
            metrics=self._metrics,
            loaded_s=round(self._loaded_s, 2),
            batch_size=round(sum(sizes) / len(sizes), 2) if sizes else None,
        )

    async def predict(self, asked: Sequence[Asked[Options]]) -> list[Response | UserError]:
        """Answer requests; they share batches with others that arrive by then.

        Several come in one call, since a call costs as much as a small picture's tags.

        Returns:
            An answer to each; an error where it cannot be answered, as when a sound is too short.
        """
        return list(await asyncio.gather(*map(self._batched, asked)))

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _batched(self, asked: list[Asked[Options]]) -> list[Response | UserError]:
        # In a thread, so that this process goes on taking requests into the next batch.
        return await asyncio.to_thread(self.predict_batch, asked)

    def predict_batch(self, asked: Sequence[Asked[Options]]) -> list[Response | UserError]:
        """Answer requests in one batch; one that cannot be answered fails alone."""
        self._sizes.append(len(asked))
        found: dict[int, Response | UserError] = {}
        try:
            for group in self._groups(asked):
                found.update(zip(group, self._tried([asked[i] for i in group]), strict=True))
        except BaseException:
            self._answered = -math.inf  # the next check of its health asks it
            raise
        self._answered = time.monotonic()
        return [found[i] for i in range(len(asked))]

    def _groups(self, asked: Sequence[Asked[Options]]) -> Iterator[list[int]]:
        groups: dict[Hashable, list[int]] = {}
        for i, each in enumerate(asked):
            groups.setdefault(self.group(each.options), []).append(i)
        yield from groups.values()

    def _tried(self, asked: Sequence[Asked[Options]]) -> list[Response | UserError]:
        try:
            return list(self.answers(asked))
        except UserError as error:
            if len(asked) == 1:
                return [error]
            return [answer for each in asked for answer in self._tried([each])]


def told(asked: Asked[Options], tell: Callable[[str, Any], None]) -> Asked[Options]:
    """The same request, which tells of the work under way."""
    return dataclasses.replace(asked, tell=tell)


def media(asked: Sequence[Asked[Any]]) -> list[np.ndarray]:
    """The pictures or sounds of requests that all have one."""
    return [each.media for each in asked if each.media is not None]


def validation_of(where: str) -> dict[str, float]:
    """The metrics on held-out data that a model folder's `config.json` has from the training."""
    found = read_config(resolve(where)).get("training", {}).get("val") or {}
    return {name: round(x, 4) for name, x in found.items() if isinstance(x, int | float)}
