"""Decoders of captions: plain torch, from a picture's features to words.

Three of them, with one interface: `lstm` (Vinyals et al., *Show and Tell*, CVPR 2015), `attention`
(Xu et al., *Show, Attend and Tell*, ICML 2015) and `transformer` (Vaswani et al., 2017, with
normalisation first). Each is trained on whole captions (`forward`) and writes word by word from a
cache (`start`, `step`; see `mmray.captioner.decode`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.captioner.decode import UNKNOWN, State
from mmray.captioner.naming import Naming
from mmray.errors import UserError

Arch = Literal["transformer", "attention", "lstm"]


@dataclass(frozen=True)
class CaptionConfig:
    """Sizes of a decoder.

    Args:
        arch: which decoder.
        feature_dim: D, numbers of each place of a picture.
        places: N, places of a picture; 1 for pooled features.
        num_tokens: V, words and special tokens.
        max_length: most words of a caption.
        dim: d, width of the decoder.
        layers: of the transformer.
        heads: of the transformer.
        dropout: 0 to 1.
        num_names: M, words that are copied from a frozen net; their tokens follow the V.
        num_classes: of that net.
    """

    arch: Arch
    feature_dim: int
    places: int
    num_tokens: int
    max_length: int = 30
    dim: int = 256
    layers: int = 3
    heads: int = 4
    dropout: float = 0.3
    num_names: int = 0
    num_classes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


class CaptionNet(nn.Module, ABC):
    """What the decoders have in common: the picture's places, the words, and the scores of words.

    Words that go in and words that come out share their embeddings (Press & Wolf, 2017).

    Args:
        config: sizes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("mean", torch.zeros(c.feature_dim))
        self.register_buffer("std", torch.ones(c.feature_dim))
        self.project = nn.Linear(c.feature_dim, c.dim)
        self.place = nn.Parameter(torch.randn(c.places, c.dim) * 0.02)
        self.picture_norm = nn.LayerNorm(c.dim)
        self.embed = nn.Embedding(c.num_tokens, c.dim)
        nn.init.normal_(self.embed.weight, std=c.dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(c.num_tokens))
        self.drop = nn.Dropout(c.dropout)
        self.naming = (
            Naming(c.dim, c.feature_dim, c.num_classes, c.num_tokens, c.num_names)
            if c.num_names
            else None
        )

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor, counts: Tensor) -> None:
        """Start from what is known of the training data.

        Args:
            mean: of the features, [D].
            std: of the features, [D].
            counts: of the tokens, [V]; the bias begins at their frequency.
        """
        self.mean.copy_(mean)
        self.std.copy_(std)
        shares = (counts + 1) / (counts + 1).sum()
        self.bias.copy_(shares.log() - shares.log().mean())

    def look(self, picture: Tensor) -> Tensor:
        """The places of pictures as the decoder sees them: [B, N, D] -> [B, N, d]."""
        standard = ((picture - self.mean) / self.std).clamp(-6, 6)
        return self.drop(self.picture_norm(self.project(standard) + self.place))

    def embedded(self, tokens: Tensor) -> Tensor:
        """[...] -> [..., d]; names are not learned, and read like unknown words."""
        return self.embed(tokens.where(tokens < self.config.num_tokens, UNKNOWN))

    def named(self, picture: Tensor) -> dict[str, Tensor]:
        """What is kept of pictures [B, N, D] to name what they show."""
        return {} if self.naming is None else {"names": self.naming.of(picture)}

    def scores_of_words(self, hidden: Tensor, shared: dict[str, Tensor]) -> Tensor:
        """[R, ..., d] and what is kept of the pictures -> logits [R, ..., V + M]."""
        logits = F.linear(hidden, self.embed.weight, self.bias)
        return logits if self.naming is None else self.naming(logits, hidden, shared["names"])

    @abstractmethod
    def forward(self, picture: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of every next word of captions, each given the words before it.

        Args:
            picture: float [B, N, D].
            tokens: C captions of each picture, each from START on, int64 [B, C, T].

        Returns:
            Logits [B, C, T, V + M], and where the decoder looked, [B, C, T, N], each row of sum 1;
            of decoders that look nowhere [B, C, T, 0].
        """

    @abstractmethod
    def start(self, picture: Tensor) -> State:
        """What is kept of pictures [B, N, D] to write their captions."""

    @abstractmethod
    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """One more word of each of R hypotheses: int64 [R] -> logits [R, V + M] of the next."""


class LstmNet(CaptionNet):
    """Show and Tell: an LSTM that sees the picture once, before the first word."""

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        self.cell = nn.LSTMCell(config.dim, config.dim)

    def forward(self, picture: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `CaptionNet.forward`."""
        b, c, length = tokens.shape
        state = self.start(picture).repeat(c)
        hidden = []
        for word in self.drop(self.embedded(tokens.reshape(b * c, length))).unbind(1):
            h, m = self.cell(word, (state.own["hidden"], state.own["memory"]))
            state = State(state.shared, {"hidden": h, "memory": m})
            hidden.append(h)
        logits = self.scores_of_words(self.drop(torch.stack(hidden, 1)), state.shared)
        return logits.view(b, c, length, -1), logits.new_zeros(b, c, length, 0)

    def start(self, picture: Tensor) -> State:
        """See `CaptionNet.start`."""
        hidden, memory = self.cell(self.look(picture).mean(1))
        return State(self.named(picture), {"hidden": hidden, "memory": memory})

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """See `CaptionNet.step`."""
        h, m = self.cell(self.embedded(tokens), (state.own["hidden"], state.own["memory"]))
        own = {"hidden": h, "memory": m}
        return self.scores_of_words(h, state.shared), State(state.shared, own)


class AttentionNet(CaptionNet):
    """Show, Attend and Tell: before every word an LSTM chooses where to look (soft attention)."""

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        d = config.dim
        self.cell = nn.LSTMCell(2 * d, d)
        self.first = nn.Linear(d, 2 * d)
        self.key, self.query = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.energy = nn.Linear(d, 1, bias=False)
        self.gate = nn.Linear(d, d)
        self.deep = nn.Linear(3 * d, d)

    def forward(self, picture: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `CaptionNet.forward`."""
        b, c, length = tokens.shape
        state = self.start(picture).repeat(c)
        outputs, looks = [], []
        for word in self.drop(self.embedded(tokens.reshape(b * c, length))).unbind(1):
            output, looked, state = self._next(state, word)
            outputs.append(output)
            looks.append(looked)
        logits = self.scores_of_words(self.drop(torch.stack(outputs, 1)), state.shared)
        return logits.view(b, c, length, -1), torch.stack(looks, 1).view(b, c, length, -1)

    def start(self, picture: Tensor) -> State:
        """See `CaptionNet.start`."""
        places = self.look(picture)
        hidden, memory = self.first(places.mean(1)).tanh().chunk(2, -1)
        seen = {"places": places, "keys": self.key(places), **self.named(picture)}
        return State(seen, {"hidden": hidden, "memory": memory})

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """See `CaptionNet.step`."""
        output, _, state = self._next(state, self.embedded(tokens))
        return self.scores_of_words(output, state.shared), state

    def _next(self, state: State, word: Tensor) -> tuple[Tensor, Tensor, State]:
        """What comes before the word's scores [R, d], where it looked [R, N], and what is kept."""
        hidden, memory = state.own["hidden"], state.own["memory"]
        places, keys = state.shared["places"], state.shared["keys"]
        b, r = len(places), len(hidden)
        query = self.query(hidden).view(b, -1, 1, keys.shape[-1])
        looked = self.energy((keys[:, None] + query).tanh()).squeeze(-1).softmax(-1)
        seen = (looked @ places).reshape(r, -1) * self.gate(hidden).sigmoid()
        hidden, memory = self.cell(torch.cat([word, seen], -1), (hidden, memory))
        output = self.deep(torch.cat([word, hidden, seen], -1)).tanh()
        own = {"hidden": hidden, "memory": memory}
        return output, looked.reshape(r, -1), State(state.shared, own)


class Block(nn.Module):
    """A layer of the transformer: the words so far, then the picture, then each word alone."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.words, self.words_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.query, self.picture = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.picture_out = nn.Linear(dim, dim)
        self.wide = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def read(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Look back at the words: x [R, T, d], and what is kept of them, [R, T', 2d]."""
        query, kept = self.words(self.norms[0](x)).tensor_split([x.shape[-1]], -1)
        if cache is not None:
            kept = torch.cat([cache, kept], 1)
        keys, values = kept.chunk(2, -1)
        found = attend(query, keys, values, self.heads, causal=cache is None)
        return x + self.drop(self.words_out(found)), kept

    def question(self, x: Tensor, rows: int) -> Tensor:
        """What is asked of the pictures, whose hypotheses stand side by side: [B, K T, d]."""
        return self.query(self.norms[1](x)).view(rows, -1, x.shape[-1])

    def forward(
        self, x: Tensor, picture: Tensor, cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[R, T, d] and the picture's keys and values [B, N, 2d] -> x, and what is kept of x."""
        x, kept = self.read(x, cache)
        keys, values = picture.chunk(2, -1)
        seen = attend(self.question(x, len(picture)), keys, values, self.heads).view(x.shape)
        x = x + self.drop(self.picture_out(seen))
        return x + self.drop(self.wide(self.norms[2](x))), kept


class TransformerNet(CaptionNet):
    """A transformer decoder on the picture's places."""

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        c = config
        if c.dim % c.heads:
            raise UserError(f"--dim {c.dim}: expected a multiple of --heads {c.heads}")
        self.position = nn.Parameter(torch.randn(c.max_length + 1, c.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, c.dropout) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)

    def forward(self, picture: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `CaptionNet.forward`; where it looked is told by `maps`."""
        b, c, length = tokens.shape
        hidden, shared = self.hidden(picture, tokens.reshape(b * c, length))
        logits = self.scores_of_words(hidden, shared)
        return logits.view(b, c, length, -1), logits.new_zeros(b, c, length, 0)

    def hidden(self, picture: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What `scores_of_words` takes: of tokens [B C, T], [B C, T, d]; and of the pictures."""
        shared, x = self.start(picture).shared, self._words(tokens, 0)
        for i, block in enumerate(self.layers):
            x, _ = block(x, shared[f"picture{i}"])
        return self.drop(self.norm(x)), shared

    def start(self, picture: Tensor) -> State:
        """See `CaptionNet.start`."""
        places = self.look(picture)
        empty = places.new_zeros(len(places), 0, 2 * self.config.dim)
        kept = {f"words{i}": empty for i in range(len(self.layers))}
        seen = {f"picture{i}": block.picture(places) for i, block in enumerate(self.layers)}
        return State({**seen, **self.named(picture)}, kept)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """See `CaptionNet.step`."""
        own = {}
        x = self._words(tokens[:, None], state.own["words0"].shape[1])
        for i, block in enumerate(self.layers):
            name = f"words{i}"
            x, own[name] = block(x, state.shared[f"picture{i}"], state.own[name])
        return self.scores_of_words(self.norm(x[:, 0]), state.shared), State(state.shared, own)

    def maps(self, picture: Tensor, tokens: Tensor) -> Tensor:
        """Where the last layer looks for each next word: [B, C, T, N], mean over heads."""
        b, c, length = tokens.shape
        shared, x = self.start(picture).shared, self._words(tokens.reshape(b * c, length), 0)
        *others, last = self.layers
        for i, block in enumerate(others):
            x, _ = block(x, shared[f"picture{i}"])
        keys = shared[f"picture{len(others)}"].chunk(2, -1)[0]
        query = split(last.question(last.read(x, None)[0], b), self.config.heads)
        keys = split(keys, self.config.heads)
        weights = (query @ keys.mT / keys.shape[-1] ** 0.5).softmax(-1).mean(1)
        return weights.view(b, c, length, -1)

    @property
    def layers(self) -> list[Block]:
        """The layers, the first first."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def _words(self, tokens: Tensor, first: int) -> Tensor:
        positions = self.position[first : first + tokens.shape[1]]
        return self.drop(self.embedded(tokens) * self.config.dim**0.5 + positions)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, T, d] -> [B, heads, T, d / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, keys: Tensor, values: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Attention of several heads: [B, T, d] on [B, S, d] twice -> [B, T, d]."""
    q, k, v = (split(x, heads) for x in (query, keys, values))
    found = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return found.transpose(1, 2).flatten(-2)


NETS: dict[str, type[CaptionNet]] = {
    "transformer": TransformerNet,
    "attention": AttentionNet,
    "lstm": LstmNet,
}


def build_net(config: CaptionConfig) -> CaptionNet:
    """A new decoder; its weights come from torch's global generator.

    Raises:
        UserError: sizes that do not go together.
    """
    return NETS[config.arch](config)
