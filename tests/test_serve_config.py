"""`serve_config.yaml`, and the strict reading of such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from mmray import UserError
from mmray.serving.app import DEPLOYMENTS, INGRESS, ServeArgs
from mmray.serving.batching import Batching
from mmray.serving.clients import CALLS, PER_CALL
from mmray.serving.config import read_config

FILE = Path(__file__).parent.parent / "serve_config.yaml"


@pytest.fixture
def config() -> ServeDeploySchema:
    return read_config(FILE)


def test_it_listens_on_loopback_alone(config: ServeDeploySchema) -> None:
    assert config.http_options.host == "127.0.0.1"
    assert config.proxy_location == "HeadOnly"


def test_every_limit_is_set(config: ServeDeploySchema) -> None:
    (application,) = config.applications
    limits = ServeArgs.model_validate(application.args).limits
    assert config.http_options.request_timeout_s
    assert limits.timeout_s < config.http_options.request_timeout_s
    assert len(application.deployments) == 1 + len(DEPLOYMENTS)
    for deployment in application.deployments:
        assert deployment.max_queued_requests > 0, "Serve's default queue has no end"


def test_the_app_refuses_before_serve_does(config: ServeDeploySchema) -> None:
    (application,) = config.applications
    limits = ServeArgs.model_validate(application.args).limits
    deployments = {d.name: d for d in application.deployments}
    assert deployments["Api"].max_ongoing_requests > limits.max_requests
    for model in DEPLOYMENTS.values():
        settings = deployments[model.name]
        # One entry's calls fit, and they can bring a whole batch each.
        assert settings.max_ongoing_requests >= CALLS
        assert settings.max_queued_requests >= CALLS
        assert Batching.model_validate(settings.user_config).max_batch_size <= PER_CALL


def test_models_batch_scale_and_are_replaced_one_by_one(config: ServeDeploySchema) -> None:
    (application,) = config.applications
    for settings in application.deployments:
        assert settings.max_surge_percent > 0, "the new process starts before the old one goes"
    for settings in application.deployments[1:]:
        assert settings.autoscaling_config["max_replicas"] > 1
        assert settings.autoscaling_config["target_ongoing_requests"] < CALLS


def test_it_names_what_the_code_has(config: ServeDeploySchema) -> None:
    (application,) = config.applications
    assert callable(import_attr(application.import_path))
    names = {INGRESS, *(d.name for d in DEPLOYMENTS.values())}
    assert {d.name for d in application.deployments} == names


def test_it_serves_what_the_jobs_write(config: ServeDeploySchema) -> None:
    args = ServeArgs.model_validate(config.applications[0].args)
    jobs = {path.split("/")[1] for path in args.models.given().values()}
    jobs |= {str(path).split("/")[1] for _, path in args.search}
    for job in jobs:
        name = "predict" if job == "predict_tags" else job
        assert (FILE.parent / f"jobs/{name}.py").exists()


def change(path: Path, spoil: Callable[[dict[str, Any]], object]) -> Path:
    raw = yaml.safe_load(FILE.read_text())
    spoil(raw)
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(http_option={}), "http_option is not a known key; did you mean http_"),
        (lambda c: c["http_options"].update(hots="x"), "http_options.hots is not .* host?"),
        (
            lambda c: c["applications"][0]["deployments"][1].update(max_ongoing=1),
            r"applications\[0\].deployments\[1\].max_ongoing is not a known key",
        ),
        (
            lambda c: c["applications"][0]["deployments"][0].update(
                ray_actor_options={"num_gpu": 1}
            ),
            "ray_actor_options.num_gpu is not .* num_gpus?",
        ),
        (lambda c: c["applications"][0]["args"]["models"].update(sond="x"), "models.sond"),
        (lambda c: c["applications"][0]["args"].update(models={}), "at least one model"),
        (lambda c: c["applications"][0]["args"]["limits"].update(timeout_s=0), "timeout_s"),
        (lambda c: c["http_options"].update(port="many"), "http_options.port"),
        (lambda c: c.pop("applications"), "applications: Field required"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = change(tmp_path / "serve.yaml", spoil)
    with pytest.raises(UserError, match=message) as error:
        read_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not YAML"), (b"- 1", "expected a Serve config"), (b"\xff\xfe\x00", "YAML")],
)
def test_what_is_no_config_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        read_config(tmp_path / "none.yaml")
