"""Decoding that does not repeat itself."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mmray.captioner.decode import State
from mmray.storyteller.decode import LOOP, draw, repeats

PICTURES = torch.zeros(3, 1, 2)


class Stubborn:
    """Wants to say 4 5 6 4 5 6 ... for ever, or else 7, 8, 9."""

    def start(self, picture: Tensor) -> State:
        return State({}, {"at": torch.zeros(len(picture), dtype=torch.int64)})

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        at = state.own["at"]
        logits = torch.full((len(tokens), 10), -50.0)
        logits[:, 7:] = torch.tensor([-10.0, -11.0, -12.0])
        logits[torch.arange(len(tokens)), 4 + at % 3] = 0.0
        return logits, State({}, {"at": at + 1})


def test_what_would_repeat() -> None:
    assert repeats(torch.tensor([[5]])).tolist() == [[5]]
    said = torch.tensor([[4, 5, 6, 7, 4, 5, 6], [4, 5, 6, 7, 8, 5, 6]])
    assert set(repeats(said)[0].tolist()) == {6, 7}
    assert set(repeats(said)[1].tolist()) == {6}


def test_nothing_is_said_twice() -> None:
    told = draw(Stubborn(), PICTURES, 2, 30, 0, 1.0, 0.9).tokens.flatten(0, 1)
    for tokens in told.tolist():
        runs = [tuple(tokens[i : i + LOOP]) for i in range(30 - LOOP + 1)]
        assert len(set(runs)) == len(runs)
        assert all(a != b for a, b in itertools.pairwise(tokens[:30]))
    assert told[0, :6].tolist() == [4, 5, 6, 4, 5, 6]  # three in a row may come again


def test_rows_do_not_depend_on_each_other() -> None:
    together = draw(Stubborn(), PICTURES, 2, 30, 0, 1.0, 1.0).tokens
    alone = draw(Stubborn(), PICTURES[:1], 2, 30, 0, 1.0, 1.0).tokens
    assert torch.equal(together[:1], alone)
