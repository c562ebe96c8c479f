"""Names copied from a frozen net: their probabilities, and words that no caption taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmray.captioner import folder
from mmray.captioner.config import CaptionOptions
from mmray.captioner.data import CaptionExamples
from mmray.captioner.decode import START, beam, greedy
from mmray.captioner.model import NETS, CaptionConfig, CaptionNet, build_net
from mmray.captioner.naming import Names, Naming, names_of
from mmray.captioner.task import CaptionTask
from mmray.captioner.train import CaptionTraining
from mmray.captioner.vocabulary import Words
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.statistics import Statistics
from mmray.training.config import TrainConfig
from tests.captioner.worlds import write_captioned

ANIMALS = ("cat", "dog", "owl", "fox", "hen", "cow")
NAMES = Names(ANIMALS[:5], np.array([0, 1, 2, 3, 4, 4]), 8 * np.eye(6, 8), np.zeros(6))
"""Six classes, of which two share the last word of their names."""
CAPTIONS = ["a cat", "the dog sleeps", "a hen"]
WORDS = Words.of(CAPTIONS)
ALL = Words(WORDS.words, WORDS.counts, NAMES.words)


def new_net(arch: str = "transformer", places: int = 1) -> CaptionNet:
    torch.manual_seed(0)
    sizes = {"num_names": len(NAMES.words), "num_classes": 6}
    config = CaptionConfig(arch, 8, places, len(WORDS), 6, 32, 2, 2, 0.0, **sizes)  # type: ignore[arg-type]
    net = build_net(config)
    assert net.naming is not None
    net.naming.set_names(NAMES, WORDS.words)
    return net.eval()


def pictures(*classes: int, places: int = 1) -> Tensor:
    """Of which the frozen net is sure."""
    return torch.eye(6, 8)[list(classes)][:, None].repeat(1, places, 1)


@torch.no_grad()
def test_classes_of_one_name_are_one_word() -> None:
    naming = new_net().naming
    assert naming is not None
    p = naming.of(pictures(0, 4, 5, places=3))
    torch.testing.assert_close(p.sum(1), torch.ones(3))
    assert p.argmax(1).tolist() == [0, 4, 4]
    logits = torch.randn(6, 5, len(WORDS))
    found = naming(logits, torch.randn(6, 5, 32), p)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(6, 5))
    torch.testing.assert_close(
        found[..., : len(WORDS)].softmax(-1), logits.softmax(-1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("arch", NETS)
@torch.no_grad()
def test_word_by_word_is_as_whole_captions(arch: str) -> None:
    net, picture = new_net(arch, places=3), pictures(0, 4, places=3)
    tokens = torch.randint(4, len(ALL), (2, 2, 7))
    tokens[:, :, 0] = START
    whole, _ = net(picture, tokens)
    assert whole.shape == (2, 2, 7, len(ALL))
    state = net.start(picture).repeat(2)
    for t in range(7):
        logits, state = net.step(state, tokens[:, :, t].reshape(-1))
        torch.testing.assert_close(logits.view(2, 2, -1), whole[:, :, t], atol=1e-5, rtol=1e-5)


def test_only_words_of_which_the_net_is_sure_are_learned_as_names() -> None:
    naming = new_net().naming
    assert naming is not None
    tokens = torch.from_numpy(ALL.encode("a cat", 4))[None, None].repeat(2, 1, 1)
    names = naming.of(pictures(0, 1))  # the second shows a dog
    low, high = torch.zeros(tokens.shape), torch.ones(tokens.shape)
    renamed = naming.rename(tokens, names, low)
    assert renamed[0, 0].tolist() != tokens[0, 0].tolist()
    assert int(renamed[0, 0, 2]) == len(WORDS)  # the first name
    assert ALL.decode(renamed[0, 0, 1:]) == ["a", "cat"]
    assert renamed[1].equal(tokens[1])
    assert naming.rename(tokens, names, high).equal(tokens)


def test_words_that_no_caption_has_are_written() -> None:
    task = CaptionTask(
        new_net().config,
        ALL,
        Statistics(np.zeros(8, np.float32), np.ones(8, np.float32)),
        None,
        "nowhere",
        1,
        names=NAMES,
    )
    torch.manual_seed(0)
    model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    examples = CaptionExamples(WORDS, 6, False, captions=1, names=True)
    taught = {0: "a cat", 1: "a dog", 4: "a hen"}
    for step in range(120):
        rng = np.random.default_rng(step)
        rows = [
            {"features": np.eye(6, 8)[c] + rng.normal(scale=0.3, size=8), "captions": [taught[c]]}
            for c in rng.choice([*taught], 16)
        ]
        lots = [np.random.default_rng([step, i]) for i in range(16)]
        loss, _ = task.loss(model, examples(rows, rows, lots))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = pictures(0, 1, 2, 3, 4)
    for found in (greedy(model.eval(), seen, 6), beam(model, seen, 6)):
        texts = [" ".join(ALL.decode(tokens[0])) for tokens in found.tokens]
        assert texts == ["a cat", "a dog", "a owl", "a fox", "a hen"]


@torch.no_grad()
def test_the_frozen_net_is_the_one_that_made_the_features(stored: dict[str, str]) -> None:
    dataset = Dataset(stored["pooled"], "images")
    names = names_of(dataset, "features")
    table = next(dataset.batches(["features", "objects"], 8))
    classes, dim = names.weight.shape
    naming = Naming(4, dim, classes, 6, len(names.words))
    naming.set_names(names, ["red", "ball"])
    p = naming.of(torch.from_numpy(tensor(table["features"]).astype(np.float32))[:, None])
    expected = np.zeros((len(p), len(names.words)))
    for i, word in enumerate(names.classes):
        expected[:, word] += tensor(table["objects"])[:, i]
    np.testing.assert_allclose(p, expected, atol=5e-3)  # both are kept as float16


@pytest.mark.usefixtures("local_mode")
def test_a_captioner_keeps_its_names(tiny_teacher: str, tmp_path: Path) -> None:
    data = write_captioned(tmp_path / "data", tiny_teacher, grid=False)
    options = CaptionOptions(
        copy_names=True, min_count=1, dim=16, heads=2, scst=True, samples=2, scst_epochs=0.05
    )
    config = TrainConfig(batch_size=8, steps=4, eval_limit=8)
    trained = CaptionTraining(options, config, data, str(tmp_path / "captioner"), limit=32).run()
    known = folder.load(trained.path)
    names = names_of(Dataset(data, "images"), "features")
    assert known.words.names == names.words
    assert known.net.naming is not None
    np.testing.assert_array_equal(known.net.naming.weight, names.weight)


def test_a_net_that_names_otherwise_is_refused(stored: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"--copy-names: .* mean of its grid"):
        names_of(Dataset(stored["grid"], "images"), "grid")
