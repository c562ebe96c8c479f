"""What captioners are trained on: people's words, and rewards for their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmray.captioner.data import CaptionExamples, frequencies_of, references_of
from mmray.captioner.decode import END, PAD, START, Decoded, greedy
from mmray.captioner.model import CaptionConfig
from mmray.captioner.scores import scores
from mmray.captioner.task import CaptionTask, RewardTask, cider, uneven, with_start, word_losses
from mmray.captioner.vocabulary import Words
from mmray.pipeline.statistics import Statistics

CAPTIONS = [
    ["A red ball on the grass.", "the red ball"],
    ["A blue box in a room", "there is a blue box", "a box"],
    ["Two green cats under a tree"],
]
WORDS = Words.of(text for texts in CAPTIONS for text in texts)
EXAMPLES = CaptionExamples(WORDS, 8, False, captions=2, rewards=True)


def rows(captions: list | None = None) -> list[dict]:
    lists = CAPTIONS if captions is None else captions
    vectors = np.eye(max(len(lists), 4), dtype=np.float16)
    return [{"features": 3 * vectors[i], "captions": texts} for i, texts in enumerate(lists)]


def new_task(kind: type[CaptionTask] = CaptionTask, **more: object) -> CaptionTask:
    config = CaptionConfig("transformer", 4, 1, len(WORDS), 8, 32, 2, 2, 0.0)
    statistics = Statistics(np.zeros(4, np.float32), np.ones(4, np.float32))
    frequencies = frequencies_of(iter(CAPTIONS), end=False)
    return kind(config, WORDS, statistics, frequencies, "nowhere", 0.0, **more)  # type: ignore[arg-type]


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([0, i]) for i in range(count)]


def test_batches_of_captions() -> None:
    batch = EXAMPLES(rows(), rows(), [])
    assert batch["picture"].shape == (3, 1, 4)
    assert batch["tokens"].shape == (3, 2, 8)  # as the longest needs
    assert WORDS.decode(batch["tokens"][1, 1]) == ["there", "is", "a", "blue", "box"]
    assert (batch["tokens"][2, 1] == PAD).all()
    known = references_of(batch["references"])
    assert [len(texts) for texts in known] == [2, 3, 1]
    assert len(known[0][0]) == 6
    grids = [{"grid": np.ones((2, 3, 5), np.float16), "captions": texts} for texts in CAPTIONS]
    assert CaptionExamples(WORDS, 8, True)(grids, grids, [])["picture"].shape == (3, 6, 5)


def test_one_caption_each_is_one_caption_each() -> None:
    single = rows([texts[:1] for texts in CAPTIONS])
    assert CaptionExamples(WORDS, 8, False)(single, single, [])["tokens"].shape[1] == 1


def test_pictures_without_captions_teach_nothing() -> None:
    some, none = rows(), rows([None, [], ["", "..."]])
    batch = EXAMPLES(none, none, [])
    assert batch["has_captions"].tolist() == [0, 0, 0]
    task = new_task()
    model = task.build()
    loss, _ = task.loss(model, batch)
    assert loss.item() == 0
    values = task.evaluate(model, EXAMPLES([*some, *none], some, []))
    assert values["cider"].isnan().tolist() == [False] * 3 + [True] * 3


def test_captions_are_drawn_by_lot_where_there_are_more() -> None:
    many = [[f"caption number {word}" for word in "abcdefgh"]]
    examples = CaptionExamples(Words.of(many[0]), 8, False, captions=2)
    drawn = {
        tuple(map(tuple, examples(rows(many), [], [rng])["tokens"][0].tolist())) for rng in rngs(20)
    }
    assert len(drawn) > 10


def test_the_loss_is_the_mean_over_pictures_of_their_words() -> None:
    logits = torch.randn(2, 2, 3, 7)
    targets = torch.tensor([[[4, END, PAD], [5, 6, END]], [[4, END, PAD], [PAD] * 3]])
    told = -logits.log_softmax(-1)
    first = [
        told[0, 0, 0, 4],
        told[0, 0, 1, END],
        *(told[0, 1, i, t] for i, t in enumerate((5, 6, 2))),
    ]
    found = word_losses(logits, targets, 0.0)
    torch.testing.assert_close(found[0], torch.stack(first).mean())
    torch.testing.assert_close(found[1], (told[1, 0, 0, 4] + told[1, 0, 1, END]) / 2)


def test_the_cider_of_an_evaluation_is_that_of_the_whole_set() -> None:
    task = new_task()
    model = task.build().eval()
    values = task.evaluate(model, EXAMPLES(rows(), rows(), []))
    written = greedy(model, EXAMPLES(rows(), rows(), [])["picture"], 8)
    texts = [" ".join(WORDS.decode(tokens[0])) for tokens in written.tokens]
    assert values["cider"].mean().item() == pytest.approx(
        scores(texts, CAPTIONS)["cider"], abs=1e-5
    )
    parts = [task.evaluate(model, EXAMPLES(rows()[i : i + 1], [], []))["cider"] for i in (0,)]
    torch.testing.assert_close(parts[0], values["cider"][:1])


def test_captions_that_break_off_earn_less() -> None:
    frequencies = frequencies_of(iter(CAPTIONS), end=True)
    tokens = torch.from_numpy(np.stack([WORDS.encode(texts[0], 8)[1:] for texts in CAPTIONS]))
    broken = torch.where(tokens == END, PAD, tokens)
    both = torch.stack([tokens, broken], 1)
    written = Decoded(both, torch.zeros(3, 2), both.ne(PAD).any(-1))
    known = references_of(EXAMPLES(rows(), [], [])["references"])
    found = cider(written, known, frequencies, WORDS.hashes, True)
    assert (found[:, 0] > found[:, 1] + 0.1).all()
    assert found[2, 0] == pytest.approx(10, abs=1e-4)


def test_rewards_raise_the_reward() -> None:
    torch.manual_seed(0)
    frequencies = frequencies_of(iter(CAPTIONS), end=True)
    task = new_task(RewardTask, train_frequencies=frequencies, own_weight=0.0)
    model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    plain = new_task()
    for _ in range(25):  # so that there is something to reward
        loss, _ = plain.loss(model, EXAMPLES(rows(), rows(), rngs(3)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    examples = CaptionExamples(WORDS, 8, False, captions=2, rewards=True, samples=5)
    rewards = []
    for step in range(80):
        batch = examples(rows(), rows(), [np.random.default_rng([step, i]) for i in range(3)])
        loss, values = task.loss(model, batch)
        rewards.append(values["reward"].item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 1


def test_where_one_looks_evenly() -> None:
    spoken = torch.tensor([[[True, True, False]]])
    even = torch.tensor([[[[1.0, 0], [0, 1], [1, 0]]]])
    assert uneven(even, spoken).item() == 0
    one_place = torch.tensor([[[[1.0, 0], [1, 0], [0, 1]]]])
    assert uneven(one_place, spoken).item() == 1
    none = torch.zeros_like(spoken)
    assert uneven(one_place.repeat(1, 2, 1, 1), torch.cat([spoken, none], 1)).item() == 1


def test_drawn_captions_as_training_captions() -> None:
    tokens = torch.tensor([[[4, 5, END]]])
    assert with_start(tokens, 6).tolist() == [[[START, 4, 5, END, PAD, PAD]]]
    longer = torch.tensor([[[4, 5, END, PAD], [4, END, PAD, PAD]]])
    assert with_start(longer).tolist() == [[[START, 4, 5, END], [START, 4, END, PAD]]]
