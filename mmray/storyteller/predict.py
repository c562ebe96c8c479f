"""What users call: stories about pictures, in the style of a book.

storyteller = mmray.load("runs/train_storyteller/model")
storyteller.stories(["a.jpg"], style="kjv")[0][0].story       # at full strength
storyteller.stories(["a.jpg"], style="kjv", strength=0.5, n=3) # the three best of 24
storyteller.stories_of([["A dog runs on the beach."]], "kjv")  # of sentences, without a picture
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmray.captioner.decode import END, PAD, UNKNOWN, Decoded
from mmray.errors import UserError
from mmray.media.picture import Image, read_pictures
from mmray.models import choose_device
from mmray.storyteller import folder, ranking
from mmray.storyteller.data import SENTENCE
from mmray.storyteller.decode import draw
from mmray.storyteller.describers import CAPTIONER, Describer, load_describer
from mmray.storyteller.folder import Stored
from mmray.storyteller.model import vectors_of
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.texts import as_sentence, sentences, words_of

CANDIDATES = 24
"""Stories that are drawn of each picture, of which the best are told."""
FULL = 1.15
"""How far strength 1 goes from captions to the book: beyond it, since what is told stays behind."""
TEMPERATURE, TOP_P = 0.6, 0.85
"""Of what is drawn; hotter stories vary more, and spell more words that are none."""
_BATCH = 384
DRAFTS, STEPS_A_DRAFT = 3, 4
"""How many candidates are shown while they are written, and how many pieces at a time."""
Watch = Callable[[int, list[str]], None]


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
    """By how much its pieces tell of the style rather than of captions, each."""
    fluency: float
    """Natural logarithm of the decoder's probability, a piece."""
    ended: bool
    """Whether it came to its end; else it was cut."""


