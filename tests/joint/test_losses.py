"""Losses against plain loops, and over two workers against one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mmray.joint.losses import contrastive_loss, tag_loss
from tests.training.processes import run


def test_tag_loss_is_cross_entropy_without_doubt() -> None:
    logits, tags = torch.randn(4, 6), torch.rand(4, 6)
    expected = F.binary_cross_entropy_with_logits(logits, tags, reduction="none").sum(1)
    torch.testing.assert_close(tag_loss(logits, tags), expected)


def test_doubt_forgives_absent_tags_that_the_model_believes_in() -> None:
    logits = torch.tensor([[-3.0, 3.0]], requires_grad=True)
    absent = torch.zeros(1, 2)
    taken = [torch.autograd.grad(tag_loss(logits, absent, g).sum(), logits)[0] for g in (0.0, 0.5)]
    ratio = (taken[1] / taken[0])[0]
    torch.testing.assert_close(ratio, torch.sigmoid(-logits.detach()[0]) ** 0.5)
    assert torch.equal(tag_loss(logits, absent + 1, 0.5), tag_loss(logits, absent + 1))


def test_ignored_tags_do_not_count() -> None:
    logits, tags = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    ignore = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    expected = torch.stack([tag_loss(logits[:1, 1:], tags[:1, 1:])[0], tag_loss(logits, tags)[1]])
    expected[1] -= F.softplus(logits[1, 2])
    torch.testing.assert_close(tag_loss(logits, tags, ignore=ignore), expected)


def pairs(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors of pictures and tag sets, the sets, and which pictures have tags."""
    generator = torch.Generator().manual_seed(seed)
    pictures, tags = torch.randn(2, batch, 5, generator=generator)
    bags = torch.rand(batch, 7, generator=generator) * (
        torch.rand(batch, 7, generator=generator) < 0.5
    )
    bags[0, 0], bags[2] = 1.0, 0.0
    pictures[2] = tags[0]  # that it has no tags must outweigh how well it fits others' tags
    return F.normalize(pictures, dim=1), F.normalize(tags, dim=1), bags, (bags.sum(1) > 0).float()


def by_hand(pictures: Tensor, tags: Tensor, bags: Tensor, has: Tensor, scale: float) -> list[float]:
    p, t, b = (x.double().numpy() for x in (pictures, tags, bags))
    known = [i for i in range(len(p)) if has[i]]
    losses = [0.0] * len(p)
    for i in known:
        cosines = [b[i] @ b[j] / np.linalg.norm(b[i]) / np.linalg.norm(b[j]) for j in known]
        wanted = [c**2 / sum(c**2 for c in cosines) for c in cosines]
        for rows, columns in ((p, t), (t, p)):
            values = [math.exp(scale * rows[i] @ columns[j]) for j in known]
            for want, value in zip(wanted, values, strict=True):
                losses[i] -= want * math.log(value / sum(values)) / 2
    return losses


@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_contrastive_loss_is_that_of_plain_loops(scale: float) -> None:
    found = contrastive_loss(*pairs(), torch.tensor(scale))
    assert found.tolist() == pytest.approx(by_hand(*pairs(), scale), rel=1e-4)
    assert found[2] == 0  # without tags


def test_sets_that_share_tags_are_no_negatives() -> None:
    pictures, tags, bags, has = pairs()
    tags[1], bags[1] = tags[0], bags[0]
    usual = contrastive_loss(pictures, tags, bags, has, torch.tensor(5.0)).sum()
    pictures[[0, 1]] = pictures[[1, 0]]
    swapped = contrastive_loss(pictures, tags, bags, has, torch.tensor(5.0)).sum()
    torch.testing.assert_close(usual, swapped)


def test_a_batch_without_tags_is_no_loss_and_no_nan() -> None:
    pictures, tags, bags, has = pairs()
    pictures.requires_grad_()
    loss = contrastive_loss(pictures, 0 * tags, 0 * bags, 0 * has, torch.tensor(100.0)).sum()
    loss.backward()
    assert loss == 0
    assert pictures.grad is not None
    assert not pictures.grad.any()


def gradients(rows: slice, parts: int) -> list[Tensor]:
    """Mean loss of some rows, and its gradients at pictures and tags, as the mean over workers."""
    pictures, tags, bags, has = (x[rows] for x in pairs(8))
    leaves = [pictures.requires_grad_(), tags.requires_grad_()]
    loss = contrastive_loss(pictures, tags, bags, has, torch.tensor(7.0)).mean()
    found = [loss.detach().view(1), *torch.autograd.grad(loss, leaves)]
    return [found[0], *(grad / parts for grad in found[1:])]


def two_workers(rank: int, world_size: int, folder: Path) -> None:
    found = gradients(slice(4 * rank, 4 * rank + 4), world_size)
    dist.all_reduce(found[0])
    torch.save([found[0] / 2, *found[1:]], folder / f"{rank}.pt")


def test_two_workers_have_loss_and_gradients_of_one(tmp_path: Path) -> None:
    expected = gradients(slice(None), 1)
    run(two_workers, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(found[0][0], expected[0])
    for i in (1, 2):
        torch.testing.assert_close(torch.cat([part[i] for part in found]), expected[i])
