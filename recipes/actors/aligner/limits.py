"""What actor=aligner cannot do, on any machine or on this one, told without torch or NeMo before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.actor import ActorConfig
from crossthink.errors import ConfigError
from recipes.actors.mcore.limits import Machine, check_choices, check_sequence_parallel, this_machine
from recipes.actors.mcore.precision import DTYPES
from recipes.actors.mcore.recompute import RECOMPUTE

CHOICES = {
    "recompute": RECOMPUTE,
    "dtype": (None, *DTYPES),
    "reference": ("offload",),
}
# NeMo 2.1.0 has no key for another recipe, because megatron-core 0.10.0 makes a DelayedScaling of every fp8 setting
# (core/transformer/transformer_block.py, TransformerBlock.forward).
FP8 = ("off", "delayed")
# Keys that are for a GPU alone, the value that asks for it, what it needs there, and what is allowed on a CPU.
ON_GPU = (
    (
        "sequence_parallel",
        True,
        "megatron-core 0.10's layer norms without apex and Transformer Engine do not know it",
        "false",
    ),
    ("dtype", "bfloat16", "NeMo's bfloat16 with float32 master weights (megatron_amp_O2) needs apex", "null, float32"),
    ("transformer_engine", True, "Transformer Engine's layers are GPU kernels", "null, false"),
    ("fp8", "delayed", "FP8 products are Transformer Engine's GPU kernels", "off"),
    ("distributed_optimizer", True, "it is apex's DistributedFusedAdam", "null, false"),
    ("overlap", True, "collectives overlap with GPU streams", "null, false"),
    ("offload", True, "there is no device memory to free", "false"),
)


def check_settings(settings: ActorConfig, machine: Machine | None = None) -> None:
    """Refuse values and combinations that the engine, or this machine, cannot run.

    Args:
        settings: `actor.*`.
        machine: where it would run; None: this one.

    Raises:
        ConfigError: names key, value and what is allowed or missing.
    """
    check_choices(settings, CHOICES)
    _check_anywhere(settings)
    machine = this_machine() if machine is None else machine
    if machine.cuda:
        _check_packages(settings, machine)
        return
    for key, value, why, instead in ON_GPU:
        if getattr(settings, key) == value:
            shown = str(value).lower()
            raise ConfigError(
                f"actor.{key}={shown} needs CUDA under actor=aligner, which this machine lacks: {why}. "
                f"Allowed here: {instead}."
            )


def check_layers(settings: ActorConfig, model: Mapping[str, Any]) -> None:
    """Refuse pipelines with stages of different size.

    NeMo 2.1.0 wants the same number of layers in each (megatron_gpt_model.py, build_transformer_config).

    Args:
        settings: `actor.*`.
        model: the model's `config.json`.

    Raises:
        ConfigError: shows the arithmetic.
    """
    layers, stages = model["num_hidden_layers"], settings.pipeline_parallel
    if layers % stages:
        allowed = ", ".join(str(n) for n in range(1, layers + 1) if layers % n == 0)
        raise ConfigError(
            f"actor.pipeline_parallel={stages} does not divide the {layers} layers of the model ({layers} = "
            f"{layers // stages} × {stages} + {layers % stages}), and under actor=aligner all stages hold equally "
            f"many. Allowed: {allowed}."
        )


def _check_anywhere(settings: ActorConfig) -> None:
    """What no machine can run."""
    if settings.fp8 not in FP8:
        raise ConfigError(
            f"actor.fp8={settings.fp8} is not allowed under actor=aligner: megatron-core 0.10 knows delayed scaling "
            f"only. Allowed: {', '.join(FP8)}; actor=megatron has current and blockwise scaling."
        )
    if settings.fp8_bf16_layers:
        raise ConfigError(
            f"actor.fp8_bf16_layers={settings.fp8_bf16_layers} is not allowed under actor=aligner: megatron-core 0.10 "
            "has no layers that stay out of FP8. Allowed: 0."
        )
    if not settings.fp8_log_probs:
        raise ConfigError(
            "actor.fp8_log_probs=false is not allowed under actor=aligner: its log-prob passes compute as training "
            "does. Allowed: true."
        )
    if settings.packing:
        raise ConfigError(
            "actor.packing=true is not allowed under actor=aligner, which pads the sequences of a micro-batch. "
            "Allowed: null, false."
        )
    for key in ("pipeline_first_layers", "pipeline_last_layers"):
        value = getattr(settings, key)
        if value is not None:
            raise ConfigError(
                f"actor.{key}={value} is not allowed under actor=aligner: NeMo 2.1 wants equally many layers in every "
                "pipeline stage. Allowed: null."
            )
    check_sequence_parallel(settings)
    if settings.offload and settings.distributed_optimizer is False:
        raise ConfigError(
            "actor.offload=true needs actor.distributed_optimizer=true under actor=aligner, and the run forbids it: "
            "NeMo-Aligner moves the state of apex's DistributedFusedAdam only."
        )
    if settings.fp8 != "off" and settings.transformer_engine is False:
        raise ConfigError(f"actor.fp8={settings.fp8} needs actor.transformer_engine=true, which the run forbids.")
    if settings.fp8 != "off" and settings.dtype == "float32":
        raise ConfigError(f"actor.fp8={settings.fp8} needs actor.dtype=bfloat16: the rest of the model is in it.")


def _check_packages(settings: ActorConfig, machine: Machine) -> None:
    """What a machine with a GPU cannot run for lack of a package."""
    wanted = (
        ("transformer_engine", settings.transformer_engine, "Transformer Engine", machine.transformer_engine),
        ("fp8", settings.fp8 != "off", "Transformer Engine", machine.transformer_engine),
        (
            "distributed_optimizer",
            settings.distributed_optimizer is not False,
            "apex (its DistributedFusedAdam)",
            machine.apex,
        ),
        ("dtype", settings.dtype != "float32", "apex (NeMo's megatron_amp_O2)", machine.apex),
    )
    for key, asked, package, here in wanted:
        if asked and not here:
            value = getattr(settings, key)
            shown = "null" if value is None else str(value).lower()
            raise ConfigError(
                f"actor.{key}={shown} needs {package} under actor=aligner, which is not installed. NVIDIA's NeMo "
                "containers hold both."
            )
