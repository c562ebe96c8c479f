"""Captions: how good they are."""

from mmray.captioner.scores import scores

__all__ = ["scores"]
