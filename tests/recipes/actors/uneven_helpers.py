"""Weights that show when one is forgotten or swapped."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def make_uneven(model: PreTrainedModel) -> None:
    """Change biases and norms, each differently, so that a forgotten or swapped one shows; and enlarge the rest."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.2)
        elif "norm" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
        else:
            parameter.mul_(3)
