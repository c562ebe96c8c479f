"""The folded trunk computes what the plain one does."""

import pytest
import torch

from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.folded import fold_trunk
from mmray.soundnet.model import SoundNetModel


@pytest.mark.parametrize("arch", ["soundnet8", "soundnet5"])
@pytest.mark.parametrize("samples", [5000, 44100, 60001, 60014, 60015])
@torch.no_grad()
def test_every_layer_is_equal(arch, samples):
    torch.manual_seed(samples)
    model = SoundNetModel(SoundNetConfig(arch, objects=["a", "b"])).eval()
    for name, module in model.named_modules():
        if name.endswith("norm"):  # trained statistics, and gains of both signs
            module.running_mean.normal_(0, 2)
            module.running_var.uniform_(0.5, 30)
            module.weight.normal_(0, 1)
            module.bias.normal_(0, 1)
    wave = torch.rand(2, samples) * 2 - 1
    plain = model.layers(wave)
    folded = dict(model.walk(wave, trunk=fold_trunk(model)))
    assert list(folded) == [name for name in plain if name != "conv1"]
    for name, x in folded.items():
        assert x.shape == plain[name].shape, name
        assert float((x - plain[name]).abs().max()) < 1e-4, name


def test_the_model_is_left_as_it_is():
    model = SoundNetModel(SoundNetConfig(objects=["a", "b"])).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fold_trunk(model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert "conv1" in model.trunk
