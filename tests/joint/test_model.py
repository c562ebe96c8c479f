"""The net: dropout by given noise, missing sides, and what is linear."""

from __future__ import annotations

import pytest
import torch

from mmray.joint.model import JointConfig, JointModel, drop

CONFIG = JointConfig(feature_dim=6, num_tags=5, hidden=8, dim=4)


@pytest.fixture
def model() -> JointModel:
    torch.manual_seed(0)
    model = JointModel(CONFIG)
    torch.nn.init.normal_(model.no_tags)
    torch.nn.init.normal_(model.no_picture)
    return model


def inputs(batch: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 6, generator=generator)
    tags = (torch.rand(batch, 5, generator=generator) < 0.5).float()
    given = tags * (torch.rand(batch, 5, generator=generator) < 0.5)
    noise = torch.randint(256, (batch, CONFIG.noise), generator=generator, dtype=torch.uint8)
    return features, tags, given, noise


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(share: float) -> None:
    noise = torch.arange(256, dtype=torch.uint8)[None]
    dropped = drop(torch.ones(1, 256), noise, share)
    assert float(dropped.mean()) == pytest.approx(1.0)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert drop(noise, None, share) is noise


def test_dropout_is_of_the_noise_alone(model: JointModel) -> None:
    features, tags, given, noise = inputs()
    here, again = (model(features, tags, given, noise) for _ in range(2))
    other = model(features, tags, given, noise.flip(1))
    for name in ("logits_picture", "logits_both", "logits_tags"):
        assert torch.equal(here[name], again[name])
        assert not torch.allclose(here[name], other[name])
    # What the model should agree with is seen whole, and is not learned through.
    assert torch.equal(here["target"], other["target"])
    assert not here["target"].requires_grad
    torch.testing.assert_close(
        here["target"], model(features, tags, given)["logits_picture"].sigmoid()
    )


def test_rows_do_not_depend_on_each_other(model: JointModel) -> None:
    whole = model(*inputs())
    for i in range(3):
        alone = model(*(x[i : i + 1] for x in inputs()))
        for name, values in alone.items():
            expected = whole[name][i : i + 1] if values.dim() else whole[name]
            torch.testing.assert_close(values, expected, msg=name)


def test_each_side_sees_only_what_it_may(model: JointModel) -> None:
    features, tags, given, _ = inputs()
    torch.nn.init.normal_(model.fusion[-1].weight)
    here = model(features, tags, given)
    others = model(features + 1, tags, given), model(features, tags, 1 - given)
    assert torch.equal(here["logits_tags"], others[0]["logits_tags"])
    assert torch.equal(here["logits_picture"], others[1]["logits_picture"])
    assert not torch.allclose(here["logits_both"], others[0]["logits_both"])
    assert not torch.allclose(here["logits_both"], others[1]["logits_both"])


def test_vectors_have_length_1_and_sets_are_sums(model: JointModel) -> None:
    features, tags, given, _ = inputs()
    model.tags.idf.copy_(torch.arange(1.0, 6.0))
    found = model(features, tags, given)
    for name in ("picture", "tags"):
        torch.testing.assert_close(found[name].norm(dim=1), torch.ones(3))
    a, b = torch.eye(5)[:2]
    torch.testing.assert_close(model.tags.add(a + b), model.tags.add(a) + model.tags.add(b))
    assert not model.tag_vector(torch.zeros(1, 5)).any()  # no NaN either


def test_outliers_are_cut(model: JointModel) -> None:
    features = torch.tensor([[1e30, -1e30, 0.0, 1.0, 6.0, 7.0]])
    assert model.pictures.standardise(features).tolist() == [[6, -6, 0, 1, 6, 6]]
    assert model.pictures(features).isfinite().all()
