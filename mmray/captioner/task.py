"""Training a captioner: the tasks that the shared training loop runs.

First word by word on people's captions (cross-entropy), then, if asked for, on what it writes
itself, rewarded by CIDEr-D (self-critical sequence training: Rennie et al., CVPR 2017; with the
mean of the other samples as the baseline: Luo, *A Better Variant of Self-Critical Sequence
Training*, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.captioner.cider import Cider, DocumentFrequencies
from mmray.captioner.data import END_HASH, references_of
from mmray.captioner.decode import END, PAD, START, Decoded, greedy, log_probabilities, sample
from mmray.captioner.model import CaptionConfig, CaptionNet, build_net
from mmray.captioner.naming import Names
from mmray.captioner.vocabulary import Words
from mmray.pipeline.statistics import Statistics
from mmray.training.loader import Batch


@dataclass(frozen=True)
class CaptionTask:
    """Learn people's captions word by word.

    Args:
        config: sizes of the net.
        words: the vocabulary.
        statistics: of the features.
        val_frequencies: of the words of the captions that evaluations compare with.
        data: the dataset, for the record.
        captions: of a picture in each step, for the record.
        smoothing: share of the probability that label smoothing gives to all words alike.
        even_weight: weight of looking at all places equally often (the doubly stochastic
            attention of Show, Attend and Tell).
        start: folder of a trained captioner whose weights to begin with.
        names: that are copied from the frozen net.
    """

    config: CaptionConfig
    words: Words = field(repr=False)
    statistics: Statistics = field(repr=False)
    val_frequencies: DocumentFrequencies | None = field(repr=False)
    data: str
    captions: int = 5
    smoothing: float = 0.1
    even_weight: float = 1.0
    start: str | None = None
    names: Names | None = field(default=None, repr=False)

    name = "captioner"

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint writes the captions most like people's."""
        return ("cider", "max") if self.val_frequencies else ("loss", "min")

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {
            **self.config.to_json(),
            "captions": self.captions,
            "smoothing": self.smoothing,
            "even_weight": self.even_weight,
            "rewards": False,
        }

    def build(self) -> CaptionNet:
        """The net with its first weights."""
        if self.start is not None:
            from mmray.captioner.folder import load

            return load(self.start).net.train()
        net = build_net(self.config)
        counts = torch.zeros(self.config.num_tokens)
        counts[-len(self.words.counts) :] = torch.tensor(self.words.counts, dtype=torch.float32)
        counts[END] = counts.sum() / 10  # about one word in ten is the last
        mean, std = (torch.from_numpy(x) for x in (self.statistics.mean, self.statistics.std))
        net.set_statistics(mean, std, counts)
        if net.naming is not None and self.names is not None:
            net.naming.set_names(self.names, self.words.words)
        return net

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over pictures of the mean cross-entropy of their captions' words."""
        tokens = self._renamed(model, batch)
        logits, looked = model(batch["picture"], tokens[:, :, :-1])
        losses = word_losses(logits, tokens[:, :, 1:], self.smoothing, self.config.num_tokens)
        found = {"cross_entropy": losses.mean()}
        if looked.shape[-1] and self.even_weight:
            found["even"] = uneven(looked, tokens[:, :, 1:] != PAD).mean()
            return found["cross_entropy"] + self.even_weight * found["even"], found
        return found["cross_entropy"], found

    def _renamed(self, model: nn.Module, batch: Batch) -> Tensor:
        """The captions, with names for some of the words that the frozen net knows."""
        naming, tokens = unwrapped(model).naming, batch["tokens"]
        if naming is None:
            return tokens
        return naming.rename(tokens, naming.of(batch["picture"]), batch["lots"])

    def evaluate(self, model: CaptionNet, batch: Batch) -> dict[str, Tensor]:
        """For each picture the loss without smoothing, and the CIDEr-D of the greedy caption."""
        tokens, known = batch["tokens"], batch["has_captions"] > 0
        logits, _ = model(batch["picture"], tokens[:, :, :-1])
        values = {"loss": word_losses(logits, tokens[:, :, 1:], 0.0)}
        if self.val_frequencies is not None:
            written = greedy(model, batch["picture"], self.config.max_length)
            references = references_of(batch["references"])
            rewards = cider(written, references, self.val_frequencies, self.words.hashes, False)
            values["cider"] = torch.from_numpy(rewards[:, 0]).to(values["loss"])
        return {k: torch.where(known, v, torch.nan) for k, v in values.items()}

    def save(self, model: CaptionNet, where: str, training: dict[str, Any]) -> None:
        """Write the model folder."""
        from mmray.captioner.folder import save

        save(model.eval(), self.words, self.data, where, training)

    def pictures(self, model: CaptionNet) -> dict[str, bytes]:
        """Pictures of the split val with what is written of them."""
        from mmray.captioner.gallery import gallery

        return {"captions.png": gallery(model.eval(), self.words, self.data)}


