"""The historic joint model of pictures and tags, as its authors released it.

Srivastava & Salakhutdinov, *Multimodal Learning with Deep Boltzmann Machines* (NIPS 2012; JMLR 15,
2014). Two pathways of two binary layers each, one on real-valued picture features and one on tag
counts, and a binary layer that joins them::

    features - picture_hidden1 - picture_hidden2 - joint - text_hidden2 - text_hidden1 - tags

The recipe that the authors released (deepnet) trained a deep belief net, and so does this: a stack
of RBMs, each on the activities of the layer below. The paper's own model differs: it doubles
weights in pretraining, then trains all layers together with persistent chains, and infers all of
them from both their neighbours. Here, as in deepnet, activities go up each pathway once; what is
missing is inferred between the joint layer and its neighbours, and goes down from there.

One thing is younger: the machines are centred (Montavon & Müller, *Deep Boltzmann Machines and the
Centering Trick*, 2012). Without it the upper layers learn little but how often units are on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

Visible = Literal["gaussian", "binary", "words"]
HIDDEN = ("picture_hidden1", "picture_hidden2", "text_hidden1", "text_hidden2", "joint")
LARGEST_Z = 10.0
SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class DbmConfig:
    """The sizes of a `Dbm`, and how its layers are trained.

    Args:
        feature_dim: picture features.
        num_tags: size of the vocabulary.
        picture_hidden: units in each of the two layers above the features.
        text_hidden: units in each of the two layers above the tags.
        joint_hidden: units in the layer that joins both.
        words: the length that all documents are rescaled to, so that few tags count as much as
            many (`adaptive_prior` of deepnet, which has 100).
        cd_steps: Gibbs steps of contrastive divergence.
        mean_field_steps: sweeps that infer what is missing.
        sparsity: how often a hidden unit below the joint layer is to be on, between 0 and 1.
        sparsity_cost: weight of the penalty on being on more or less often; 0: none.
    """

    feature_dim: int
    num_tags: int
    picture_hidden: int = 1024
    text_hidden: int = 1024
    joint_hidden: int = 2048
    words: int = 10
    cd_steps: int = 1
    mean_field_steps: int = 10
    sparsity: float = 0.2
    sparsity_cost: float = 0.1


def log_odds(probability: float) -> float:
    """What a sigmoid turns into a probability."""
    return math.log(probability / (1 - probability))


class Rbm(nn.Module):
    """A restricted Boltzmann machine with binary hidden units.

    Its visible units are `gaussian` (with variance 1), `binary`, or `words`: the counts of a
    document, whose words share their weights as in the Replicated Softmax (Salakhutdinov & Hinton,
    NIPS 2009), where the hidden units' biases grow with the document's length.

    Weights act on how far units are from their usual activity, which the biases stand for.

    Args:
        visible: kind of the visible units.
        num_visible: visible units, or the vocabulary's size.
        num_hidden: hidden units.
        words: in the documents that the machine makes.
        visible_usual: how often a binary visible unit is on; of others, 0.
        hidden_usual: how often a hidden unit is on.
    """

    def __init__(
        self,
        visible: Visible,
        num_visible: int,
        num_hidden: int,
        words: int = 0,
        visible_usual: float = 0.0,
        hidden_usual: float = 0.5,
    ) -> None:
        super().__init__()
        self.visible, self.words = visible, words
        self.visible_usual, self.hidden_usual = visible_usual, hidden_usual
        # Inputs of about 1: a document's norm is at most its length.
        scale = 1 / words if words else max(num_visible, num_hidden) ** -0.5
        self.weight = nn.Parameter(torch.randn(num_visible, num_hidden) * scale)
        visible_bias = log_odds(visible_usual) if visible == "binary" else 0.0
        # A document's hidden biases count once for each of its words.
        hidden_bias = log_odds(hidden_usual) / max(words, 1)
        self.visible_bias = nn.Parameter(torch.full((num_visible,), visible_bias))
        self.hidden_bias = nn.Parameter(torch.full((num_hidden,), hidden_bias))

    def hidden_logits(self, visible: Tensor) -> Tensor:
        """The log odds that each hidden unit is on: [B, V] -> [B, H]."""
        return self._with_bias(visible, (visible - self.visible_usual) @ self.weight)

    def visible_logits(self, hidden: Tensor) -> Tensor:
        """The visible units' means, log odds, or words' log probabilities plus a constant.

        [B, H] -> [B, V].
        """
        return self.visible_bias + (hidden - self.hidden_usual) @ self.weight.T

    def visible_mean(self, hidden: Tensor) -> Tensor:
        """The mean of the visible units given the hidden: [B, H] -> [B, V]."""
        logits = self.visible_logits(hidden)
        if self.visible == "gaussian":
            return logits
        return self.words * logits.softmax(-1) if self.visible == "words" else logits.sigmoid()

    def free_energy(self, visible: Tensor) -> Tensor:
        """-log of the visible units' probability, not normalised: [B, V] -> [B].

        Of words, it is that of one order of theirs.
        """
        logits = self.hidden_logits(visible)
        if self.visible == "gaussian":
            energy = 0.5 * (visible - self.visible_bias).square().sum(-1)
        else:
            energy = -((visible - self.visible_usual) @ self.visible_bias)
        return energy - (F.softplus(logits) - self.hidden_usual * logits).sum(-1)

    def divergence(self, data: Tensor, steps: int) -> Tensor:
        """What has the gradient of contrastive divergence (Hinton, 2002): [B, V] -> [B].

        The values themselves mean little. After `steps` Gibbs steps the visible units are at
        their means, which are less noisy than samples.
        """
        model = data
        with torch.no_grad():
            for _ in range(steps):
                model = self.visible_mean(torch.bernoulli(self.hidden_logits(model).sigmoid()))
        return self.free_energy(data) - self.free_energy(model)

    def sparsity_penalty(self, data: Tensor, target: float) -> Tensor:
        """Cross-entropy between the hidden units and `target`, summed over units: [B, V] -> [B].

        Only the biases have a gradient, as in Lee et al. (NIPS 2007): the mean activity less its
        target. It is a mean over examples, and no example's own activity is pulled to the target.
        """
        fixed = ((data - self.visible_usual) @ self.weight).detach()
        logits = self._with_bias(data, fixed)
        return (F.softplus(logits) - target * logits).sum(-1)

    def _with_bias(self, visible: Tensor, inputs: Tensor) -> Tensor:
        if self.visible == "words":
            return inputs + visible.sum(-1, keepdim=True) * self.hidden_bias
        return inputs + self.hidden_bias


class Dbm(nn.Module):
    """A multimodal Deep Boltzmann Machine, trained as a deep belief net.

    New weights come from torch's global generator, as do the samples in training.

    Args:
        config: sizes and training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DbmConfig) -> None:
        super().__init__()
        self.config = c = config
        often = c.sparsity
        self.picture1 = Rbm("gaussian", c.feature_dim, c.picture_hidden, 0, 0, often)
        self.picture2 = Rbm("binary", c.picture_hidden, c.picture_hidden, 0, often, often)
        self.text1 = Rbm("words", c.num_tags, c.text_hidden, c.words, 0, often)
        self.text2 = Rbm("binary", c.text_hidden, c.text_hidden, 0, often, often)
        self.joint = Rbm("binary", c.picture_hidden + c.text_hidden, c.joint_hidden, 0, often)
        self.register_buffer("mean", torch.zeros(c.feature_dim))
        self.register_buffer("std", torch.ones(c.feature_dim))

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor, tag_counts: Tensor | None = None) -> None:
        """Start from what is known of the training data; to be called before training.

        Args:
            mean: of each picture feature, float [D].
            std: of each picture feature, float [D].
            tag_counts: how often each tag occurs, [V]; what tags are likely without a picture.
        """
        self.mean.copy_(mean)
        constant = self.mean.abs().clamp_min(1.0) * SMALLEST_STD
        self.std.copy_(torch.where(std.to(self.std) > constant, std.to(self.std), 1.0))
        if tag_counts is not None:
            smoothed = tag_counts.to(self.std) + 1.0
            self.text1.visible_bias.copy_((smoothed / smoothed.mean()).log())

    def forward(self, features: Tensor, tags: Tensor, has_tags: Tensor) -> dict[str, Tensor]:
        """The losses of the five RBMs, to be summed.

        All layers learn at once, each from those below as they are. Those that see tags learn
        from rows that have some; elsewhere their losses are 0.

        Args:
            features: of pictures, float [B, D].
            tags: counts or presence, [B, V].
            has_tags: bool [B]; rows whose tags are all 0 have none either.

        Returns:
            Losses of the examples, float [B] each: `picture1`, `picture2`, `text1`, `text2`,
            `joint`. Their gradients are meant; their values mean little.
        """
        with torch.autocast(features.device.type, enabled=False):  # differences of large numbers
            units = self._upward(self._picture(features), self._document(tags))
            tagged = (has_tags & (tags.sum(-1) > 0)).float()
            both = torch.cat([units["picture_hidden2"], units["text_hidden2"]], -1)
            return {
                "picture1": self._loss(self.picture1, units["picture"]),
                "picture2": self._loss(self.picture2, units["picture_hidden1"]),
                "text1": self._loss(self.text1, units["text"]) * tagged,
                "text2": self._loss(self.text2, units["text_hidden1"]) * tagged,
                "joint": self._loss(self.joint, both, sparse=False) * tagged,
            }

    @torch.no_grad()
    def infer(
        self,
        features: Tensor | None,
        tags: Tensor | None,
        *,
        has_picture: Tensor | None = None,
        has_tags: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean-field activities of all hidden units; what is missing is inferred.

        Args:
            features: of pictures, float [B, D]; None if no row has a picture.
            tags: counts or presence, [B, V]; None if no row has tags.
            has_picture: bool [B]; default all rows, if there are features.
            has_tags: bool [B]; default all rows with tags that are not 0.

        Returns:
            Probabilities that the units are on, float [B, H] each: `picture_hidden1`,
            `picture_hidden2`, `text_hidden1`, `text_hidden2`, `joint`.
        """
        units = self._mean_field(features, tags, has_picture, has_tags)
        return {name: units[name] for name in HIDDEN}

    @torch.no_grad()
    def tag_probabilities(self, features: Tensor | None, given: Tensor | None = None) -> Tensor:
        """The distribution of tags over the vocabulary.

        Args:
            features: of pictures, float [B, D]; None for what the given tags alone tell.
            given: counts or presence of tags that are known, [B, V]; rows of 0 know none.

        Returns:
            Float [B, V]; each row sums to 1.
        """
        units = self._mean_field(features, given)
        hidden1 = self.text2.visible_mean(self._from_joint("text", units["joint"]))
        return self.text1.visible_logits(hidden1).softmax(-1)

    @torch.no_grad()
    def sample_tags(
        self, features: Tensor, steps: int = 50, generator: Generator | None = None
    ) -> Tensor:
        """Documents drawn from the model by Gibbs sampling, with the pictures given.

        Args:
            features: of pictures, float [B, D].
            steps: sweeps, beginning at the mean field.
            generator: source of the randomness, on the model's device.

        Returns:
            Counts of the tags, float [B, V]; each row sums to `config.words`.
        """
        units = self._mean_field(features, None)
        for _ in range(steps):
            # As in training, only the upper layer is drawn.
            units["joint"] = torch.bernoulli(self._joint_mean(units), generator=generator)
            units["text_hidden2"] = self._from_joint("text", units["joint"])
        words = self.text1.visible_mean(self.text2.visible_mean(units["text_hidden2"]))
        drawn = torch.multinomial(words, self.config.words, True, generator=generator)
        ones = torch.ones_like(drawn, dtype=words.dtype)
        return torch.zeros_like(words).scatter_add(1, drawn, ones)

    @torch.no_grad()
    def picture_features(self, tags: Tensor) -> Tensor:
        """The features of the picture that tags bring to mind: [B, V] -> [B, D]."""
        return self._mean_field(None, tags)["picture"] * self.std + self.mean

    @torch.no_grad()
    def reconstruction_errors(self, features: Tensor, tags: Tensor) -> dict[str, Tensor]:
        """How well each pathway's first layer keeps what it sees, float [B] each.

        `picture`: mean squared error of the standardised features [B, D]; `text`: cross-entropy
        of the tags [B, V] in nats a tag, 0 for rows without tags.
        """
        units = self._upward(self._picture(features), self._document(tags))
        picture = self.picture1.visible_mean(units["picture_hidden1"]) - units["picture"]
        log_words = self.text1.visible_logits(units["text_hidden1"]).log_softmax(-1)
        text = -(units["text"] * log_words).sum(-1) / self.config.words
        return {"picture": picture.square().mean(-1), "text": text}

    def _loss(self, rbm: Rbm, data: Tensor, sparse: bool = True) -> Tensor:
        loss = rbm.divergence(data, self.config.cd_steps)
        if sparse:
            loss = loss + self.config.sparsity_cost * rbm.sparsity_penalty(
                data, self.config.sparsity
            )
        return loss

    def _picture(self, features: Tensor) -> Tensor:
        """Standardised; one wild value must not silence all other features."""
        return ((features.float() - self.mean) / self.std).clamp(-LARGEST_Z, LARGEST_Z)

    def _document(self, tags: Tensor) -> Tensor:
        """Rescaled to `words`; rows without tags stay 0."""
        tags = tags.float()
        return tags * (self.config.words / tags.sum(-1, keepdim=True).clamp_min(SMALLEST_STD))

    @torch.no_grad()
    def _upward(self, picture: Tensor, text: Tensor) -> dict[str, Tensor]:
        """All units, each layer from the one below."""
        units = {"picture": picture, "text": text}
        for name, first, second in self._pathways():
            units[f"{name}_hidden1"] = first.hidden_logits(units[name]).sigmoid()
            units[f"{name}_hidden2"] = second.hidden_logits(units[f"{name}_hidden1"]).sigmoid()
        units["joint"] = self._joint_mean(units)
        return units

    def _mean_field(
        self,
        features: Tensor | None,
        tags: Tensor | None,
        has_picture: Tensor | None = None,
        has_tags: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """All units, `picture` and `text` among them, where those that are missing are inferred."""
        clamped, known = self._clamped(features, tags, has_picture, has_tags)
        units = self._upward(clamped["picture"], clamped["text"])
        for _ in range(self.config.mean_field_steps):
            for name, _, _ in self._pathways():
                guess, hidden2 = self._from_joint(name, units["joint"]), f"{name}_hidden2"
                units[hidden2] = torch.where(known[name], units[hidden2], guess)
            units["joint"] = self._joint_mean(units)
        for name, first, second in self._pathways():
            hidden1 = second.visible_mean(units[f"{name}_hidden2"])
            units[name] = torch.where(known[name], units[name], first.visible_mean(hidden1))
            units[f"{name}_hidden1"] = torch.where(known[name], units[f"{name}_hidden1"], hidden1)
        return units

    def _clamped(
        self,
        features: Tensor | None,
        tags: Tensor | None,
        has_picture: Tensor | None,
        has_tags: Tensor | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Visible units, where nothing is known at their usual values; which are known, [B, 1]."""
        some = features if features is not None else tags
        assert some is not None, "neither pictures nor tags"
        everywhere = torch.ones(len(some), dtype=torch.bool, device=some.device)
        has_picture = everywhere if has_picture is None else has_picture
        has_tags = everywhere if has_tags is None else has_tags
        if features is None:
            features, has_picture = self.mean.expand(len(some), -1), ~everywhere
        if tags is None:
            tags = features.new_zeros(len(some), self.config.num_tags)
        has_tags = has_tags & (tags.sum(-1) > 0)
        known = {"picture": has_picture[:, None], "text": has_tags[:, None]}
        usual = self.config.words * self.text1.visible_bias.softmax(-1)
        picture = torch.where(known["picture"], self._picture(features), 0.0)
        text = torch.where(known["text"], self._document(tags), usual)
        return {"picture": picture, "text": text}, known

    def _pathways(self) -> tuple[tuple[str, Rbm, Rbm], ...]:
        return ("picture", self.picture1, self.picture2), ("text", self.text1, self.text2)

    def _joint_mean(self, units: dict[str, Tensor]) -> Tensor:
        both = torch.cat([units["picture_hidden2"], units["text_hidden2"]], -1)
        return self.joint.hidden_logits(both).sigmoid()

    def _from_joint(self, name: str, joint: Tensor) -> Tensor:
        """The mean of a pathway's second layer given the joint layer."""
        sizes = [self.config.picture_hidden, self.config.text_hidden]
        picture, text = self.joint.visible_mean(joint).split(sizes, -1)
        return picture if name == "picture" else text
