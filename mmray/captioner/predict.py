"""What users call: sentences for pictures.

captioner = mmray.load("runs/train_captioner/model")
captioner.captions(["a.jpg"])[0][0].caption           # "two red balls on the beach"
captioner.captions(["a.jpg"], beam=5, n=3)             # the three best, the best first
captioner.captions(["a.jpg"], beam=1, attention=True)  # greedy, with where it looked
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmray.captioner import folder
from mmray.captioner.data import as_places
from mmray.captioner.decode import Decoded, greedy, sample
from mmray.captioner.decode import beam as beam_search
from mmray.captioner.folder import Stored
from mmray.captioner.model import AttentionNet, CaptionNet, TransformerNet
from mmray.captioner.task import with_start
from mmray.errors import UserError
from mmray.media.picture import Image, read_pictures
from mmray.models import choose_device
from mmray.teachers.backbone import Backbone
from mmray.teachers.stored import load_backbone

BATCH = 64


class Caption(NamedTuple):
    """A sentence about a picture."""

    caption: str
    log_probability: float
    """Natural logarithm, of all words and the end."""
    attention: np.ndarray | None = None
    """Where it looked for each word, float32 [words, rows, columns], each of sum 1."""


class Captioner:
    """A trained captioner, ready to use.

    Args:
        stored: what the model folder holds.
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of the backbone.
    """

    def __init__(self, stored: Stored, device: str = "auto", threads: int = 1) -> None:
        self.stored = stored
        self.device = choose_device(device)
        self.net: CaptionNet = stored.net.to(self.device).eval()
        self._threads = threads
        self._nets: Backbone | None = None

    @classmethod
    def load(cls, where: str, device: str = "auto", threads: int = 1) -> Captioner:
        """Load a model folder.

        Raises:
            UserError: nothing usable is there.
        """
        return cls(folder.load(where), device, threads)

    @property
    def backbone(self) -> Backbone:
        """The frozen nets that see the pictures, loaded when they are first wanted."""
        if self._nets is None:
            self._nets = load_backbone(self.stored.backbone, str(self.device), self._threads)
        return self._nets

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the answers depend on."""
        stored, sizes = self.stored, self.net.config.to_json()
        known = [stored.words.tokens, stored.grid, stored.backbone["weights_sha256"], sizes]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def places(self, images: Sequence[Image]) -> np.ndarray:
        """What the decoder sees of pictures, float32 [B, N, D].

        Raises:
            MediaError: a picture cannot be decoded.
            UserError: something is no picture.
        """
        return as_places(self.see(read_pictures(images)))

    def see(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """What the nets make of pixels uint8 [H, W, 3]: float32 [B, D], or grids [B, h, w, D]."""
        return self.backbone(pixels) if self.stored.grid is None else self.backbone.grids(pixels)

    def captions(
        self,
        images: Sequence[Image],
        beam: int = 5,
        n: int = 1,
        *,
        length_penalty: float = 0.7,
        groups: int = 1,
        diversity: float = 0.5,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """Sentences about each picture, the best first.

        Args:
            images: the pictures.
            beam: hypotheses that are followed; 1 for the likeliest word each time.
            n: sentences of each picture, at most `beam`.
            length_penalty: of Wu et al. (2016); 0 prefers short sentences.
            groups: of the beam, each kept away from the words of those before it.
            diversity: how far, where there is more than one group.
            attention: also tell where it looked; slower.

        Raises:
            MediaError: a picture cannot be decoded.
            UserError: something is no picture, or a number is out of range.
        """
        return self.captions_of(
            self.places(images),
            beam,
            n,
            length_penalty=length_penalty,
            groups=groups,
            diversity=diversity,
            attention=attention,
        )

    def captions_of(
        self,
        places: np.ndarray,
        beam: int = 5,
        n: int = 1,
        *,
        length_penalty: float = 0.7,
        groups: int = 1,
        diversity: float = 0.5,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """As `captions`, for what the backbone has seen already: float [B, N, D]."""
        self._check_attention(attention)
        if isinstance(beam, float) or beam < 1 or isinstance(n, float) or not 1 <= n <= beam:
            raise UserError(f"beam {beam}, n {n}: expected whole numbers, 1 <= n <= beam")
        length, found = self.net.config.max_length, []
        for picture in self._batches(places):
            if beam == 1 and n == 1:
                written = greedy(self.net, picture, length)
            else:
                written = beam_search(
                    self.net,
                    picture,
                    length,
                    beam,
                    n,
                    length_penalty=length_penalty,
                    groups=groups,
                    diversity=diversity if groups > 1 else 0.0,
                )
            found += self._told(picture, written, attention)
        return found

    def samples(
        self,
        images: Sequence[Image],
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """Sentences drawn by lot from the likely words (nucleus sampling).

        Args:
            images: the pictures.
            n: sentences of each picture.
            temperature: below 1 prefers likely words more.
            top_p: draw only from the likeliest words that together have this probability.
            seed: the same seed draws the same sentences of the same list of pictures.
            attention: also tell where it looked; slower.

        Raises:
            MediaError: a picture cannot be decoded.
            UserError: something is no picture, or a number is out of range.
        """
        if n < 1:
            raise UserError(f"n is {n}, expected 1 or more")
        self._check_attention(attention)
        length, found, rng = self.net.config.max_length, [], np.random.default_rng(seed)
        for picture in self._batches(self.places(images)):
            uniforms = rng.random((len(picture), n, length + 1), np.float32)
            drawn = torch.from_numpy(uniforms).to(self.device)
            written = sample(self.net, picture, drawn, length, temperature, top_p)
            found += self._told(picture, written, attention)
        return found

    def _check_attention(self, wanted: bool) -> None:
        if wanted and self.stored.grid is None:
            raise UserError("attention: this captioner sees pictures as one vector, not as places")

    def _batches(self, places: np.ndarray) -> list[Tensor]:
        config = self.net.config
        if places.ndim != 3 or places.shape[1:] != (config.places, config.feature_dim):
            raise UserError(
                f"pictures are {list(places.shape[1:])}, this captioner sees "
                f"[{config.places}, {config.feature_dim}] of each: "
                + ("places of --grid" if config.places > 1 else "pooled features")
            )
        if not np.isfinite(places).all():
            raise UserError("pictures: hold values that are no finite numbers")
        values = torch.from_numpy(np.ascontiguousarray(places, np.float32))
        return [part.to(self.device) for part in values.split(BATCH) if len(part)]

    def _told(self, picture: Tensor, written: Decoded, attention: bool) -> list[list[Caption]]:
        maps = self.maps(picture, written.tokens) if attention else None
        scores = written.scores.tolist()
        found = []
        for i, captions in enumerate(written.tokens.tolist()):
            told: dict[str, Caption] = {}
            for j, tokens in enumerate(captions):
                if scores[i][j] == -math.inf:
                    break  # groups may find fewer different captions than are wanted
                words = self.stored.words.decode(tokens)
                looked = None if maps is None else maps[i, j, : len(words)]
                # A name and a word may be the same: the likelier caption stays.
                told.setdefault(" ".join(words), Caption(" ".join(words), scores[i][j], looked))
            found.append([*told.values()])
        return found

    @torch.inference_mode()
    def maps(self, picture: Tensor, tokens: Tensor) -> np.ndarray | None:
        """Where the decoder looked: [B, N, D], [B, C, L] -> float32 [B, C, L, rows, columns].

        None of decoders that see pooled features.
        """
        if self.stored.grid is None:
            return None
        started = with_start(tokens)[:, :, :-1]
        if isinstance(self.net, TransformerNet):
            looked = self.net.maps(picture, started)
        elif isinstance(self.net, AttentionNet):
            looked = self.net(picture, started)[1]
        else:
            return None
        return looked.float().unflatten(-1, self.stored.grid).cpu().numpy()
