"""The three decoders: one interface, causal, and from a cache what they say of whole captions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmray.captioner.decode import END, START, beam, greedy
from mmray.captioner.model import NETS, CaptionConfig, CaptionNet, TransformerNet, build_net
from mmray.errors import UserError

PLACES, DIM, TOKENS, LENGTH = 6, 10, 12, 8


def new_net(arch: str, places: int = PLACES, **sizes: int) -> CaptionNet:
    torch.manual_seed(0)
    known = {"dim": 16, "layers": 2, "heads": 2, **sizes}
    config = CaptionConfig(arch, DIM, places, TOKENS, LENGTH, dropout=0.2, **known)  # type: ignore[arg-type]
    net = build_net(config)
    with torch.no_grad():  # livelier than new weights, so that words differ
        for weight in net.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
        net.mean.normal_()
        net.std.uniform_(0.5, 2)
    return net.eval()


def pictures(count: int = 3, places: int = PLACES) -> Tensor:
    return torch.randn(count, places, DIM, generator=torch.Generator().manual_seed(1))


def captions(count: int = 3, each: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, TOKENS, (count, each, LENGTH + 1), generator=g)
    tokens[:, :, 0] = START
    return tokens


@pytest.mark.parametrize("arch", NETS)
@torch.no_grad()
def test_word_by_word_is_as_whole_captions(arch: str) -> None:
    net, picture, tokens = new_net(arch), pictures(), captions()
    whole, _ = net(picture, tokens)
    state = net.start(picture)
    state.own = {k: v.repeat_interleave(2, 0) for k, v in state.own.items()}
    for t in range(LENGTH + 1):
        logits, state = net.step(state, tokens[:, :, t].reshape(-1))
        torch.testing.assert_close(logits.view(3, 2, -1), whole[:, :, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", NETS)
@torch.no_grad()
def test_no_word_sees_those_after_it_nor_other_pictures(arch: str) -> None:
    net, picture, tokens = new_net(arch), pictures(), captions()
    whole, _ = net(picture, tokens)
    later = tokens.clone()
    later[:, :, 5:] = 4
    torch.testing.assert_close(net(picture, later)[0][:, :, :5], whole[:, :, :5])
    alone, _ = net(picture[1:2], tokens[1:2])
    torch.testing.assert_close(alone[0], whole[1], atol=1e-5, rtol=1e-5)
    other, _ = net(picture + 1, tokens)
    assert (other - whole).abs().max() > 0.01


@pytest.mark.parametrize("arch", NETS)
def test_a_beam_scores_what_the_net_says(arch: str) -> None:
    net, picture = new_net(arch), pictures()
    for found in (greedy(net, picture, LENGTH), beam(net, picture, LENGTH, 4, 3)):
        b, n, length = found.tokens.shape
        tokens = torch.full((b, n, length + 1), START)
        tokens[:, :, 1:] = found.tokens
        with torch.no_grad():
            logits, _ = net(picture, tokens[:, :, :-1])
        logits[..., [0, 1, 3]] = -torch.inf
        told = logits.log_softmax(-1).gather(-1, found.tokens.clamp_min(END)[..., None])[..., 0]
        sums = torch.where(found.tokens > 0, told, 0.0).sum(-1)
        torch.testing.assert_close(found.scores, sums, atol=1e-4, rtol=1e-4)


def test_where_a_transformer_looks() -> None:
    net, picture, tokens = new_net("transformer"), pictures(), captions()
    assert isinstance(net, TransformerNet)
    with torch.no_grad():
        maps = net.maps(picture, tokens)
    assert maps.shape == (3, 2, LENGTH + 1, PLACES)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, LENGTH + 1))
    assert maps.std(-1).max() > 0.01


def test_attention_tells_where_it_looks() -> None:
    _, looked = new_net("attention")(pictures(), captions())
    assert looked.shape == (3, 2, LENGTH + 1, PLACES)
    torch.testing.assert_close(looked.sum(-1), torch.ones(3, 2, LENGTH + 1))


@pytest.mark.parametrize("arch", NETS)
def test_pooled_features_are_one_place(arch: str) -> None:
    net = new_net(arch, places=1)
    logits, _ = net(pictures(places=1), captions())
    assert logits.shape == (3, 2, LENGTH + 1, TOKENS)
    logits.sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert not missing


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(UserError, match="--heads 3"):
        new_net("transformer", heads=3)
