"""Number formats of the engine: float32 or bfloat16, Transformer Engine's layers, FP8 matrix products."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conf.actor import ActorConfig
from crossthink.errors import ConfigError

if TYPE_CHECKING:  # a config is checked without torch
    from megatron.core.transformer.transformer_config import TransformerConfig

DTYPES = ("float32", "bfloat16")

# actor.fp8 -> the format and recipe of megatron-core, which names Transformer Engine's: DelayedScaling,
# Float8CurrentScaling, Float8BlockScaling. hybrid is E4M3 forward and E5M2 for gradients; blocks need no wider range.
_FP8_RECIPES: dict[str, dict[str, str | int]] = {
    "delayed": {"fp8": "hybrid", "fp8_recipe": "delayed", "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"},
    "current": {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    "blockwise": {"fp8": "e4m3", "fp8_recipe": "blockwise"},
}
FP8 = ("off", *_FP8_RECIPES)

# Transformer Engine's FP8 products want every dimension to be a multiple of this (of 8 forward, of 16 for gradients).
FP8_MULTIPLE = 16


@dataclass(frozen=True)
class Precision:
    """What `actor.dtype`, `actor.transformer_engine` and `actor.fp8` come to on this machine.

    Attributes:
        dtype: torch's name of the type of weights and activations, one of `DTYPES`.
        transformer_engine: layers are Transformer Engine's.
        fp8: as in the settings.
    """

    dtype: str
    transformer_engine: bool
    fp8: str


def has_transformer_engine() -> bool:
    """Whether Transformer Engine is installed."""
    return importlib.util.find_spec("transformer_engine") is not None


def resolve_precision(settings: ActorConfig, cuda: bool, transformer_engine: bool) -> Precision:
    """Fill in what the settings leave open.

    Args:
        settings: `actor.*`.
        cuda: whether the model lives on a GPU.
        transformer_engine: whether Transformer Engine is installed.

    Raises:
        ConfigError: names the setting and what it lacks.
    """
    dtype = settings.dtype or ("bfloat16" if cuda else "float32")
    if dtype not in DTYPES:
        raise ConfigError(f"actor.dtype={dtype} is not allowed. Allowed: null, {', '.join(DTYPES)}.")
    if settings.fp8 not in FP8:
        raise ConfigError(f"actor.fp8={settings.fp8} is not allowed. Allowed: {', '.join(FP8)}.")
    missing = [what for what, there in (("CUDA", cuda), ("Transformer Engine", transformer_engine)) if not there]
    use = not missing if settings.transformer_engine is None else settings.transformer_engine
    if use and missing:
        raise ConfigError(f"actor.transformer_engine=true needs {' and '.join(missing)}, which this machine lacks.")
    if settings.fp8 != "off":
        if missing:
            raise ConfigError(
                f"actor.fp8={settings.fp8} needs {' and '.join(missing)}, which this machine lacks: FP8 products are "
                "Transformer Engine's GPU kernels. Allowed here: off."
            )
        if not use:
            raise ConfigError(f"actor.fp8={settings.fp8} needs actor.transformer_engine=true, which the run forbids.")
        if dtype != "bfloat16":
            raise ConfigError(f"actor.fp8={settings.fp8} needs actor.dtype=bfloat16: the rest of the model is in it.")
    return Precision(dtype, use, settings.fp8)


def fp8_fields(settings: ActorConfig) -> dict[str, Any]:
    """`TransformerConfig`'s fields for `actor.fp8` and `actor.fp8_bf16_layers`; none where FP8 is off."""
    if settings.fp8 == "off":
        return {}
    layers = settings.fp8_bf16_layers
    edges = {
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": layers,
        "num_layers_at_end_in_bf16": layers,
    }
    return {**_FP8_RECIPES[settings.fp8], **(edges if layers else {})}


@contextlib.contextmanager
def without_fp8(config: TransformerConfig) -> Iterator[None]:
    """Passes inside the block run in the model's own dtype: its layers ask the config at every pass."""
    fp8, config.fp8 = config.fp8, None
    try:
        yield
    finally:
        config.fp8 = fp8
