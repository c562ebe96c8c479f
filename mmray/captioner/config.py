"""Choices of a captioner. Light: the job's command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """What is open about a captioner."""

    arch: Literal["transformer", "attention", "lstm"] = "transformer"
    """A transformer, or the decoders of Show, Attend and Tell, or of Show and Tell."""
    min_count: int = 2
    """A word that the training captions have less often is not learned."""
    max_words: int = 20_000
    """Learn at most so many words, the most frequent."""
    max_length: int = 30
    """Most words of a caption; longer ones are cut in training."""
    dim: int = 256
    """Width of the decoder."""
    layers: int = 3
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of the transformer."""
    dropout: float = 0.3
    """Dropout of the decoder."""
    smoothing: float = 0.1
    """Label smoothing: the share of the probability that all words get alike."""
    captions: int = 5
    """Captions of a picture in each step."""
    copy_names: bool = False
    """Also use the backbone's names of things, words that the captions may not have."""
    scst: bool = False
    """Train on, after people's captions, on what it writes itself, rewarded by CIDEr-D
    (self-critical sequence training)."""
    scst_epochs: float = 10.0
    """Passes over the data of that second training."""
    scst_lr: float = 5e-5
    """Its highest learning rate."""
    samples: int = 5
    """Captions that it draws of each picture."""

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        for name in ("min_count", "max_words", "max_length", "dim", "layers", "heads", "captions"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: expected 1 or more")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) <= 0.95:
                raise UserError(f"{_flag(name)} {getattr(self, name):g}: expected 0 to .95")
        for name in ("scst_epochs", "scst_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{_flag(name)} {getattr(self, name):g}: expected more than 0")
        if self.samples < 2:
            raise UserError(
                f"--samples {self.samples}: expected 2 or more; each is the others' bar"
            )
        if self.arch == "transformer" and self.dim % self.heads:
            raise UserError(f"--dim {self.dim}: expected a multiple of --heads {self.heads}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
