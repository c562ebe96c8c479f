"""Building and deploying the application: what is wrong is told before, or by the first error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from ray import serve

from mmray import UserError
from mmray.cli import JobFailed
from mmray.serving.app import Models, Search, ServeArgs, build, find_model, located
from mmray.serving.batching import Asked
from mmray.serving.clients import ModelClient
from mmray.serving.config import read_config
from mmray.serving.deploy import deploy, locate
from mmray.serving.gate import Access
from mmray.serving.sound import SoundOptions
from tests.serving.models import config_file, write_soundnet


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"cannot serve sound: .* \(no config"),
        (
            lambda folder: (folder / "config.json").write_text('{"kind": "joint"}'),
            "holds a joint model, not soundnet",
        ),
    ],
)
def test_a_wrong_model_is_told_before_anything_starts(
    tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    write_soundnet(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        build(ServeArgs(models=Models(sound=str(tmp_path))))


@pytest.mark.parametrize("where", ["nowhere", "official:nowhere.npy"])
def test_a_missing_model_is_told(where: str) -> None:
    with pytest.raises(UserError, match=r"cannot serve sound: .*nowhere"):
        find_model("sound", where)


def test_other_missing_files_are_told(tmp_path: Path) -> None:
    models = Models(sound=write_soundnet(tmp_path))
    with pytest.raises(UserError, match=r"cannot serve search: .*/none: no such file"):
        located(ServeArgs(models=models, search=Search(index="none")))
    with pytest.raises(UserError, match=r"cannot serve access.keys: .*/none: no such file"):
        located(ServeArgs(models=models, access=Access(keys="none")))


def test_places_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.npy").touch()
    write_soundnet(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert find_model("sound", "official:w.npy") == f"official:{tmp_path}/w.npy"
    assert find_model("sound", "model") == str(tmp_path / "model")


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    served = {"models": {"sound": write_soundnet(tmp_path / "model")}, "search": {}}
    config = read_config(config_file(tmp_path, served, 8000))
    config.http_options.host = "0.0.0.0"
    with pytest.raises(UserError, match=r"host is 0\.0\.0\.0, .* set args\.access\.keys"):
        locate(config)
    (tmp_path / "keys").write_text("ann 0123456789abcdef0123\n")
    config.applications[0].args["access"] = {"keys": str(tmp_path / "keys")}
    locate(config)


def test_settings_of_models_that_are_not_served_are_left_out(tmp_path: Path) -> None:
    served = {"models": {"sound": write_soundnet(tmp_path / "model")}, "search": {}}
    config = read_config(config_file(tmp_path, served, 8000))
    locate(config)
    assert [d.name for d in config.applications[0].deployments] == ["Api", "SoundModel"]


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Moody:
    """Does what it is told, as badly as models can."""

    async def predict(self, asked: list[Asked[Any]]) -> list[Any]:
        k = asked[0].options.k
        if k == 99:
            os._exit(1)
        await asyncio.sleep(k)
        return [UserError("too quiet") if each.options.k == 0 else each.options.k for each in asked]


@pytest.mark.cluster
def test_what_a_model_does_badly_becomes_an_error_for_the_client(service: httpx.Client) -> None:
    handle = serve.run(Moody.bind(), name="moody", route_prefix=None)

    def asked(k: int) -> Asked[Any]:
        return Asked(None, SoundOptions.model_construct(k=k, features=False))

    async def scenario() -> None:
        client = ModelClient("moody", handle)
        with pytest.raises(UserError) as refused:
            await client.ask(asked(0))
        assert str(refused.value) == "too quiet", "and nothing of the model's traceback"
        others = [ModelClient("moody", handle) for _ in range(3)]
        both = []
        for other in others[:2]:  # one runs, one waits
            both.append(asyncio.create_task(other.ask(asked(3))))
            await asyncio.sleep(1)
        with pytest.raises(HTTPException, match="busy") as busy:
            await others[2].ask(asked(0))
        assert busy.value.status_code == 503
        assert (busy.value.headers or {})["Retry-After"] == "1"
        assert await asyncio.gather(*both) == [3, 3]
        with pytest.raises(HTTPException, match="not running") as dead:
            await client.ask(asked(99))
        assert dead.value.status_code == 503

    # The handle's router lives in this loop until Serve ends, so that it stays open.
    asyncio.new_event_loop().run_until_complete(scenario())
    serve.delete("moody")


@pytest.mark.cluster
@pytest.mark.slow  # Serve tries three times
def test_a_model_that_cannot_be_loaded_ends_the_deployment_with_its_error(
    service: httpx.Client, service_config: Path, tmp_path: Path
) -> None:
    served = {"models": {"sound": write_soundnet(tmp_path / "model")}, "search": {}}
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    config = read_config(config_file(tmp_path, served, service.base_url.port or 0))
    locate(config)
    config.applications[0].name = "damaged"
    config.applications[0].route_prefix = "/damaged"
    good = read_config(service_config)
    locate(good)
    config.applications += good.applications  # a config says all that is to run
    with pytest.raises(JobFailed, match="not a whole safetensors file"):
        deploy(config)
    assert service.get("/healthz").status_code == 200
    deploy(good)
