"""What users call: stories about pictures, in the style of a book.

storyteller = mmray.load("runs/train_storyteller/model")
storyteller.stories(["a.jpg"], style="kjv")[0][0].story       # at full strength
storyteller.stories(["a.jpg"], style="kjv", strength=0.5, n=3) # the three best of 16
storyteller.stories_of([["A dog runs on the beach."]], "kjv")  # of sentences, without a picture
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmray.captioner.decode import END, PAD, UNKNOWN, sample
from mmray.captioner.predict import Captioner
from mmray.errors import UserError
from mmray.media.picture import Image
from mmray.models import choose_device
from mmray.storyteller import folder
from mmray.storyteller.data import SENTENCE
from mmray.storyteller.folder import Stored
from mmray.storyteller.model import vectors_of
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.styles import tells

CANDIDATES = 16
"""Stories that are drawn of each picture, of which the best are told."""
CAPTIONS = 5
"""Captions of a picture that a story is about."""
LOOP = 4
"""Pieces that must not follow one another twice."""
TEMPERATURE, TOP_P = 0.5, 0.8
"""Of what is drawn; hotter stories vary more, and spell more words that are none."""
_BATCH = 256


class Story(NamedTuple):
    """A passage about a picture."""

    story: str
    style: str
    strength: float
    captions: list[str]
    """What it is about."""
    match: float
    """How much it is about them, -1 to 1."""
    log_odds: float
    """By how much its words tell of the style rather than of captions, a piece."""
    ended: bool
    """Whether it came to its end; else it was cut."""


class Storyteller:
    """A trained storyteller, ready to use.

    Args:
        stored: what the model folder holds.
        captioner: that finds sentences for pictures; None where only sentences are given.
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(
        self, stored: Stored, captioner: Captioner | None = None, device: str = "auto"
    ) -> None:
        self.stored = stored
        self.captioner = captioner
        self.device = choose_device(device)
        self.net = stored.net.to(self.device).eval()

    @classmethod
    def load(
        cls, where: str, device: str = "auto", threads: int = 1, captioner: str | None = None
    ) -> Storyteller:
        """Load a model folder.

        Args:
            where: the folder.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            threads: CPU threads of the backbone.
            captioner: a captioner in place of the one that the folder keeps.

        Raises:
            UserError: nothing usable is there.
        """
        stored = folder.load(where)
        found = captioner or stored.captioner
        known = None if found is None else Captioner.load(found, device, threads)
        return cls(stored, known, device)

    @property
    def styles(self) -> list[str]:
        """Names of the styles."""
        return [name for name in self.stored.styles if name != PLAIN]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the answers depend on."""
        digest = hashlib.sha256(json.dumps(self.net.config.to_json(), sort_keys=True).encode())
        digest.update(self.stored.pieces.model)
        for name, style in self.stored.styles.items():
            digest.update(name.encode() + style.vector.tobytes() + style.preference.tobytes())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        digest.update((self.captioner.fingerprint if self.captioner else "").encode())
        return digest.hexdigest()

    def stories(
        self,
        images: Sequence[Image],
        style: str,
        strength: float = 1.0,
        n: int = 1,
        *,
        seed: int = 0,
    ) -> list[list[Story]]:
        """Passages about each picture, the best first.

        Args:
            images: the pictures.
            style: one of `styles`.
            strength: 0 for plain description, 1 for the book.
            n: passages of each picture, at most `CANDIDATES`.
            seed: the same seed tells the same stories of a picture.

        Raises:
            MediaError: a picture cannot be decoded.
            UserError: an unknown style, a number out of its range, or no captioner.
        """
        self.check(style, strength, n)
        found = self.need_captioner().captions(images, CAPTIONS, CAPTIONS)
        told = [[caption.caption for caption in captions] for captions in found]
        return self.stories_of(told, style, strength, n, seed=seed)

    def stories_of(
        self,
        captions: Sequence[Sequence[str]],
        style: str,
        strength: float = 1.0,
        n: int = 1,
        *,
        seed: int = 0,
    ) -> list[list[Story]]:
        """As `stories`, of sentences about each picture; where there are none, no story."""
        self.check(style, strength, n)
        known = [[" ".join(c.split()) for c in texts if c.strip()] for texts in captions]
        means = self._means(known)
        found: list[list[Story]] = []
        per_batch = max(1, _BATCH // CANDIDATES)
        for start in range(0, len(known), per_batch):
            part = slice(start, start + per_batch)
            found += self._told(known[part], means[part], style, strength, n, seed)
        return found

    def need_captioner(self) -> Captioner:
        """What looks at pictures.

        Raises:
            UserError: there is none.
        """
        if self.captioner is None:
            raise UserError(
                "this storyteller keeps no captioner to look at pictures; load it with "
                "captioner=FOLDER, train it with --captioner, or give sentences to stories_of"
            )
        return self.captioner

    def check(self, style: str, strength: float, n: int) -> None:
        """Raise a `UserError` when something cannot be told."""
        if style not in self.styles:
            raise UserError(f"style {style!r}: unknown; known are {', '.join(self.styles)}")
        if not 0 <= strength <= 1:
            raise UserError(f"strength {strength:g}: expected 0 (plain) to 1 (the book)")
        if not 1 <= n <= CANDIDATES:
            raise UserError(f"n {n}: expected 1 to {CANDIDATES}")

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        encode = self.stored.pieces.encode
        return vectors_of(self.net, [encode(text) for text in texts], SENTENCE)

    def _means(self, captions: list[list[str]]) -> Tensor:
        """The mean vector of each picture's captions, [B, d]; 0 of none."""
        vectors = self._vectors([text for texts in captions for text in texts])
        owners = torch.tensor([i for i, texts in enumerate(captions) for _ in texts])
        sums = torch.zeros(len(captions), self.net.config.dim)
        sums.index_add_(0, owners.long(), vectors)
        return sums / torch.tensor([max(1, len(texts)) for texts in captions])[:, None]

    def _told(
        self,
        captions: list[list[str]],
        means: Tensor,
        style: str,
        strength: float,
        n: int,
        seed: int,
    ) -> list[list[Story]]:
        plain, book = (torch.from_numpy(self.stored.styles[name].vector) for name in (PLAIN, style))
        centre = torch.lerp(plain, book, strength)
        tokens = self._drawn(means - plain + centre, seed)
        texts = [self._text(t) for t in tokens.flatten(0, 1).tolist()]
        ended = (tokens == END).any(-1).tolist()
        about = F.normalize(self._vectors(texts) - centre, dim=-1).view(*tokens.shape[:2], -1)
        match = (about * F.normalize(means - plain, dim=-1)[:, None]).sum(-1).numpy()
        odds = self._log_odds(tokens.numpy(), style)
        # What is asked for, and no more: at strength .5 the vector alone decides.
        value = match + (2 * strength - 1) * np.tanh(odds) - 5 * _faults(tokens.numpy())
        found = []
        for i, known in enumerate(captions):
            best: dict[str, Story] = {}
            for j in np.argsort(-value[i], kind="stable").tolist():
                text = texts[i * tokens.shape[1] + j]
                if known and text and len(best) < n:
                    told = float(match[i, j]), float(odds[i, j]), ended[i][j]
                    story = Story(text, style, strength, known, *told)
                    best.setdefault(text, story)
            found.append([*best.values()])
        return found

    def _drawn(self, vectors: Tensor, seed: int) -> Tensor:
        """Passages of vectors [B, d] as pieces, int64 [B, CANDIDATES, L + 1]."""
        length = self.net.config.max_length
        # The same for every picture, so that its stories do not depend on the others.
        drawn = np.random.default_rng(seed).random((CANDIDATES, length + 1), np.float32)
        uniforms = torch.from_numpy(drawn).to(self.device).expand(len(vectors), -1, -1)
        with torch.inference_mode():
            read = self.net.read(vectors.to(self.device))
            written = sample(self.net.decoder, read, uniforms, length, TEMPERATURE, TOP_P)
        return written.tokens.cpu().clone()

    def _text(self, tokens: list[int]) -> str:
        """The passage; one that was cut ends with its last whole sentence, if it has one."""
        text = self.stored.pieces.decode([t for t in tokens if t != PAD])
        if END in tokens or not text:
            return text
        end = max(text.rfind(mark) for mark in ".!?")
        return text[: end + 1] if end > 0 else f"{text} ..."

    def _log_odds(self, tokens: np.ndarray, style: str) -> np.ndarray:
        """Mean over pieces of what they tell of the style: [B, n, L] -> float [B, n]."""
        spoken = tokens > UNKNOWN
        told = tells(self.stored.styles, style)[tokens] * spoken
        return np.asarray(told.sum(-1) / np.maximum(spoken.sum(-1), 1))


def _faults(tokens: np.ndarray) -> np.ndarray:
    """1 for passages that loop, that do not end, or that are empty: [B, n, L] -> float [B, n]."""
    found = np.zeros(tokens.shape[:2], np.float32)
    for place in np.ndindex(*found.shape):
        pieces = [int(t) for t in tokens[place] if t > UNKNOWN]
        runs = Counter(tuple(pieces[i : i + LOOP]) for i in range(len(pieces) - LOOP + 1))
        loops = any(count > 1 for count in runs.values())
        found[place] = float(loops or len(pieces) < 2 or END not in tokens[place])
    return found
