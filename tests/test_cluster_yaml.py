"""`cluster.yaml` and its twins, as `ray up` and the clouds read them; see also test_ray_up.py."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.model
import googleapiclient
import jsonschema
import moto
import pytest
import yaml
from ray import autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from mmray import spot
from mmray.serving.environment import SETTINGS

ROOT = Path(__file__).parent.parent
AWS, GCP, LOCAL = "cluster.yaml", "docs/cluster-gcp.yaml", "docs/cluster-on-premise.yaml"
FILES = [AWS, GCP, LOCAL]
RAY = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text())
# What Ray's code for each provider reads. Its schema lets any key pass here.
PROVIDERS: dict[str, set[str]] = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips",
            "security_group", "key_pair", "aws_credentials", "cloudwatch"},
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes",
            "use_internal_ips", "gcp_credentials"},
    "local": {"type", "head_ip", "worker_ips", "external_head_ip", "use_internal_ips"},
}  # fmt: skip


def aws_schema() -> dict[str, Any]:
    """JSON schema of a node's configuration: what EC2's RunInstances takes."""
    service = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    shape = botocore.model.ServiceModel(service).operation_model("RunInstances").input_shape
    assert shape is not None
    schema = of_shape(shape)
    del schema["required"]  # Ray adds how many
    schema["required"] = ["InstanceType", "ImageId"]
    return schema


def of_shape(shape: botocore.model.Shape) -> dict[str, Any]:
    if isinstance(shape, botocore.model.StructureShape):
        members = {name: of_shape(member) for name, member in shape.members.items()}
        return {
            "type": "object",
            "properties": members,
            "required": shape.required_members,
            "additionalProperties": False,
        }
    if isinstance(shape, botocore.model.ListShape):
        return {"type": "array", "items": of_shape(shape.member)}
    if isinstance(shape, botocore.model.StringShape) and shape.enum:
        return {"enum": shape.enum}
    names = {"integer": "integer", "long": "integer", "boolean": "boolean", "double": "number"}
    return {"type": names.get(shape.type_name, "string")}


def gcp_schema() -> dict[str, Any]:
    """JSON schema of a node's configuration: what Compute Engine knows of an instance."""
    folder = Path(googleapiclient.__file__).parent / "discovery_cache/documents"
    schemas = json.loads((folder / "compute.v1.json").read_text())["schemas"]
    definitions: dict[str, Any] = {}
    missing = {"Instance"}
    while missing:  # of thousands, those that an instance is made of
        definitions |= {name: of_discovery(schemas[name]) for name in missing}
        named = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(definitions)))
        missing = named - definitions.keys()
    return {"definitions": definitions, "$ref": "#/definitions/Instance"}


