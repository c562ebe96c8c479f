"""The net itself, its frames, and the folder that keeps one."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, load_model, overlaps, save_model

NAMES = [f"c{i}" for i in range(6)]


def small(arch: str = "soundnet8", **changes: object) -> SoundNetModel:
    torch.manual_seed(0)
    return SoundNetModel(SoundNetConfig(arch, objects=NAMES, scenes=NAMES[:4], **changes)).eval()


@pytest.mark.parametrize(
    ("arch", "parameters"), [("soundnet8", 14_352_713), ("soundnet5", 6_202_137)]
)
def test_published_nets_have_the_published_number_of_parameters(arch, parameters):
    names = [f"class {i}" for i in range(1000)]
    model = SoundNetModel(SoundNetConfig(arch, objects=names, scenes=names[:401], aligned=False))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_new_weights_are_drawn_as_published():
    model = small()
    conv, norm = model.trunk["conv7"].conv, model.trunk["conv7"].norm
    assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert float(norm.weight.detach().mean()) == pytest.approx(1.0, abs=0.005)
    assert float(norm.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not conv.bias.any()
    assert not norm.bias.any()
    assert norm.eps == 1e-5
    assert norm.momentum == 0.1


@torch.no_grad()
def test_the_scale_is_applied_inside():
    model, wave = small(), torch.rand(1, 5000) - 0.5
    loud = model.layers(wave, "conv1")["conv1"]
    model.config.scale = 1.0
    assert torch.allclose(loud, model.layers(wave * 256, "conv1")["conv1"])


@torch.no_grad()
@pytest.mark.parametrize("arch", ["soundnet8", "soundnet5"])
def test_layers_stop_at_the_last_wanted_and_end_with_the_heads(arch):
    model, wave = small(arch), torch.rand(2, 70000) - 0.5
    outputs = model.layers(wave)
    assert list(outputs) == model.config.layer_names
    for name, x in outputs.items():
        assert x.shape[-1] == model.config.cells(name, 70000)
    assert list(model.layers(wave, "pool2"))[-1] == "pool2"


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 8])
def test_aligned_frames_are_averages_of_cells_by_overlap(kernel):
    model = small(head_kernel=kernel)
    wave = torch.rand(2, 150_000) - 0.5
    times, windows = torch.tensor([[1.0, 3.5], [0.4, 5.0]]), torch.tensor([2.0, 0.8])
    result = model(wave, times, windows)
    logits = model.layers(wave)["objects"]
    centres, spacing = model.cell_times(logits.shape[-1])
    for b in range(2):
        for t in range(2):
            low, high = times[b, t] - windows[b] / 2, times[b, t] + windows[b] / 2
            # By sampling the window finely rather than by the closed form.
            points = np.linspace(float(low), float(high), 20001)
            nearest = np.abs(points[:, None] - centres.numpy()).argmin(1)
            expected = logits[b].numpy()[:, nearest].mean(1)
            assert result["objects"][b, t].numpy() == pytest.approx(expected, abs=2e-6)
    assert spacing == pytest.approx(32768 / 22050)
    assert result["scenes"].shape == (2, 2, 4)


def test_aligned_frames_hear_their_own_part_of_the_sound():
    """What is heard in a frame depends on the sound around it, and not on sound far away."""
    model = small()
    wave = (torch.rand(1, 441_000) - 0.5).requires_grad_()
    times = torch.tensor([[2.5, 7.5, 12.5, 17.5]])
    model(wave, times, torch.tensor([5.0]))["objects"][0, 1].sum().backward()
    heard = torch.nonzero(wave.grad[0])[:, 0] / 22050
    # 5 s, and at both ends a cell (1.5 s) and half a receptive field (2.1 s).
    assert 0.5 < float(heard[0]) < 5.0
    assert 10.0 < float(heard[-1]) < 14.0


@torch.no_grad()
def test_unaligned_frames_are_tied_by_position():
    model = small(aligned=False)
    wave = torch.rand(1, 441_000) - 0.5
    logits = model.layers(wave)["objects"][0].T
    times = torch.tensor([[2.5, 7.5, 12.5, 17.5]])
    assert torch.allclose(model(wave, times, torch.tensor([5.0]))["objects"][0], logits)
    halves = model(wave, times[:, :2], torch.tensor([10.0]))["objects"][0]
    assert torch.allclose(halves, logits[[1, 3]])


@given(
    st.integers(1, 20),
    st.lists(st.floats(-5, 60), min_size=1, max_size=4),
    st.floats(0.01, 40),
)
def test_overlaps_sum_to_one_wherever_a_frame_lies(cells, times, window):
    centres = torch.arange(cells, dtype=torch.float64) * 1.5 - 0.45
    weights = overlaps(centres, 1.5, torch.tensor([times]), torch.tensor([window]))
    assert weights.shape == (1, len(times), cells)
    assert float(weights.min()) >= 0
    assert weights.sum(-1).numpy() == pytest.approx(1.0)


def test_bfloat16_autocast_averages_in_float32():
    model = small()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = model(torch.rand(1, 60000), torch.tensor([[1.0]]), torch.tensor([2.0]))
    assert logits["objects"].dtype == torch.float32


def test_a_saved_model_comes_back(tmp_path):
    model = small("soundnet5", head_kernel=3, frame_s=2.0)
    save_model(tmp_path / "m", model, {"steps": 7})
    again = load_model(tmp_path / "m")
    assert again.config == model.config
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert json.loads((tmp_path / "m" / "config.json").read_text())["training"] == {"steps": 7}
    files = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]


def spoil_truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def spoil_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    config["scenes"].append("one more")
    (folder / "config.json").write_text(json.dumps(config))


def spoil_missing_tensor(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["trunk.conv3.conv.bias"]
    safetensors.torch.save_file(weights, path)


def spoil_unknown_tensor(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path) | {"surprise": torch.zeros(1)}
    safetensors.torch.save_file(weights, path)


def spoil_nan(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["heads.scenes.bias"][1] = float("nan")
    safetensors.torch.save_file(weights, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncate, r"model\.safetensors: is not a whole safetensors file"),
        (spoil_shape, r"model\.safetensors: heads\.scenes\.\w+ has shape \[4"),
        (spoil_missing_tensor, r"model\.safetensors: lacks the tensor trunk\.conv3\.conv\.bias"),
        (spoil_unknown_tensor, r"model\.safetensors: has the tensor surprise"),
        (spoil_nan, r"model\.safetensors: heads\.scenes\.bias holds NaN"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: is missing"),
        (lambda f: (f / "config.json").unlink(), r"not a model folder \(no config\.json\)"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: is not a JSON file"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: expected a JSON object"),
        (lambda f: (f / "config.json").write_text('{"kind": "tagger"}'), "kind 'tagger'"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path, spoil, message):
    save_model(tmp_path, small("soundnet5"))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)
