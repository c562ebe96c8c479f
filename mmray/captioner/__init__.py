"""Captions: decoders and their training, writing, and how good captions are."""

from mmray.captioner.scores import scores

__all__ = ["scores"]