def of_discovery(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return {"$ref": f"#/definitions/{node['$ref']}"}
    if "enum" in node:
        return {"enum": node["enum"]}
    if node["type"] == "array":
        return {"type": "array", "items": of_discovery(node["items"])}
    if "properties" in node:
        members = {name: of_discovery(member) for name, member in node["properties"].items()}
        return {"type": "object", "properties": members, "additionalProperties": False}
    if node["type"] == "any":
        return {}
    # Numbers of 64 bits are written as texts, and read as either.
    return {"type": ["string", "integer"] if node.get("format") == "int64" else node["type"]}


@functools.cache
def node_checker(cloud: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator({"aws": aws_schema, "gcp": gcp_schema}[cloud]())


def load(file: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    # As separate files would be: an anchor's nodes are one object each in what YAML loads.
    return json.loads(json.dumps(config))  # type: ignore[no-any-return]


def check(config: dict[str, Any]) -> None:
    """What `ray up` checks, and what it leaves to the cloud: keys, types, names of choices."""
    validate_config(prepare_config(copy.deepcopy(config)))
    kind = config["provider"]["type"]
    if unknown := config["provider"].keys() - PROVIDERS[kind]:
        raise ValueError(f"provider: {sorted(unknown)}")
    if unknown := config.keys() - RAY["properties"].keys():
        raise ValueError(f"unknown keys: {sorted(unknown)}")
    for group in config.get("available_node_types", {}).values():
        node_checker(kind).validate(group["node_config"])


def groups(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head's configuration, and those of the groups of workers."""
    workers = dict(config["available_node_types"])
    return workers.pop(config["head_node_type"]), workers


def start(config: dict[str, Any], whose: str) -> list[str]:
    """The arguments of `ray start` in the start commands of `head` or `worker`."""
    (command,) = [c for c in config[f"{whose}_start_ray_commands"] if "ray start" in c]
    return shlex.split(command.split("ray start ")[1])


@pytest.mark.parametrize("file", FILES)
def test_ray_and_the_cloud_take_the_file(file: str) -> None:
    check(load(file))


@pytest.mark.parametrize("path", [
    "cluster.yaml:", "cluster.yaml:provider", "cluster.yaml:provider/security_group",
    "cluster.yaml:auth", "cluster.yaml:available_node_types/gpu",
    "cluster.yaml:available_node_types/gpu/node_config",
    "cluster.yaml:available_node_types/gpu/node_config/InstanceMarketOptions",
    "cluster.yaml:available_node_types/head/node_config/MetadataOptions",
    "cluster.yaml:available_node_types/head/node_config/BlockDeviceMappings/0",
    "cluster.yaml:available_node_types/head/node_config/BlockDeviceMappings/0/Ebs",
    "docs/cluster-gcp.yaml:", "docs/cluster-gcp.yaml:provider", "docs/cluster-gcp.yaml:auth",
    "docs/cluster-gcp.yaml:available_node_types/gpu",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/scheduling",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/guestAccelerators/0",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/metadata",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/metadata/items/0",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/disks/0",
    "docs/cluster-gcp.yaml:available_node_types/gpu/node_config/disks/0/initializeParams",
    "docs/cluster-on-premise.yaml:", "docs/cluster-on-premise.yaml:provider",
    "docs/cluster-on-premise.yaml:auth",
])  # fmt: skip
def test_a_mistyped_key_is_found_at_every_level(path: str) -> None:
    file, _, steps = path.partition(":")
    config = load(file)
    at: Any = config
    for step in filter(None, steps.split("/")):
        at = at[int(step) if isinstance(at, list) else step]
    assert at, "there must be a key to mistype"
    for key in list(at):
        at[key + "s"] = at.pop(key)
        with pytest.raises((Exception, SystemExit)):  # Ray's abort is the latter
            check(config)
        at[key] = at.pop(key + "s")
    check(config)


@pytest.mark.parametrize(("file", "spoil"), [
    (AWS, lambda c: c.update(head_node_type="nobody")),
    (AWS, lambda c: c["available_node_types"]["head"]["resources"].update(CPU="none")),
    (AWS, lambda c: c["available_node_types"]["gpu"]["node_config"].update(InstanceType="g5.3x")),
    (AWS, lambda c: c["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"]
        .update(MarketType="spots")),
    (GCP, lambda c: c["available_node_types"]["gpu"]["node_config"]["scheduling"]
        .update(provisioningModel="spot")),
    (GCP, lambda c: c["available_node_types"]["gpu"]["node_config"]["scheduling"]
        .update(automaticRestart="no")),
    (GCP, lambda c: c["available_node_types"]["gpu"]["node_config"].update(disks={})),
    (LOCAL, lambda c: c.update(available_node_types=load(AWS)["available_node_types"])),
    (LOCAL, lambda c: c["provider"].update(worker_ips="192.168.1.11")),
])  # fmt: skip
def test_a_wrong_value_is_found(file: str, spoil: Callable[[dict[str, Any]], None]) -> None:
    config = load(file)
    spoil(config)
    with pytest.raises((Exception, SystemExit)):
        check(config)


@pytest.mark.parametrize("file", [AWS, GCP])
def test_groups_fit_the_whole_and_only_workers_are_spot(file: str) -> None:
    config = load(file)
    head, workers = groups(config)
    assert head["resources"] == {"CPU": 0}, "the head must run no work"
    assert "spot" not in json.dumps(head).lower()
    assert workers.keys() == {"decode", "gpu"}
    assert sum(g["max_workers"] for g in workers.values()) <= config["max_workers"]
    for group in workers.values():
        node = group["node_config"]
        if file == AWS:
            assert node["InstanceMarketOptions"] == {"MarketType": "spot"}
            assert node["ImageId"] == head["node_config"]["ImageId"]
        else:
            assert node["scheduling"]["provisioningModel"] == "SPOT"
            assert node["disks"] == head["node_config"]["disks"], "one pinned image"


def test_rays_code_starts_the_nodes_on_a_mock_of_aws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray puts the SSH key that it makes
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        from ray.autoscaler._private.aws import config as aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        monkeypatch.setattr(aws.time, "sleep", lambda _: None)
        config = prepare_config(load(AWS))
        ec2 = boto3.client("ec2", config["provider"]["region"])
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for group in config["available_node_types"].values():
            group["node_config"]["ImageId"] = image
        config = aws.bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        made = {}
        for name, group in config["available_node_types"].items():
            tags = {"ray-node-type": "worker", "ray-node-name": name}
            (node,) = provider.create_node(group["node_config"], tags, 1).values()
            resources = {k: v for k, v in group["resources"].items() if k in ("CPU", "GPU")}
            made[name] = (resources, node.instance_lifecycle)
        (mine,) = ec2.describe_security_groups(GroupNames=["mmray"])["SecurityGroups"]
    assert made == {
        "head": ({"CPU": 0}, None),
        "decode": ({"CPU": 32}, "spot"),
        "gpu": ({"CPU": 8, "GPU": 1}, "spot"),
    }
    outside = [rule for rule in mine["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]


def test_on_gcp_the_resources_are_those_of_the_machine_types() -> None:
    # On AWS Ray looks them up itself.
    config = load(GCP)
    for group in groups(config)[1].values():
        node, resources = group["node_config"], group["resources"]
        family, _, cpus = node["machineType"].rsplit("-", 2)
        assert family in ("n2", "g2")
        assert resources["CPU"] == int(cpus)
        assert resources["memory"] == int(0.7 * 4 * int(cpus) * 2**30), "4 GiB a CPU"
        assert resources.get("GPU", 0) == sum(
            a["acceleratorCount"] for a in node.get("guestAccelerators", [])
        )
    zone = config["provider"]["availability_zone"]
    assert zone.startswith(config["provider"]["region"])
    assert set(re.findall(r"zones/([\w-]+)", (ROOT / GCP).read_text())) == {zone}


@pytest.mark.parametrize("file", FILES)
def test_the_files_do_the_same(file: str) -> None:
    """Of commands and mounts nothing differs but the spill folder, the cloud and the autoscaler."""
    first, other = load(AWS), load(file)
    spill = start(other, "head")[-2].split("=")[1]
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert json.dumps(first[key]).replace("/opt/dlami/nvme/spill", spill) == json.dumps(
            other[key]
        )
    for whose in ("head", "worker"):
        flags = {flag for flag in start(first, whose) if "spilling" not in flag}
        assert flags <= set(start(other, whose)), "the same flags"


@pytest.mark.parametrize("whose", ["head", "worker"])
@pytest.mark.parametrize("file", FILES)
def test_start_commands_are_options_that_ray_start_has(file: str, whose: str) -> None:
    config = load(file)
    context = scripts.start.make_context("ray start", start(config, whose))
    folder = context.params["object_spilling_directory"]
    assert any(f"install -d -o ubuntu {folder}" in c for c in config["setup_commands"])
    if whose == "head":
        assert context.params["head"]
        assert context.params["dashboard_host"] == "127.0.0.1"
        assert context.params["autoscaling_config"]


@pytest.mark.parametrize("file", [AWS, GCP])
def test_spot_nodes_watch_for_the_notice(
    file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load(file)
    command = config["worker_start_ray_commands"][-1]
    words = shlex.split(command.split("~/spot.py ")[1].split(">>")[0].replace("$RAY_HEAD_IP", "h"))
    assert words == [config["provider"]["type"], "--address=h:6379"]
    assert words[0] in spot.NOTICES
    assert config["file_mounts"]["~/spot.py"] == "mmray/spot.py"
    assert "spot.py" not in json.dumps(config["head_start_ray_commands"])


def environment(config: dict[str, Any], home: Path) -> dict[str, str]:
    """What a node's processes inherit, by running the command that writes it down."""
    (write,) = [c for c in config["setup_commands"] if "> ~/node.env" in c]
    (home / "venv/bin").mkdir(parents=True)
    (home / "venv/bin/activate").touch()
    (home / ".ray").mkdir()
    command = f"{write}; source ~/node.env; env"
    done = subprocess.run(
        ["bash", "-c", command], env={"HOME": str(home)}, capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("file", FILES)
def test_every_ray_demands_the_token_and_turns_its_logs(file: str, tmp_path: Path) -> None:
    config = load(file)
    env = environment(config, tmp_path)
    assert env["RAY_AUTH_MODE"] == "token"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert int(env["RAY_ROTATION_MAX_BYTES"]) * (1 + int(env["RAY_ROTATION_BACKUP_COUNT"])) < 1e9
    serve = {k: v for k, v in env.items() if k.startswith("RAY_SERVE_")}
    assert serve.pop("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    assert serve == {k: v for k, v in SETTINGS.items() if k.startswith("RAY_SERVE_")}
    for whose in ("head", "worker"):
        for command in config[f"{whose}_start_ray_commands"]:
            assert command.startswith("source ~/node.env && "), "no Ray without it"


@pytest.mark.parametrize("file", FILES)
def test_no_secret_is_in_the_file(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"RAY_AUTH_TOKEN\s*=|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text), "looks like a token"


@pytest.mark.parametrize("file", FILES)
def test_nodes_install_the_pinned_versions(file: str) -> None:
    config = load(file)
    (lock,) = [local for local in config["file_mounts"].values() if local.endswith(".lock")]
    pins = (ROOT / lock).read_text()
    # With what the head needs to start and stop nodes of AWS and GCP.
    for package in ("ray", "boto3", "google-api-python-client"):
        assert re.search(rf"^{package}==[\d.]+$", pins, re.MULTILINE)
    installs = [c for c in config["setup_commands"] if "pip install" in c]
    assert installs == [f"~/venv/bin/pip install -q -r ~/{lock}"]


@pytest.mark.parametrize("file", FILES)
def test_commands_are_valid_shell(file: str) -> None:
    config = load(file)
    commands = [c for key, value in config.items() if key.endswith("_commands") for c in value]
    assert len(commands) > 8
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
