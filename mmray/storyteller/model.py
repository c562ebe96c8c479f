"""Sentences to vectors, and vectors to passages: plain torch.

The encoder makes a vector of length 1 of each sentence (one layer of attention, mean over its
pieces). The decoder, the captioner's transformer, reads one vector where a captioner reads a
picture. It learns passages from the mean of some of their sentences' vectors, with noise; and
passages of books spliced with captions from the captions' vectors, moved from where captions are
to where the book is, as at inference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.captioner.decode import PAD
from mmray.captioner.model import CaptionConfig, TransformerNet
from mmray.training.parallel import all_reduce

MEMORY = 0.98
"""What is kept of the styles' mean vectors from one batch to the next."""


@dataclass(frozen=True)
class StoryConfig:
    """Sizes of a storyteller's net.

    Args:
        num_pieces: V.
        num_styles: that it is trained on, captions among them.
        max_length: L, most pieces of a passage.
        dim: d.
        layers: of the decoder.
        heads: of both.
        dropout: 0 to 1.
    """

    num_pieces: int
    num_styles: int
    max_length: int = 64
    dim: int = 192
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


class StoryNet(nn.Module):
    """Encoder and decoder; they share the embeddings of pieces.

    Args:
        config: sizes.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, config: StoryConfig) -> None:
        super().__init__()
        self.config = c = config
        sizes = CaptionConfig(
            "transformer",
            feature_dim=c.dim,
            places=1,
            num_tokens=c.num_pieces,
            max_length=c.max_length,
            dim=c.dim,
            layers=c.layers,
            heads=c.heads,
            dropout=c.dropout,
        )
        self.decoder = TransformerNet(sizes)
        self.layer = nn.TransformerEncoderLayer(
            c.dim, c.heads, 2 * c.dim, c.dropout, batch_first=True, norm_first=True
        )
        self.out = nn.Linear(c.dim, c.dim)
        # Where the styles are, while the encoder is learned.
        self.register_buffer("sums", torch.zeros(c.num_styles, c.dim))
        self.register_buffer("counts", torch.zeros(c.num_styles))

    def encode(self, sentences: Tensor) -> Tensor:
        """Sentences as vectors: pieces int64 [N, S], PAD after the last -> [N, d] of length 1."""
        there = sentences != PAD
        there[:, 0] = True  # so that an empty sentence is a vector too
        x = self.decoder.embed(sentences) * self.config.dim**0.5
        x = self.layer(x, src_key_padding_mask=~there) * there[..., None]
        mean = x.sum(1) / there.sum(1, keepdim=True)
        return F.normalize(self.out(mean), dim=-1)

    def _encoded(self, sentences: Tensor) -> Tensor:
        """[B, N, S] -> [B, N, d]; empty sentences, most of them, are no work and have 0."""
        flat = sentences.flatten(0, 1)
        used = (flat != PAD).any(1).nonzero()[:, 0]
        known = self.encode(flat[used])
        vectors = known.new_zeros(len(flat), known.shape[-1]).index_copy(0, used, known)
        return vectors.view(*sentences.shape[:2], -1)

    def read(self, vectors: Tensor) -> Tensor:
        """Vectors as the decoder takes them, of one length: [B, d] -> [B, 1, d]."""
        return (F.normalize(vectors, dim=-1) * self.config.dim**0.5)[:, None]

    def forward(
        self,
        sentences: Tensor,
        share: Tensor,
        read_style: Tensor,
        style: Tensor,
        strength: Tensor,
        tokens: Tensor,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """How surprising passages are, each read from a weighted sum of sentences.

        Args:
            sentences: of all passages of the batch, int64 [B, N, S].
            share: what part of a passage's vector each of them is, float [B, N]; 0 of none.
            read_style: number of the style that they are in, int64 [B].
            style: of the passage, int64 [B].
            strength: how far the vector is moved from the one to the other, float [B].
            tokens: the passages from START on, int64 [B, L + 1], PAD after the last.
            noise: that is added to the vectors, [B, d].

        Returns:
            The mean cross-entropy of each passage's pieces, [B]; and the sentences' vectors,
            [B, N, d].
        """
        vectors = self._encoded(sentences)
        meaning = (share[..., None] * vectors).sum(1)
        if self.training:
            self._learn_centres(meaning.detach().float(), read_style)
        centres = self.sums / self.counts.clamp_min(1e-6)[:, None]
        moved = meaning + strength[:, None] * (centres[style] - centres[read_style])
        if noise is not None:
            moved = F.normalize(moved, dim=-1) + noise
        hidden, shared = self.decoder.hidden(self.read(moved), tokens[:, :-1])
        targets = tokens[:, 1:]
        spoken = targets != PAD  # passages differ in length: half of the places have no piece
        logits = self.decoder.scores_of_words(hidden[spoken], shared)
        losses = F.cross_entropy(logits.float(), targets[spoken], reduction="none")
        sums = losses.new_zeros(len(tokens)).index_add(0, spoken.nonzero()[:, 0], losses)
        return sums / spoken.sum(1).clamp_min(1), vectors

    @torch.no_grad()
    def _learn_centres(self, meaning: Tensor, style: Tensor) -> None:
        """Move the mean vectors of styles towards those of what is read, [B, d], of all workers."""
        found = meaning.new_zeros(len(self.counts), meaning.shape[1] + 1)
        ones = meaning.new_ones(len(meaning), 1)
        found.index_add_(0, style, torch.cat([meaning, ones], 1))
        all_reduce(found)
        self.sums.mul_(MEMORY).add_(found[:, :-1])
        self.counts.mul_(MEMORY).add_(found[:, -1])


@torch.no_grad()
def vectors_of(net: StoryNet, pieces: list[list[int]], length: int, batch: int = 256) -> Tensor:
    """Vectors of sentences, float32 [N, d] on the CPU."""
    device = net.out.weight.device
    found = [torch.zeros(0, net.config.dim)]
    for start in range(0, len(pieces), batch):
        part = padded(pieces[start : start + batch], length)
        found.append(net.encode(part.to(device)).float().cpu())
    return torch.cat(found)


def padded(pieces: list[list[int]], length: int) -> Tensor:
    """Lists of pieces as int64 [N, up to length], PAD after the last."""
    width = max(1, min(length, max((len(p) for p in pieces), default=0)))
    table = torch.full((len(pieces), width), PAD)
    for i, p in enumerate(pieces):
        table[i, : min(len(p), width)] = torch.tensor(p[:width], dtype=torch.int64)
    return table
