"""Activation recomputation: memory for time."""

from __future__ import annotations

from typing import Any

RECOMPUTE = ("none", "selective", "full")


def recompute_fields(mode: str) -> dict[str, Any]:
    """`TransformerConfig`'s fields for `actor.recompute`, one of `RECOMPUTE`.

    selective recomputes attention, full all but the input of each layer (Korthikanti et al. 2022, sections 4.2 and 5).
    The scores that selective was made for are kept by no attention here: it saves next to nothing.
    """
    if mode == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    if mode == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {}
