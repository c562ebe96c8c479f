"""Words that no caption taught: what the frozen net itself calls the thing in the picture.

A net of ImageNet has names for a thousand things, captions of a small set for far fewer. Beside the
probabilities of its words a decoder then has those of the names, which are copied from the net
(as pointers copy words: See et al., *Get To The Point*, ACL 2017; for new objects in captions:
Yao et al., CVPR 2017), and a gate that says before each word which of the two to believe. A word of
the captions that the net also knows is now and then learned as a name, so that the gate opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.images import backbone_of

SURE = 0.1
"""Names of this probability or more are learned as names..."""
OFTEN = 0.5
"""...in this share of the captions that have them."""
_CLOSED = -3.0  # the gate's first logit: words come from captions
_LEAST = 1e-9


@dataclass(frozen=True)
class Names:
    """The classes of a frozen net as words.

    Args:
        words: the last word of each class's name ("lorikeet", "locomotive"), each once: M.
        classes: int64 [K], which of them each class has.
        weight: of the net's last layer, for all numbers of a place, float32 [K, D].
        bias: of it, float32 [K].
    """

    words: tuple[str, ...]
    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def names_of(dataset: Dataset, column: str) -> Names:
    """The names that the first net of a dataset's backbone has for things.

    Args:
        dataset: an image dataset.
        column: what a captioner sees, `features` or `grid`.

    Raises:
        UserError: the net's classes cannot be told from that column.
    """
    from mmray.teachers.recipes import recipe_of

    backbone = backbone_of(dataset)
    spec = backbone["nets"][0]
    net = recipe_of(spec).build()
    found: dict[str, int] = {}
    classes = []
    for name in net.info.classes:
        last = (tokenise(name).split() or [name])[-1]
        classes.append(found.setdefault(last, len(found)))
    weight, bias = (x.detach().float().numpy() for x in (net.head.weight, net.head.bias))
    if column == "grid":
        _check_mean(dataset, spec, net.info.depths_dim, net.info.feature_dim)
    else:  # what was pooled at several depths comes first, other nets' vectors after it
        first = net.info.depths_dim
        after = backbone["dim"] - first - net.info.feature_dim
        weight = np.pad(weight, ((0, 0), (first, after)))
    return Names(tuple(found), np.array(classes), weight, bias)


def _check_mean(dataset: Dataset, spec: str, depths: int, dim: int) -> None:
    """A net whose last layer does not see the mean of its grid names nothing by the grid."""
    table = next(dataset.batches(["grid", "features"], 16))
    mean = tensor(table["grid"]).astype(np.float32).mean((1, 2))
    seen = tensor(table["features"]).astype(np.float32)[:, depths : depths + dim]
    if mean.shape != seen.shape or np.abs(mean - seen).max() > 0.05 * np.abs(seen).max():
        raise UserError(
            f"--copy-names: {spec} does not name a picture by the mean of its grid; prepare the "
            "pictures without --grid, or leave --copy-names out"
        )


class Naming(nn.Module):
    """Probabilities of names beside those of words.

    Args:
        dim: d, width of the decoder.
        feature_dim: D, numbers of each place of a picture.
        num_classes: K.
        num_words: V, tokens that are no names.
        num_names: M.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor
    names: Tensor

    def __init__(
        self, dim: int, feature_dim: int, num_classes: int, num_words: int, num_names: int
    ) -> None:
        super().__init__()
        self.num_words, self.num_names = num_words, num_names
        self.register_buffer("weight", torch.zeros(num_classes, feature_dim))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("classes", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("names", torch.full((num_words,), -1))
        self.gate = nn.Linear(dim + 2, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, _CLOSED)

    @torch.no_grad()
    def set_names(self, names: Names, words: Sequence[str]) -> None:
        """Take over a frozen net's last layer.

        Args:
            names: of its classes.
            words: of the captions, those of the last tokens that are no names.
        """
        self.weight.copy_(torch.from_numpy(names.weight))
        self.bias.copy_(torch.from_numpy(names.bias))
        self.classes.copy_(torch.from_numpy(names.classes))
        numbers = {name: i for i, name in enumerate(names.words)}
        known = torch.tensor([numbers.get(word, -1) for word in words])
        self.names[self.num_words - len(known) :] = known

    def of(self, picture: Tensor) -> Tensor:
        """What pictures show: places [B, N, D] -> probabilities of names, float32 [B, M]."""
        with torch.autocast(picture.device.type, enabled=False):
            seen = picture.float().mean(1)
            classes = F.linear(seen, self.weight, self.bias).softmax(-1)
            return classes.new_zeros(len(seen), self.num_names).index_add(1, self.classes, classes)

    def forward(self, logits: Tensor, hidden: Tensor, names: Tensor) -> Tensor:
        """Log-probabilities of words and names.

        Args:
            logits: of words, [R, ..., V]; R = B K rows, K captions of each picture.
            hidden: before each word, [R, ..., d].
            names: probabilities [B, M].

        Returns:
            float32 [R, ..., V + M].
        """
        names = names.repeat_interleave(len(hidden) // len(names), 0)
        names = names.view(len(names), *[1] * (hidden.dim() - 2), -1)
        sure = (4 * names.topk(min(2, self.num_names), -1).values - 2).expand(
            *hidden.shape[:-1], -1
        )
        gate = self.gate(torch.cat([F.pad(sure, (0, 2 - sure.shape[-1])), hidden], -1)).float()
        from_words = F.logsigmoid(-gate) + logits.float().log_softmax(-1)
        copied = F.logsigmoid(gate) + (names + _LEAST).log()
        return torch.cat([from_words, copied], -1)

    def rename(self, tokens: Tensor, names: Tensor, lots: Tensor) -> Tensor:
        """Make names of some words that the frozen net is sure of, for training.

        Args:
            tokens: [B, C, T].
            names: probabilities [B, M].
            lots: from 0 to 1, [B, C, T].

        Returns:
            tokens [B, C, T] of which some are V and above.
        """
        number = self.names[tokens]
        p = names[:, None].expand(-1, tokens.shape[1], -1).gather(2, number.clamp_min(0))
        named = (number >= 0) & (p >= SURE) & (lots < OFTEN)
        return torch.where(named, self.num_words + number, tokens)