@dataclass(frozen=True)
class RewardTask(CaptionTask):
    """Learn from what is written, by its CIDEr-D with people's captions.

    Args:
        train_frequencies: of the words of the training captions, ends among them.
        samples: captions that are drawn of each picture, for the record.
        own_weight: weight of the cross-entropy on people's captions beside the reward, which
            keeps the language.
    """

    train_frequencies: DocumentFrequencies | None = field(default=None, repr=False)
    samples: int = 5
    own_weight: float = 0.1

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on."""
        return {
            **super().settings(),
            "rewards": True,
            "samples": self.samples,
            "own_weight": self.own_weight,
        }

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Make samples that are better than the picture's other samples likelier."""
        assert self.train_frequencies is not None
        net, picture, tokens = unwrapped(model), batch["picture"], self._renamed(model, batch)
        samples = batch["uniforms"].shape[1]
        net.eval()  # what is rewarded is what the captioner will write
        written = sample(net, picture, batch["uniforms"], self.config.max_length)
        net.train()
        references = references_of(batch["references"])
        rewards = cider(written, references, self.train_frequencies, self.words.hashes, True)
        rewards *= batch["has_captions"].cpu().numpy()[:, None]
        gain = rewards - (rewards.sum(1, keepdims=True) - rewards) / max(samples - 1, 1)
        drawn = with_start(written.tokens, tokens.shape[2])
        tokens = F.pad(tokens, (0, drawn.shape[2] - tokens.shape[2]), value=PAD)
        logits, _ = model(picture, torch.cat([drawn, tokens], 1)[:, :, :-1])
        chosen, own = logits.split([samples, tokens.shape[1]], 1)
        targets = drawn[:, :, 1:]
        spoken = (targets != PAD).float()
        # Of the words that may be drawn, as they were drawn.
        told = log_probabilities(chosen).gather(-1, targets.clamp_min(END)[..., None])[..., 0]
        losses = -(told * spoken).sum(2) / spoken.sum(2).clamp_min(1)
        critical = (losses * torch.from_numpy(gain).to(losses)).mean()
        people = word_losses(own, tokens[:, :, 1:], self.smoothing, self.config.num_tokens).mean()
        reward = torch.tensor(rewards.mean(), device=losses.device, dtype=losses.dtype)
        found = {"critical": critical, "cross_entropy": people, "reward": reward}
        return critical + self.own_weight * people, found


def word_losses(
    logits: Tensor, targets: Tensor, smoothing: float, num_words: int | None = None
) -> Tensor:
    """Mean cross-entropy of each picture's words: [B, C, T, V] and [B, C, T] -> [B].

    0 for a picture without captions.

    Args:
        logits: of the words.
        targets: the words.
        smoothing: share of the probability that all words get alike.
        num_words: words that share it, the first ones; default: all.
    """
    log_p = logits.float().log_softmax(-1)
    losses = -(1 - smoothing) * log_p.gather(-1, targets[..., None])[..., 0]
    if smoothing:
        losses = losses - smoothing * log_p[..., :num_words].mean(-1)
    spoken = (targets != PAD).float()
    return (losses * spoken).sum((1, 2)) / spoken.sum((1, 2)).clamp_min(1)


def uneven(looked: Tensor, spoken: Tensor) -> Tensor:
    """How unevenly captions look at the places: [B, C, T, N] and bool [B, C, T] -> [B].

    Over a caption each place should be looked at as often as the others (Xu et al., 2015, there
    once each; here the mean square of the deviations from that, for any length and grid).
    """
    spoken = spoken.float()
    share = (looked * spoken[..., None]).sum(2) / spoken.sum(2, keepdim=True).clamp_min(1)
    there = spoken.amax(2)
    square = (share * looked.shape[-1] - 1).square().mean(-1)
    return (square * there).sum(1) / there.sum(1).clamp_min(1)


def cider(
    written: Decoded,
    references: Sequence[Sequence[Sequence[int]]],
    frequencies: DocumentFrequencies,
    hashes: np.ndarray,
    end: bool,
) -> np.ndarray:
    """CIDEr-D of captions, n of each of B pictures: float32 [B, n].

    Args:
        written: tokens [B, n, L].
        references: captions of each picture, as `word_hash`es; a picture without any scores 0.
        frequencies: that weigh the phrases.
        hashes: `word_hash` of each token, int64 [V].
        end: count the end as a word, so that captions that break off lose by it.
    """
    last = [END_HASH] if end else []
    known = [[[*caption, *last] for caption in captions] or [[0]] for captions in references]
    candidates, images = [], []
    for i, captions in enumerate(written.tokens.tolist()):
        for caption in captions:
            spoken = [token for token in caption if token not in (PAD, END)]
            ended = last if END in caption else []
            candidates.append([*hashes[spoken].tolist(), *ended])
            images.append(i)
    found = Cider(known, frequencies).score(candidates, images)
    return found.reshape(len(references), -1).astype(np.float32)


def with_start(tokens: Tensor, length: int = 2) -> Tensor:
    """Captions as they were drawn, [B, n, L], as `Words.encode` gives them.

    As wide as the longest of them needs, and at least `length`: [B, n, L'].
    """
    used = max(1, int((tokens != PAD).sum(-1).max()))
    full = F.pad(tokens[:, :, :used], (1, max(0, length - used - 1)), value=PAD)
    full[:, :, 0] = START
    return full


def unwrapped(model: nn.Module) -> CaptionNet:
    """The net itself, out of what wraps it for data-parallel training."""
    net = getattr(model, "module", model)
    assert isinstance(net, CaptionNet)
    return net
