"""The optimizers that the training loop offers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmray.training.config import TrainConfig


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of layers, AdamW for everything else.

    Muon (Jordan et al., 2024) moves a matrix by its momentum with all singular values made alike.
    Steps are as long as AdamW's (Liu et al., *Muon is Scalable for LLM Training*, 2025), so that
    both take the same learning rate.

    Args:
        model: whose linear and attention layers have the matrices; embeddings are not among them.
        config: learning rate, decay, and AdamW's betas.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        ids = {id(p) for p in _matrices(model)}
        known = [p for p in model.parameters() if p.requires_grad]
        decay = config.weight_decay
        self._parts: list[torch.optim.Optimizer] = []
        if matrices := [p for p in known if id(p) in ids]:
            self._parts.append(
                torch.optim.Muon(
                    matrices, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        if others := [p for p in known if id(p) not in ids]:
            self._parts.append(
                torch.optim.AdamW(
                    others, lr=config.lr, weight_decay=0.0, betas=config.betas, fused=True
                )
            )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        assert closure is None
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Both keep their state and settings here, where checkpoints and schedules find them."""
        first = 0
        for part in self._parts:
            last = first + len(part.param_groups)
            part.param_groups = self.param_groups[first:last]
            part.state = self.state
            first = last


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` asks for, of a model's parameters that are trained."""
    if config.optimizer == "muon":
        return Muon(model, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True
    )


def _matrices(model: nn.Module) -> list[torch.Tensor]:
    found: list[torch.Tensor] = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    return found + [m.in_proj_weight for m in attention if m.in_proj_weight is not None]
