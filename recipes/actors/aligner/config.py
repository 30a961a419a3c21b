"""The engine's settings in NeMo's and Aligner's terms, as their example configs state them; built without torch.

The sections are those of NeMo-Aligner 0.7.0's `gpt_reinforce_actor.yaml`: `trainer`, `exp_manager`, `model`. What they
do not know of (our loss, micro-batches by tokens, the rollout engine) stays on our side.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.mcore.precision import Precision
from recipes.models.families import ModelShape
from recipes.models.nemo_folder import KERNELS, TARGET, architecture

# Aligner names its trainer's section after the algorithm; only its presence counts where our loop drives the model.
SECTION = "reinforce"
# MegatronTrainerBuilder reads RANK, WORLD_SIZE and LOCAL_RANK from the environment for this cluster type alone.
RANKS_FROM_ENVIRONMENT = "BCP"
CRITIC_TARGET = "nemo_aligner.models.nlp.gpt.megatron_gpt_critic.MegatronGPTCriticModel"


@dataclass(frozen=True)
class Sizes:
    """How a run is laid out.

    Attributes:
        nodes: machines.
        local: ranks on each.
        tensor: tensor-parallel size.
        pipeline: pipeline-parallel size.
        vocabulary_rows: rows of the embedding with the padding that tensor parallelism needs.
        max_tokens: of a prompt with its response.
    """

    nodes: int
    local: int
    tensor: int
    pipeline: int
    vocabulary_rows: int
    max_tokens: int

    @property
    def data(self) -> int:
        """Data-parallel size."""
        return self.nodes * self.local // (self.tensor * self.pipeline)


def sizes_of(mesh: Any, vocabulary_rows: int, max_tokens: int) -> Sizes:
    """The layout of the run that `mesh` is a place in."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", mesh.world))
    return Sizes(mesh.world // local, local, mesh.tensor, mesh.pipeline, vocabulary_rows, max_tokens)


def nemo_config(
    shape: ModelShape,
    sizes: Sizes,
    settings: ActorConfig,
    optimizer: OptimizerConfig,
    precision: Precision,
    *,
    tokenizer: Path,
    seed: int,
    gpu: bool,
) -> dict[str, Any]:
    """The config of Aligner's actor.

    Args:
        shape: the model's.
        sizes: the run's layout.
        settings: `actor.*`.
        optimizer: Adam's settings; the learning rate comes with each step.
        precision: what the number formats of `settings` come to.
        tokenizer: folder of the Hugging Face tokenizer.
        seed: of NeMo's RNGs.
        gpu: whether the model lives on a GPU.
    """
    return {
        "cluster_type": RANKS_FROM_ENVIRONMENT if sizes.nodes * sizes.local > 1 else None,
        "trainer": _trainer(sizes, optimizer, precision, gpu),
        "exp_manager": {
            "log_tflops_per_sec_per_gpu": False,
            "checkpoint_callback_params": {"async_save": False},
        },
        "model": {
            **architecture(shape, sizes.vocabulary_rows, sizes.max_tokens),
            "target": TARGET,
            **_training(sizes, settings, precision, gpu),
            "tokenizer": {"library": "huggingface", "type": str(tokenizer), "use_fast": True},
            "optim": _optimizer(optimizer, settings, gpu),
            "seed": seed + 1,  # NeMo wants it positive
            "data": {"data_impl": "jsonl"},
            "peft": {"peft_scheme": "none", "restore_from_path": None},
            SECTION: {
                "offload_adam_states": settings.offload,
                "forward_micro_batch_size": 1,
                "trt_llm": {"enable": False},
                # For Aligner's own generation, which our loop does not use.
                "length_params": {"max_length": sizes.max_tokens, "min_length": 1},
                "sampling_params": {"use_greedy": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
            },
        },
    }


def critic_config(nemo: dict[str, Any], *, offload: bool) -> dict[str, Any]:
    """The config of Aligner's critic, made of the one that its actor gets.

    Args:
        nemo: what `nemo_config` made.
        offload: Adam's state leaves the device between two steps.
    """
    own = {
        "target": CRITIC_TARGET,
        # The embedding has no second use where there is no vocabulary to predict.
        "share_embeddings_and_output_weights": False,
        "output_sequence": True,
        "use_avg_pool": False,
        "force_head_dtype": "float32",
        "offload_adam_states": offload,
    }
    return nemo | {"model": {key: value for key, value in nemo["model"].items() if key != SECTION} | own}


def _trainer(sizes: Sizes, optimizer: OptimizerConfig, precision: Precision, gpu: bool) -> dict[str, Any]:
    return {
        "num_nodes": sizes.nodes,
        "devices": sizes.local,
        "accelerator": "gpu" if gpu else "cpu",
        "precision": "bf16" if precision.dtype == "bfloat16" else 32,
        "gradient_clip_val": optimizer.clip_grad,
        SECTION: {},
        # Our loop trains, logs and decides when to save.
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
        "max_epochs": -1,
    }


def _training(sizes: Sizes, settings: ActorConfig, precision: Precision, gpu: bool) -> dict[str, Any]:
    te = precision.transformer_engine
    return {
        "tensor_model_parallel_size": sizes.tensor,
        "pipeline_model_parallel_size": sizes.pipeline,
        "sequence_parallel": settings.sequence_parallel,
        # NeMo's counter of micro-batches must divide; the passes cut batches by tokens and do not ask it.
        "micro_batch_size": 1,
        "global_batch_size": sizes.data,
        # Micro-batches differ in length. megatron-core couples that to this dispatcher even for dense models.
        "variable_seq_lengths": True,
        "moe_token_dispatcher_type": "alltoall",
        "batch_p2p_comm": gpu,
        "precision": "bf16" if precision.dtype == "bfloat16" else 32,
        "megatron_amp_O2": precision.dtype == "bfloat16",
        "use_cpu_initialization": not gpu,
        "transformer_engine": te,
        "apply_rope_fusion": te,
        **KERNELS,
        **_recompute(settings.recompute),
        **_fp8(precision.fp8),
    }


def _recompute(mode: str) -> dict[str, Any]:
    if mode == "full":
        return {
            "activations_checkpoint_granularity": "full",
            "activations_checkpoint_method": "uniform",
            "activations_checkpoint_num_layers": 1,
        }
    return {"activations_checkpoint_granularity": "selective" if mode == "selective" else None}


def _fp8(recipe: str) -> dict[str, Any]:
    """megatron-core 0.10.0 makes Transformer Engine's DelayedScaling of every setting; other recipes are refused."""
    if recipe == "off":
        return {}
    return {
        "fp8": True,
        "fp8_e4m3": False,
        "fp8_hybrid": True,
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
    }


def _optimizer(optimizer: OptimizerConfig, settings: ActorConfig, gpu: bool) -> dict[str, Any]:
    adam = {
        "lr": optimizer.lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.epsilon,
        "weight_decay": optimizer.weight_decay,
    }
    if not (gpu if settings.distributed_optimizer is None else settings.distributed_optimizer):
        return {"name": "adamw", **adam}
    overlap = True if settings.overlap is None else settings.overlap
    return {
        "name": "distributed_fused_adam",
        "bucket_cap_mb": 200,
        "contiguous_grad_buffer": True,
        "overlap_grad_sync": overlap,
        "overlap_param_sync": overlap,
        **adam,
    }