class Storyteller:
    """A trained storyteller, ready to use.

    Args:
        stored: what the model folder holds.
        describer: that finds sentences for pictures; None where only sentences are given.
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(
        self, stored: Stored, describer: Describer | None = None, device: str = "auto"
    ) -> None:
        self.stored = stored
        self.describer = describer
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
            captioner: a captioner in place of what the folder keeps.

        Raises:
            UserError: nothing usable is there.
        """
        stored = folder.load(where)
        kept = (CAPTIONER, captioner) if captioner else stored.describer
        known = load_describer(kept[1], kept[0], device, threads) if kept else None
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
            digest.update(" ".join(sorted(style.words)).encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        digest.update((self.describer.fingerprint if self.describer else "").encode())
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
            UserError: an unknown style, a number out of its range, or nothing to look with.
        """
        self.check(style, strength, n)
        describer = self.need_describer()
        seen = describer.see(read_pictures(images))
        return self.stories_of(describer.describe(seen), style, strength, n, seed=seed)

    def stories_of(
        self,
        captions: Sequence[Sequence[str]],
        style: str,
        strength: float = 1.0,
        n: int = 1,
        *,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> list[list[Story]]:
        """As `stories`, of sentences about each picture; where there are none, no story.

        Args:
            captions: sentences about each picture.
            style: as in `stories`.
            strength: as in `stories`.
            n: as in `stories`.
            seed: as in `stories`.
            watch: is told, again and again, which picture's stories are being written, and how the
                first `DRAFTS` of its candidates read so far.
        """
        self.check(style, strength, n)
        if isinstance(captions, str) or any(isinstance(texts, str) for texts in captions):
            raise UserError(
                "captions: expected a list of sentences for each picture, as in [['A dog runs.']]"
            )
        known = [[" ".join(c.split()) for c in texts if c.strip()] for texts in captions]
        means = self._means([self._pieces(map(as_sentence, texts)) for texts in known])
        found: list[list[Story]] = []
        per_batch = max(1, _BATCH // CANDIDATES)
        for start in range(0, len(known), per_batch):
            part = slice(start, start + per_batch)
            shown = watch and partial(self._show, watch, start)
            found += self._told(known[part], means[part], style, strength, n, seed, shown)
        return found

    def need_describer(self) -> Describer:
        """What looks at pictures.

        Raises:
            UserError: there is none.
        """
        if self.describer is None:
            raise UserError(
                "this storyteller keeps nothing to look at pictures with; load it with "
                "captioner=FOLDER (--captioner), train it with --captioner or --joint, or give "
                "sentences to stories_of"
            )
        return self.describer

    def check(self, style: str, strength: float, n: int) -> None:
        """Raise a `UserError` when something cannot be told."""
        if style not in self.styles:
            raise UserError(f"style {style!r}: unknown; known are {', '.join(self.styles)}")
        if not 0 <= strength <= 1:
            raise UserError(f"strength {strength:g}: expected 0 (plain) to 1 (the book)")
        if not 1 <= n <= CANDIDATES:
            raise UserError(f"n {n}: expected 1 to {CANDIDATES}")

    def _pieces(self, told: Iterable[str]) -> list[list[int]]:
        return [self.stored.pieces.encode(sentence) for sentence in told]

    def _means(self, told: list[list[list[int]]]) -> Tensor:
        """The mean vector of the sentences about each picture, [B, d]; 0 of none."""
        vectors = vectors_of(self.net, [pieces for each in told for pieces in each], SENTENCE)
        owners = torch.tensor([i for i, each in enumerate(told) for _ in each])
        sums = torch.zeros(len(told), self.net.config.dim)
        sums.index_add_(0, owners.long(), vectors)
        return sums / torch.tensor([max(1, len(each)) for each in told])[:, None]

    def _told(
        self,
        captions: list[list[str]],
        means: Tensor,
        style: str,
        strength: float,
        n: int,
        seed: int,
        watch: Callable[[Tensor], None] | None,
    ) -> list[list[Story]]:
        plain, book = (torch.from_numpy(self.stored.styles[name].vector) for name in (PLAIN, style))
        centre = torch.lerp(plain, book, FULL * strength)
        drawn = self._drawn(means - plain + centre, seed, watch)
        texts = [self._text(t) for t in drawn.tokens.flatten(0, 1).tolist()]
        told = [self._pieces(sentences(text)) for text in texts]
        about = F.normalize(self._means(told) - centre, dim=-1).view(*drawn.scores.shape, -1)
        match = (about * F.normalize(means - plain, dim=-1)[:, None]).sum(-1).numpy()
        strange = self._strange(captions, texts, style)
        odds = ranking.log_odds(told, self.stored.styles[style], self.stored.styles[PLAIN])
        odds = odds.reshape(match.shape)
        length = (drawn.tokens.numpy() > UNKNOWN).sum(-1)
        fluency = drawn.scores.numpy() / np.maximum(length, 1)
        faulty = ranking.faults(drawn.tokens.numpy())
        value = ranking.values(match, odds, fluency, length, strange, faulty, strength)
        found = []
        for i, known in enumerate(captions):
            best: dict[str, Story] = {}
            for j in np.argsort(-value[i], kind="stable").tolist():
                text = texts[i * match.shape[1] + j]
                if known and text and len(best) < n:
                    best[text] = best.get(text) or Story(
                        text,
                        style,
                        strength,
                        known,
                        match=float(match[i, j]),
                        log_odds=float(odds[i, j]),
                        fluency=float(fluency[i, j]),
                        ended=bool(drawn.ended[i, j]),
                    )
            found.append([*best.values()])
        return found

    def _show(self, watch: Watch, first: int, said: Tensor) -> None:
        """Tell `watch` what was said of the pictures from number `first` on, [B * n, t]."""
        if said.shape[1] % STEPS_A_DRAFT == 0:
            for i, rows in enumerate(said.unflatten(0, (-1, CANDIDATES))[:, :DRAFTS].tolist()):
                watch(first + i, [self.stored.pieces.decode(row) for row in rows])

    def _drawn(self, vectors: Tensor, seed: int, watch: Callable[[Tensor], None] | None) -> Decoded:
        """Passages of vectors [B, d]."""
        length = self.net.config.max_length
        with torch.inference_mode():
            read = self.net.read(vectors.to(self.device))
            drawn = draw(
                self.net.decoder, read, CANDIDATES, length, seed, TEMPERATURE, TOP_P, watch
            )
        return Decoded(drawn.tokens.cpu(), drawn.scores.cpu(), drawn.ended.cpu())

    def _strange(self, captions: list[list[str]], texts: list[str], style: str) -> np.ndarray:
        """How many words of each of the passages about pictures are of no text: [B, n]."""
        known, each = self.stored.styles[style].words | self.stored.styles[PLAIN].words, CANDIDATES
        found = [
            ranking.strange_words(
                texts[i * each : (i + 1) * each], known.union(*map(words_of, about))
            )
            for i, about in enumerate(captions)
        ]
        return np.stack(found) if found else np.zeros((0, each), np.float32)

    def _text(self, tokens: list[int]) -> str:
        """The passage; one that was cut ends with its last whole sentence, if it has one."""
        text = self.stored.pieces.decode([t for t in tokens if t != PAD])
        if END in tokens or not text:
            return text
        end = max(text.rfind(mark) for mark in ".!?")
        return text[: end + 1] if end > 0 else f"{text} ..."
