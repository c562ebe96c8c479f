"""Losses for tags that people gave: noisy, and only some of those that are true."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmray.training.gather import Everyone


def tag_loss(
    logits: Tensor, tags: Tensor, gamma: float = 0.0, ignore: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy in which a missing tag is weak evidence: [B, V] -> [B].

    That a tag is there says that it is true; that it is absent may only mean that nobody wrote
    it. So an absent tag counts with weight (1 - p) ** gamma, and the more the model believes in
    it, the less: where the picture shows clearly what the tag says, the absence is taken for an
    omission. (ASL, Ridnik et al., ICCV 2021, weighs the easy absent tags down instead, for the
    sake of rare tags.)

    Args:
        logits: of all tags.
        tags: 1 for tags that are there; between 0 and 1 for mixed pictures.
        gamma: 0 takes every absent tag at its word.
        ignore: 1 for tags that do not count.
    """
    logits = logits.float()  # under autocast too: the digits count
    present = -tags * F.logsigmoid(logits)
    doubt = torch.sigmoid(-logits).detach() ** gamma if gamma else 1.0
    absent = -(1 - tags) * F.logsigmoid(-logits) * doubt
    losses = present + absent
    if ignore is not None:
        losses = losses * (1 - ignore)
    return losses.sum(dim=1)


def contrastive_loss(
    pictures: Tensor, tags: Tensor, bags: Tensor, has_tags: Tensor, scale: Tensor
) -> Tensor:
    """How badly pictures and tag sets find each other among all of the global batch: [B].

    As in CLIP (Radford et al., ICML 2021), but sets that share tags are no negatives: the targets
    are the similarities of the sets. Pictures without tags take no part. Every worker holds its
    own rows against the columns of all workers, so that the mean over workers is that of one
    worker with the whole batch; gradients flow to all columns.

    Args:
        pictures: unit vectors [B, d].
        tags: unit vectors of their tag sets [B, d].
        bags: the tag sets, weighted so that telling tags weigh more, [B, V].
        has_tags: 1 where there are any, [B].
        scale: what products of unit vectors are multiplied with.
    """
    units = F.normalize(bags, dim=1)
    everyone = Everyone(pictures)
    all_pictures, all_tags = everyone.rows(pictures), everyone.rows(tags)
    all_units, present = everyone.rows(units), everyone.rows(has_tags)
    shared = (units @ all_units.T) ** 2 * present
    targets = shared / shared.sum(dim=1, keepdim=True).clamp_min(1e-6)
    blocked = -1e4 * (1 - present)
    losses = torch.zeros_like(has_tags)
    for rows, columns in ((pictures, all_tags), (tags, all_pictures)):
        logits = scale * rows.float() @ columns.float().T + blocked
        losses = losses - (targets * F.log_softmax(logits, dim=1)).sum(dim=1) / 2
    return losses * has_tags
