"""`cluster.yaml`, as `ray up` reads it, and what its commands start."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cluster.yaml"
SCHEMA = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def check(config: dict[str, Any]) -> None:
    """What `ray up` checks, and the keys of the provider, which it does not."""
    validate_config(prepare_config(copy.deepcopy(config)))
    properties = SCHEMA["properties"]
    node = properties["available_node_types"]["patternProperties"][".*"]["properties"]
    unknown = config.keys() - properties.keys()
    unknown |= config["provider"].keys() - properties["provider"]["properties"].keys()
    for group in config["available_node_types"].values():
        unknown |= group.keys() - node.keys()
    if unknown:
        raise ValueError(f"unknown keys: {sorted(unknown)}")


def starts(config: dict[str, Any], whose: str) -> list[str]:
    """The arguments of `ray start` in the start commands of `head` or `worker`."""
    (command,) = [c for c in config[f"{whose}_start_ray_commands"] if "ray start" in c]
    return shlex.split(command.split("ray start ")[1])


def test_ray_takes_the_file(config: dict[str, Any]) -> None:
    check(config)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(max_worker=3), "max_worker"),
        (lambda c: c["provider"].update(use_internal_ip=True), "use_internal_ip"),
        (lambda c: c["available_node_types"]["gpu"].update(max_worker=1), "max_worker"),
        (lambda c: c.update(head_node_type="nobody"), "head_node_type"),
        (lambda c: c["available_node_types"]["head"]["resources"].update(CPU="none"), "none"),
    ],
    ids=["top", "provider", "group", "head", "resources"],
)
def test_the_check_finds_mistakes(config: dict[str, Any], spoil: Any, message: str) -> None:
    spoil(config)
    with pytest.raises(Exception, match=message):
        check(config)


def test_groups_fit_the_whole_and_only_workers_are_spot(config: dict[str, Any]) -> None:
    groups = config["available_node_types"]
    head = groups.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}, "the head must run no work"
    assert "InstanceMarketOptions" not in head["node_config"]
    assert sum(g["max_workers"] for g in groups.values()) <= config["max_workers"]
    for group in groups.values():
        assert group["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert group["node_config"]["ImageId"] == head["node_config"]["ImageId"]


@pytest.mark.parametrize("whose", ["head", "worker"])
def test_start_commands_are_options_that_ray_start_has(config: dict[str, Any], whose: str) -> None:
    context = scripts.start.make_context("ray start", starts(config, whose))
    assert context.params["object_spilling_directory"]
    if whose == "head":
        assert context.params["head"]
        assert context.params["dashboard_host"] == "127.0.0.1"
        assert context.params["autoscaling_config"]


@pytest.mark.parametrize("whose", ["head", "worker"])
def test_every_node_demands_the_token(config: dict[str, Any], whose: str) -> None:
    (command,) = [c for c in config[f"{whose}_start_ray_commands"] if "ray start" in c]
    assert "export RAY_AUTH_MODE=token" in command.split("ray start")[0]
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_no_secret_is_in_the_file() -> None:
    text = FILE.read_text()
    assert not re.search(r"RAY_AUTH_TOKEN\s*=|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text), "looks like a token"


def test_nodes_install_the_pinned_versions(config: dict[str, Any]) -> None:
    (lock,) = [local for local in config["file_mounts"].values() if local.endswith(".lock")]
    assert re.search(r"^ray==\d+\.\d+\.\d+$", (ROOT / lock).read_text(), re.MULTILINE)
    assert any(f"-r ~/{lock}" in command for command in config["setup_commands"])


def test_commands_are_valid_shell(config: dict[str, Any]) -> None:
    commands = [c for key, value in config.items() if key.endswith("_commands") for c in value]
    assert len(commands) > 8
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
