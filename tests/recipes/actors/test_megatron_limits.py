"""Which engine options go together, how layers are spread over stages, and what FP8 comes to in megatron-core."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer.transformer_config import TransformerConfig

from conf.actor import ActorConfig
from crossthink.errors import ConfigError
from recipes.actors.mcore.limits import check_batch
from recipes.actors.mcore.pipeline import first_layer_of_stage, layers_of_stage, pipeline_layout
from recipes.actors.mcore.precision import FP8, Precision, fp8_fields, resolve_precision, without_fp8
from recipes.actors.mcore.recompute import RECOMPUTE, recompute_fields
from recipes.actors.megatron.limits import check_layers, check_settings


@pytest.mark.parametrize(
    ("layers", "stages", "first", "last", "wanted"),
    [
        (5, 1, None, None, [5]),
        (64, 8, None, None, [8] * 8),
        (5, 2, None, None, [3, 2]),
        (5, 4, None, None, [1, 1, 2, 1]),
        (7, 4, None, None, [2, 2, 2, 1]),
        (28, 8, None, None, [3, 3, 3, 4, 4, 4, 4, 3]),
        (6, 3, 1, None, [1, 3, 2]),
        (8, 4, None, 1, [2, 2, 3, 1]),
        (8, 4, 1, 1, [1, 3, 3, 1]),
        (4, 2, 1, 3, [1, 3]),
    ],
)
def test_layers_of_stages(layers: int, stages: int, first: int | None, last: int | None, wanted: list[int]) -> None:
    assert layers_of_stage(layers, stages, first, last) == wanted


@given(st.integers(1, 100), st.integers(1, 20))
def test_every_layer_stands_in_one_stage_and_the_ends_are_the_small_ones(layers: int, stages: int) -> None:
    if layers < stages:
        with pytest.raises(ConfigError, match=f"actor.pipeline_parallel={stages}"):
            layers_of_stage(layers, stages)
        return
    counts = layers_of_stage(layers, stages)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1
    assert counts[-1] == min(counts)
    assert counts[0] == min(counts) or counts[1:-1] == [max(counts)] * (stages - 2)
    assert first_layer_of_stage(counts, stages - 1) == layers - counts[-1]
    layout = pipeline_layout(counts)
    if stages == 1:
        assert layout is None
    else:
        config = TransformerConfig(
            num_layers=layers, hidden_size=8, num_attention_heads=1, pipeline_model_parallel_size=stages,
            pipeline_model_parallel_layout=layout, pipeline_dtype="float32",
        )  # fmt: skip
        built = config.pipeline_model_parallel_layout
        assert [built.get_num_layers_to_build(pp_rank=stage) for stage in range(stages)] == counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 4), "4 - 4 = 0 layers for the other 1 stages"),
        ((9, 4, 5, 4), "9 - 5 - 4 = 0 layers for the other 2"),
        ((4, 2, 3, 3), r"3 \+ 3 is not the 4 layers"),
        ((4, 2, 0), "at least 1"),
        ((4, 1, 4), "actor.pipeline_parallel=1 has one stage"),
    ],
)
def test_impossible_stages_are_refused_with_the_arithmetic(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layers_of_stage(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recompute": "some"}, "actor.recompute=some is not allowed. Allowed: none, selective, full"),
        ({"dtype": "float16"}, "actor.dtype=float16 is not allowed. Allowed: null, float32, bfloat16"),
        ({"reference": "cpu"}, "actor.reference=cpu is not allowed. Allowed: resident, offload"),
        ({"fp8": "mxfp8"}, "actor.fp8=mxfp8 is not allowed. Allowed: off, delayed, current, blockwise"),
        ({"sequence_parallel": True}, "actor.sequence_parallel=true needs actor.tensor_parallel of at least 2"),
        ({"fp8": "delayed", "fp8_bf16_layers": 1}, "needs actor.fp8=current or blockwise"),
        ({"fp8_bf16_layers": -1}, "at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(ActorConfig(**settings))


def test_possible_settings_pass() -> None:
    check_settings(ActorConfig())
    check_settings(ActorConfig(sequence_parallel=True, tensor_parallel=2, recompute="full", dtype="bfloat16"))


def test_more_bfloat16_layers_than_a_stage_holds_are_refused() -> None:
    settings = ActorConfig(pipeline_parallel=4, fp8="current", fp8_bf16_layers=2)
    with pytest.raises(ConfigError, match="hold 1 and 1 of 5 layers"):
        check_layers(settings, {"num_hidden_layers": 5})
    check_layers(settings, {"num_hidden_layers": 8})


def test_fewer_samples_than_ranks_are_refused() -> None:
    check_batch(4, 4)
    with pytest.raises(ConfigError, match="= 3 samples, fewer than the 4 data-parallel ranks"):
        check_batch(3, 4)


@pytest.mark.parametrize("fp8", [choice for choice in FP8 if choice != "off"])
def test_fp8_is_refused_where_its_kernels_are_missing(fp8: str) -> None:
    settings = ActorConfig(fp8=fp8)
    with pytest.raises(ConfigError, match=f"actor.fp8={fp8} needs CUDA and Transformer Engine"):
        resolve_precision(settings, cuda=False, transformer_engine=False)
    with pytest.raises(ConfigError, match=f"actor.fp8={fp8} needs Transformer Engine"):
        resolve_precision(settings, cuda=True, transformer_engine=False)
    with pytest.raises(ConfigError, match="needs actor.dtype=bfloat16"):
        resolve_precision(ActorConfig(fp8=fp8, dtype="float32"), cuda=True, transformer_engine=True)
    with pytest.raises(ConfigError, match="needs actor.transformer_engine=true"):
        resolve_precision(ActorConfig(fp8=fp8, transformer_engine=False), cuda=True, transformer_engine=True)
    assert resolve_precision(settings, cuda=True, transformer_engine=True) == Precision("bfloat16", True, fp8)


def test_what_the_settings_leave_open() -> None:
    assert resolve_precision(ActorConfig(), cuda=False, transformer_engine=False) == Precision("float32", False, "off")
    assert resolve_precision(ActorConfig(), cuda=True, transformer_engine=False) == Precision("bfloat16", False, "off")
    assert resolve_precision(ActorConfig(), cuda=True, transformer_engine=True) == Precision("bfloat16", True, "off")
    with pytest.raises(ConfigError, match="actor.transformer_engine=true needs CUDA"):
        resolve_precision(ActorConfig(transformer_engine=True), cuda=False, transformer_engine=True)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("fp8", FP8)
def test_fp8_fields_are_megatron_cores(fp8: str, layers: int) -> None:
    fields = fp8_fields(ActorConfig(fp8=fp8, fp8_bf16_layers=layers))
    assert fields.keys() <= {field.name for field in dataclasses.fields(TransformerConfig)}
    if fp8 == "off":
        assert fields == {}
        return
    recipe = {"delayed": "delayed", "current": "tensorwise", "blockwise": "blockwise"}[fp8]
    assert fields["fp8_recipe"] == recipe
    assert fields["fp8"] == ("e4m3" if fp8 == "blockwise" else "hybrid")
    if fp8 == "delayed" and layers:
        return  # refused by check_settings
    config = TransformerConfig(num_layers=4, hidden_size=8, num_attention_heads=1, **fields)
    assert config.first_last_layers_bf16 == bool(layers)
    if layers:
        assert (config.num_layers_at_start_in_bf16, config.num_layers_at_end_in_bf16) == (layers, layers)
    with without_fp8(config):
        assert config.fp8 is None
    assert config.fp8 == fields["fp8"]


@pytest.mark.parametrize("mode", RECOMPUTE)
def test_recompute_fields_are_megatron_cores(mode: str) -> None:
    config = TransformerConfig(num_layers=4, hidden_size=8, num_attention_heads=1, **recompute_fields(mode))
    assert config.recompute_granularity == (None if mode == "none" else mode)
