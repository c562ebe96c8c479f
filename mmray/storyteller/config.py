"""Choices of a storyteller. Light: the job's command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from mmray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StoryOptions:
    """What is open about a storyteller."""

    vocabulary: int = 8000
    """Pieces of words that it writes with, at most; learned from captions and styles."""
    max_length: int = 64
    """Most pieces of a story."""
    dim: int = 192
    """Width of encoder and decoder."""
    layers: int = 4
    """Layers of the decoder."""
    heads: int = 4
    """Attention heads."""
    dropout: float = 0.0
    """Dropout of encoder and decoder."""
    splice: float = 0.5
    """Share of books' passages that are learned spliced with captions: the decoder then tells of
    pictures in words of the book."""
    noise: float = 0.3
    """Length of the noise that is added to vectors of length 1."""
    contrast: float = 0.3
    """Weight of telling which sentences stand side by side."""

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        for name in ("vocabulary", "max_length", "dim", "layers", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: expected 1 or more")
        for name in ("dropout", "splice"):
            if not 0 <= getattr(self, name) <= 0.95:
                raise UserError(f"{_flag(name)} {getattr(self, name):g}: expected 0 to .95")
        for name in ("noise", "contrast"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{_flag(name)} {getattr(self, name):g}: expected 0 or more")
        if self.dim % self.heads:
            raise UserError(f"--dim {self.dim}: expected a multiple of --heads {self.heads}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
