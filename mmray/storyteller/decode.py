"""Passages drawn from a decoder that does not say the same again and again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmray.captioner.decode import Decoded, Decoder, State, sample

LOOP = 4
"""Pieces that must not follow one another twice."""


class Unrepeating:
    """A decoder that says no piece twice in a row, and no `LOOP` pieces in a row twice.

    Args:
        decoder: that says what.
        watch: is told at each step what has been said so far, int64 [R, t].
    """

    def __init__(self, decoder: Decoder, watch: Callable[[Tensor], None] | None = None) -> None:
        self.decoder = decoder
        self.watch = watch

    def start(self, picture: Tensor) -> State:
        """See `mmray.captioner.decode.Decoder`."""
        state = self.decoder.start(picture)
        said = torch.zeros(len(picture), 0, dtype=torch.int64, device=picture.device)
        return State(state.shared, {**state.own, "said": said})

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """See `mmray.captioner.decode.Decoder`."""
        own = {**state.own}
        said = torch.cat([own.pop("said"), tokens[:, None]], 1)
        if self.watch:
            self.watch(said)
        logits, state = self.decoder.step(State(state.shared, own), tokens)
        logits = logits.scatter(1, repeats(said), -torch.inf)
        return logits, State(state.shared, {**state.own, "said": said})


def repeats(said: Tensor) -> Tensor:
    """The pieces that would repeat: of what was said, int64 [R, t], int64 [R, at least 1]."""
    last = said[:, -1:]
    if said.shape[1] < LOOP:
        return last
    windows = said.unfold(1, LOOP, 1)
    before, then = windows[..., :-1], windows[..., -1]
    again = (before == said[:, None, -(LOOP - 1) :]).all(-1)
    return torch.cat([last, then.where(again, last)], 1)


def draw(
    decoder: Decoder,
    read: Tensor,
    candidates: int,
    max_length: int,
    seed: int,
    temperature: float,
    top_p: float,
    watch: Callable[[Tensor], None] | None = None,
) -> Decoded:
    """Passages of vectors as the decoder takes them, [B, 1, d].

    `watch` is told at each step what has been written so far, int64 [B * candidates, t].

    The random numbers are the same for every row, so that one's passages do not depend on the
    others.
    """
    drawn = np.random.default_rng(seed).random((candidates, max_length + 1), np.float32)
    uniforms = torch.from_numpy(drawn).to(read.device).expand(len(read), -1, -1)
    return sample(Unrepeating(decoder, watch), read, uniforms, max_length, temperature, top_p)
