"""Net, batches and task of the storyteller, and its pieces of words."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mmray.captioner.decode import END, PAD, START
from mmray.errors import UserError
from mmray.storyteller.data import READ, StoryExamples
from mmray.storyteller.model import StoryConfig, StoryNet, padded, vectors_of
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.task import StoryTask, neighbours

TEXT = [f"the {c} {t} is here." for c in ("red", "blue", "green") for t in ("cat", "dog", "ship")]
PIECES = Pieces.of(TEXT * 5, 40)
CONFIG = StoryConfig(len(PIECES), 2, 20, 16, 1, 2, 0.0)
PIVOTS = {PLAIN: frozenset[str](), "book": frozenset({"the", "is"})}
EXAMPLES = StoryExamples(PIECES, 20, 16, PIVOTS, splice=0.5, noise=0.3)
CAPTIONS = ["the red dog is the cat.", "the red dog is here."]
ROWS = [
    {"style": PLAIN, "sentences": TEXT[:5], "captions": None},
    {"style": "book", "sentences": TEXT[2:4], "captions": CAPTIONS},
    {"style": "book", "sentences": TEXT[:1], "captions": []},
]


def rngs(seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(len(ROWS))]


def test_pieces_are_text_again() -> None:
    again = copy.deepcopy(PIECES)  # as when it goes to a worker
    for text in TEXT:
        assert again.decode([*PIECES.encode(text), END, 9, 9]) == text
    assert len(Pieces.of(TEXT, 5000)) < 100  # as many as there can be
    with pytest.raises(UserError, match="--vocabulary 5: does not fit"):
        Pieces.of(TEXT, 5)


def test_batches() -> None:
    batch = EXAMPLES(ROWS, ROWS[::-1], rngs())
    assert batch["sentences"].shape[:2] == (3, READ)
    torch.testing.assert_close(batch["share"].sum(1), torch.ones(3))
    assert (batch["tokens"][:, 0] == START).all()
    assert batch["style"].tolist() == [0, 1, 1]
    assert batch["noise"].norm(dim=1).mean() == pytest.approx(0.3, abs=0.15)
    told = [PIECES.decode(tokens[1:].tolist()) for tokens in batch["tokens"]]
    assert told[2] == TEXT[0]  # a book without captions is never spliced
    plain = EXAMPLES(ROWS, ROWS, [])
    assert "noise" not in plain
    assert not plain["strength"].any()
    assert PIECES.decode(plain["tokens"][1, 1:].tolist()) == " ".join(TEXT[2:4])


def test_spliced_passages_are_read_from_captions() -> None:
    whole = StoryExamples(PIECES, 40, 16, PIVOTS, splice=1.0)
    strong, weak = [], []
    for seed in range(30):
        batch = whole(ROWS[1:2], [], [np.random.default_rng(seed)])
        assert (batch["read_style"].tolist(), batch["style"].tolist()) == ([0], [1])
        read = PIECES.decode(batch["sentences"][0, 0].tolist())
        assert read in CAPTIONS
        told = PIECES.decode(batch["tokens"][0, 1:].tolist())
        (strong if batch["strength"].item() > 0.5 else weak).append(told)
    assert any(told in CAPTIONS for told in weak)
    assert any(told not in CAPTIONS for told in strong)


def test_centres_are_the_means_of_what_is_read() -> None:
    torch.manual_seed(0)
    net = StoryNet(CONFIG)
    batch = StoryExamples(PIECES, 20, 16, PIVOTS)(ROWS, ROWS, rngs())
    task = StoryTask(CONFIG, PIECES, "nowhere")
    for _ in range(3):
        task.loss(net, batch)
    with torch.no_grad():
        vectors = net.eval()._encoded(batch["sentences"])
    meaning = (batch["share"][..., None] * vectors).sum(1)
    centres = net.sums / net.counts[:, None]
    torch.testing.assert_close(centres[0], meaning[0])
    torch.testing.assert_close(centres[1], meaning[1:].mean(0))
    before = net.sums.clone()
    task.evaluate(net, batch)
    assert torch.equal(net.sums, before)


def test_only_whole_sentences_are_told() -> None:
    short = StoryExamples(PIECES, 12, 16, PIVOTS)
    row = {"style": "book", "sentences": TEXT[:4], "captions": CAPTIONS}
    tokens = short([row], [], [])["tokens"][0].tolist()
    assert END in tokens
    assert PIECES.decode(tokens[1:]) == TEXT[0]
    cut = StoryExamples(PIECES, 3, 16, PIVOTS)
    assert END not in cut([{**row, "sentences": TEXT[:1]}], [], [])["tokens"][0]


@torch.no_grad()
def test_a_sentence_is_the_same_vector_in_any_batch() -> None:
    torch.manual_seed(0)
    net = StoryNet(CONFIG).eval()
    pieces = [PIECES.encode(text) for text in [*TEXT, "red " * 20]]
    together = vectors_of(net, pieces, 32)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(pieces)))
    alone = torch.cat([vectors_of(net, [p], 32) for p in pieces])
    torch.testing.assert_close(together, alone)
    assert vectors_of(net, [], 32).shape == (0, 16)
    assert vectors_of(net, [[]], 32).isfinite().all()
    assert padded([[5, 6], [7]], 8).tolist() == [[5, 6], [7, PAD]]


def test_sentences_that_stand_together_find_each_other() -> None:
    vectors = torch.eye(4)[:, None].repeat(1, 2, 1)
    pair = torch.tensor([[0, 1]] * 3 + [[0, 0]])
    found = neighbours(vectors, pair)
    assert found[:3].max() < 0.01
    assert found[3] == 0


def test_learns_what_it_reads() -> None:
    task = StoryTask(CONFIG, PIECES, "nowhere")
    torch.manual_seed(0)
    net = task.build()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    examples = StoryExamples(PIECES, 20, 16, PIVOTS)
    rows = [{"style": "book", "sentences": [text], "captions": []} for text in TEXT]
    batch = examples(rows, rows, [])
    for _ in range(150):
        loss, _ = task.loss(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.evaluate(net.eval(), batch)["loss"].max() < 0.3
