"""Optimizers: which parameters go where, and that they go on from their state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmray.training.config import TrainConfig
from mmray.training.optimizers import Muon, build_optimizer


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(20, 8),
            "attention": nn.MultiheadAttention(8, 2, batch_first=True),
            "norm": nn.LayerNorm(8),
            "out": nn.Linear(8, 20),
        }
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    tokens = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(seed))
    parts = dict(model.named_children())
    x = parts["embed"](tokens)
    x = parts["norm"](x + parts["attention"](x, x, x, need_weights=False)[0])
    loss = nn.functional.cross_entropy(parts["out"](x).flatten(0, 1), tokens.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_matrices_of_layers_are_muons() -> None:
    model = net()
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", lr=0.01))
    assert isinstance(optimizer, Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, others = ([names[id(p)] for p in g["params"]] for g in optimizer.param_groups)
    assert set(matrices) == {"attention.in_proj_weight", "attention.out_proj.weight", "out.weight"}
    assert {*matrices, *others} == {*names.values()}
    assert len(matrices) + len(others) == len(names)


def test_frozen_parameters_stay() -> None:
    model = net()
    model.requires_grad_(False)
    dict(model.named_children())["out"].requires_grad_(True)
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", lr=0.01))
    before = step(model, optimizer, 0)
    assert step(model, optimizer, 0) < before
    for name, p in model.named_parameters():
        assert name not in frozen or torch.equal(p, frozen[name])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_learns_and_goes_on_from_its_state(kind: str) -> None:
    config = TrainConfig(optimizer="muon" if kind == "muon" else "adamw", lr=0.01)
    model = net()
    optimizer = build_optimizer(model, config)
    losses = [step(model, optimizer, i % 3) for i in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    other = copy.deepcopy(model)
    again = build_optimizer(other, config)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in again.param_groups:  # as the loop sets it
        group["lr"] = 0.003
    for group in optimizer.param_groups:
        group["lr"] = 0.003
    for seed in range(3):
        step(model, optimizer, seed)
        step(other, again, seed)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
