"""A megatron-core GPTModel with the shape of a Hugging Face config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.transformer_config import TransformerConfig
from transformers import AutoConfig, PretrainedConfig

from conf.actor import ActorConfig
from recipes.actors.mcore.layout import padded_vocabulary
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.pipeline import layers_of_stage, pipeline_layout
from recipes.actors.mcore.precision import Precision, fp8_fields, has_transformer_engine, resolve_precision
from recipes.actors.mcore.recompute import recompute_fields
from recipes.actors.megatron.cpu import redirect_to_cpu
from recipes.actors.megatron.local_layers import local_block_spec
from recipes.models.families import read_shape
from recipes.models.model_folder import check_shape


def begin(folder: Path, mesh: Mesh, seed: int) -> PretrainedConfig:
    """The config of a model folder, once megatron-core is ready to build that model on this rank.

    Args:
        folder: a Hugging Face folder.
        mesh: this rank's place.
        seed: of megatron-core's RNG.

    Raises:
        ConfigError: the model does not fit the mesh, or is of no known family.
    """
    config = AutoConfig.from_pretrained(folder)
    check_shape(config.to_dict(), mesh.tensor, mesh.pipeline, str(folder))
    redirect_to_cpu()
    model_parallel_cuda_manual_seed(seed)
    return config


def stage_layers(config: PretrainedConfig, mesh: Mesh, settings: ActorConfig) -> list[int]:
    """Layers of each pipeline stage."""
    first, last = settings.pipeline_first_layers, settings.pipeline_last_layers
    return layers_of_stage(config.num_hidden_layers, mesh.pipeline, first, last)


def precision_on(mesh: Mesh, settings: ActorConfig) -> Precision:
    """The number formats on this rank's device."""
    return resolve_precision(settings, mesh.device.type == "cuda", has_transformer_engine())


def torch_dtype(precision: Precision) -> torch.dtype:
    """The type of weights and activations."""
    return getattr(torch, precision.dtype)


def packs_sequences(mesh: Mesh, settings: ActorConfig) -> bool:
    """Whether micro-batches are packed: `actor.packing`, or where Transformer Engine's kernels for it are."""
    if settings.packing is not None:
        return settings.packing
    precision = precision_on(mesh, settings)
    return precision.transformer_engine and precision.dtype == "bfloat16"


def transformer_config(
    config: PretrainedConfig, mesh: Mesh, settings: ActorConfig, layers: Sequence[int]
) -> TransformerConfig:
    """A family of `recipes.models.families` in megatron-core's terms."""
    shape = read_shape(config.to_dict(), config.name_or_path)
    precision = precision_on(mesh, settings)
    dtype = torch_dtype(precision)
    return TransformerConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        kv_channels=shape.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=config.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=mesh.tensor,
        pipeline_model_parallel_size=mesh.pipeline,
        pipeline_model_parallel_layout=pipeline_layout(list(layers)),
        sequence_parallel=settings.sequence_parallel,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        # Micro-batches differ in length; megatron-core couples that to this dispatcher even for dense models.
        variable_seq_lengths=mesh.pipeline > 1,
        moe_token_dispatcher_type="alltoall",
        use_cpu_initialization=mesh.device.type == "cpu",
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        bias_activation_fusion=False,
        # Without it packed sequences are rotated one by one.
        apply_rope_fusion=precision.transformer_engine,
        **recompute_fields(settings.recompute),
        **fp8_fields(settings),
    )


def build_model(config: PretrainedConfig, mesh: Mesh, settings: ActorConfig | None = None) -> GPTModel:
    """This rank's part of the model, with uninitialised weights.

    Args:
        config: the model's config.
        mesh: this rank's place.
        settings: `actor.*`; None: the defaults.

    Raises:
        ConfigError: the layers do not fill the stages, or the machine lacks what the number formats need.
    """
    settings = settings or ActorConfig()
    shape = read_shape(config.to_dict(), config.name_or_path)
    layers = stage_layers(config, mesh, settings)
    ours = transformer_config(config, mesh, settings, layers)
    precision = precision_on(mesh, settings)
    if precision.transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=shape.qk_norm)
    else:
        spec = local_block_spec(ours, layers[mesh.stage])
    return GPTModel(
        config=ours,
        transformer_layer_spec=spec,
        vocab_size=padded_vocabulary(config, mesh.tensor),
        max_sequence_length=config.max_position_embeddings,
        pre_process=mesh.is_first_stage,
        post_process=mesh.is_last_stage,
        parallel_output=True,
        share_embeddings_and_output_weights=config.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=shape.rope_theta,
        rope_scaling=shape.rope_factor is not None,
        rope_scaling_factor=shape.rope_factor or 1.0,
    ).to(device=mesh.device, dtype=torch_dtype(precision))
