"""The layers' geometry in time, and what a config refuses."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.soundnet.config import ARCHITECTURES, SoundNetConfig
from mmray.soundnet.model import SoundNetModel

NAMES = [f"c{i}" for i in range(5)]
CLIP = 441_000  # 20 s


def published(arch: str) -> SoundNetConfig:
    return SoundNetConfig(arch, objects=NAMES, scenes=NAMES[:3], aligned=False)


@pytest.mark.parametrize(
    ("arch", "lengths"),
    [
        ("soundnet8", [220501, 27562, 13782, 1722, 862, 432, 217, 54, 28, 15, 4, 4]),
        ("soundnet5", [220501, 27562, 13782, 1722, 862, 107, 54, 4, 4]),
    ],
)
def test_a_20_s_clip_gives_the_published_lengths(arch, lengths):
    config = published(arch)
    assert [config.cells(name, CLIP) for name in config.layer_names] == lengths


@pytest.mark.parametrize(("samples", "cells"), [(1_476_864, 46), (2_199_168, 68)])
def test_conv7_has_the_lengths_users_of_the_official_code_report(samples, cells):
    assert published("soundnet8").cells("conv7", samples) == cells


def test_published_heads_lie_where_the_paper_puts_them():
    times = SoundNetModel(published("soundnet8")).layer_times("objects", 4)
    assert times.tolist() == pytest.approx([4.75, 7.72, 10.69, 13.66], abs=0.005)
    times = SoundNetModel(published("soundnet5")).layer_times("scenes", 4)
    assert times.tolist() == pytest.approx([1.29, 5.75, 10.20, 14.66], abs=0.005)


@given(
    st.sampled_from(sorted(ARCHITECTURES)), st.booleans(), st.integers(1, 9), st.integers(1, 300000)
)
def test_min_samples_is_the_shortest_that_gives_a_cell(arch, aligned, kernel, samples):
    config = dataclasses.replace(published(arch), aligned=aligned, head_kernel=kernel)
    for name in config.layer_names:
        needed = config.min_samples(name)
        assert config.cells(name, needed) >= 1
        assert (config.cells(name, samples) >= 1) == (samples >= needed)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
@pytest.mark.parametrize("aligned", [False, True])
def test_a_cell_sees_exactly_its_field(arch, aligned):
    """The gradient of one cell reaches from the first to the last sample of its field."""
    torch.manual_seed(0)
    config = dataclasses.replace(published(arch), aligned=aligned, head_kernel=4)
    model = SoundNetModel(config).eval()
    for name in config.layer_names:
        geometry = config.geometry(name)
        cell = -(geometry.start // geometry.stride) + 1
        samples = geometry.start + cell * geometry.stride + geometry.field + 3 * geometry.stride
        wave = torch.rand(1, samples, requires_grad=True)
        # Average in place of maximum pooling, and no ReLU: then every sample seen has a gradient.
        x = wave.unsqueeze(1)
        for layer in config.path(name):
            x = torch.nn.functional.pad(x, (layer.left, layer.right))
            x = torch.nn.functional.avg_pool1d(x, layer.kernel, layer.stride)
        unseen = 1 if aligned and name in config.classes else 0  # heads leave out the last cell
        assert x.shape[-1] - unseen == model.layers(wave.detach(), name)[name].shape[-1]
        x[0, 0, cell].backward()
        seen = torch.nonzero(wave.grad[0])[:, 0]
        first = geometry.start + cell * geometry.stride
        assert (int(seen[0]), int(seen[-1])) == (first, first + geometry.field - 1)


def test_to_dict_and_from_dict_agree():
    config = SoundNetConfig("soundnet5", objects=NAMES, head_kernel=3, frame_s=2.5)
    again = SoundNetConfig.from_dict({**config.to_dict(), "training": {"steps": 3}}, "here")
    assert again == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "vgg"}, "arch is 'vgg'"),
        ({"head_kernel": 0}, "head_kernel is 0"),
        ({"sample_rate": "fast"}, "sample_rate is 'fast'"),
        ({"kind": "captioner"}, "model of kind 'captioner'"),
        ({"format_version": 7}, "format version 7"),
    ],
)
def test_from_dict_refuses_what_is_not_a_soundnet(change, message):
    values = {**SoundNetConfig(objects=NAMES).to_dict(), **change}
    with pytest.raises(UserError, match=message) as error:
        SoundNetConfig.from_dict(values, "model/config.json")
    assert "model/config.json" in str(error.value)


def test_an_unknown_layer_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"'pool9'.*conv1, pool1.*objects, scenes"):
        published("soundnet8").geometry("pool9")


def test_unaligned_heads_always_have_the_published_kernel():
    assert published("soundnet8").head_kernel == 8
    assert published("soundnet5").head_kernel == 16


def test_heads_leave_out_the_last_cell():
    config = published("soundnet8")
    assert config.head_steps(441_000) == config.cells("objects", 441_000) == 4
    assert config.cells("objects", 220_500) == 1  # its only output sees the last cell
    assert config.inside(220_500) == 7
    assert config.inside(config.head_samples) == 8
    assert config.inside(config.head_samples - 1) == 7
    assert config.inside(1) == config.cells("conv7", 1)
