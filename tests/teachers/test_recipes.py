from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision import models

from mmray.errors import UserError
from mmray.teachers import absolute_spec, describe_teacher, load_teacher
from mmray.teachers.recipes import recipe_of


@pytest.mark.parametrize(
    "spec",
    ["", "resnet18", "efficientnet_lite0:x", "torchvision:", "places365:", "mmray:", "clip:x"],
)
def test_unknown_spec_lists_the_known_forms(spec: str) -> None:
    with pytest.raises(UserError) as error:
        load_teacher(spec)
    for form in ("efficientnet_lite0", "torchvision:NAME=FILE", "places365:FILE", "mmray:DIR"):
        assert form in str(error.value)


@pytest.mark.parametrize("form", ["torchvision:resnet18={}", "places365:{}", "mmray:{}"])
def test_missing_files(form: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing"):
        describe_teacher(form.format(missing))


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        load_teacher(f"torchvision:resnet18={tmp_path}")


def test_places365_needs_the_names(tmp_path: Path) -> None:
    (tmp_path / "p.pth.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"categories_places365\.txt: is missing.*`/a/airfield 0`"):
        load_teacher(f"places365:{tmp_path}/p.pth.tar")


def test_a_soundnet_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": "soundnet", "format_version": 1}))
    with pytest.raises(UserError, match=r"of kind 'soundnet'; expected a teacher"):
        load_teacher(f"mmray:{tmp_path}")


def test_own_folders_with_faults(own_teacher: Path) -> None:
    config_file, weights = own_teacher / "config.json", own_teacher / "model.safetensors"
    config, spec = json.loads(config_file.read_text()), f"mmray:{own_teacher}"

    config_file.write_text(json.dumps({**config, "classes": ["disc", "square"]}))
    with pytest.raises(UserError, match=r"names 2 classes, model\.safetensors has 3"):
        load_teacher(spec)
    config_file.write_text(json.dumps({**config, "channels": [4, 16]}))
    with pytest.raises(UserError, match=r"model\.safetensors: is not a checkpoint of the net in"):
        load_teacher(spec)
    config_file.write_text(json.dumps({k: v for k, v in config.items() if k != "size"}))
    with pytest.raises(UserError, match=r"config\.json: is not the config of a teacher.*size"):
        load_teacher(spec)
    config_file.write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99"):
        load_teacher(spec)
    config_file.write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is not a JSON file"):
        load_teacher(spec)
    config_file.write_text(json.dumps(config))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: is not a whole safetensors file"):
        load_teacher(spec)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_teacher(spec)


def test_the_key_follows_whatever_the_net_depends_on(own_teacher: Path) -> None:
    spec = f"mmray:{own_teacher}"
    before = recipe_of(spec).key
    assert recipe_of(spec).key == before
    config = json.loads((own_teacher / "config.json").read_text())
    config["classes"][0] = "circle"
    (own_teacher / "config.json").write_text(json.dumps(config))
    renamed = recipe_of(spec).key
    with (own_teacher / "model.safetensors").open("ab") as f:
        f.write(b"\0")
    assert len({before, renamed, recipe_of(spec).key}) == 3


def test_changed_class_names_reach_the_teacher(tmp_path: Path) -> None:
    path = tmp_path / "r.pth"
    torch.save(models.resnet18(num_classes=2).state_dict(), path)
    for names in (["cat", "dog"], ["car", "tram"]):
        (tmp_path / "r.pth.classes.txt").write_text("\n".join(names))
        assert describe_teacher(f"torchvision:resnet18={path}")["classes"] == names


def test_absolute_spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("efficientnet_lite0") == "efficientnet_lite0"
    assert absolute_spec("torchvision:resnet18") == "torchvision:resnet18"
    assert absolute_spec("torchvision:resnet18=a.pth") == f"torchvision:resnet18={tmp_path}/a.pth"
    assert absolute_spec("mmray:runs/t") == f"mmray:{tmp_path}/runs/t"
    assert absolute_spec("places365:s3://b/p.tar") == "places365:s3://b/p.tar"


def test_reading_recipes_needs_no_torch(own_teacher: Path) -> None:
    code = (
        "import sys; from mmray.teachers.recipes import recipe_of\n"
        f"recipe_of('efficientnet_lite0'), recipe_of('mmray:{own_teacher}')\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
