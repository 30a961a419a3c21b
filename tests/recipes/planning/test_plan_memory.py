"""The memory model in closed form: parameters, ZeRO-1, stages, recomputation, caches, offload, what to change."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_helpers import job_of as job
from transformers import Qwen2Config, Qwen3Config

from recipes.actors.mcore.layout import WeightLayout
from recipes.actors.mcore.mesh import Mesh
from recipes.models.families import ModelShape, read_shape
from recipes.planning import rollout_memory
from recipes.planning.activations import head_bytes, in_flight, layer_bytes, micro_batch, train_items
from recipes.planning.interface import Item, Job, PhaseMemory
from recipes.planning.memory import CONTEXT_BYTES, FRAGMENTATION, fit, memory
from recipes.planning.parameters import count, hf_tensors
from recipes.planning.weights import critic_parameters, stage_parameters, vocabulary_rows
from recipes.rollout.local import prefill, row_cache

QWEN_7B, QWEN_32B = 7_615_616_512, 32_763_876_352  # parameters that Qwen states for its base models
GB = 1e9


def job_7b(*words: str) -> Job:
    return job("model=qwen2_5_7b", "actor=megatron", *words)


def phase(phases: list[PhaseMemory], name: str, stage: int = 0) -> dict[str, Item]:
    (found,) = (one for one in phases if (one.phase, one.stage) == (name, stage))
    return {item.name: item for item in found.items}


def amounts(what: Job, name: str, stage: int = 0) -> dict[str, float]:
    return {key: item.amount for key, item in phase(memory(what), name, stage).items()}


def norms(shape: ModelShape) -> int:
    return (2 * shape.layers + 1) * shape.hidden


# --- parameters ---


def test_parameters_of_the_published_models() -> None:
    small, large = job_7b(), job("model=qwen2_5_32b", "actor.pipeline_parallel=4")
    assert count(stage_parameters(small, 0)) == QWEN_7B
    assert sum(count(stage_parameters(large, stage)) for stage in range(4)) == QWEN_32B


@pytest.mark.parametrize(("name", "known"), [("qwen2_5_7b", QWEN_7B), ("qwen2_5_32b", QWEN_32B)])
def test_tensor_parallel_ranks_share_all_but_the_norms(name: str, known: int) -> None:
    one = job(f"model={name}", "actor.tensor_parallel=4")
    assert 4 * count(stage_parameters(one, 0)) - 3 * norms(one.shape) == known


def test_refits_bring_every_parameter_once() -> None:
    shape = job_7b().shape
    assert sum(elements for elements, _ in hf_tensors(shape)) == QWEN_7B
    assert sum(elements for elements, _ in hf_tensors(replace(shape, tied=True))) == QWEN_7B - 152_064 * 3584


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("config_class", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_a_rank_holds_what_the_engine_lays_out(config_class: type, tied: bool, tensor: int, pipeline: int) -> None:
    config = config_class(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied,
    )  # fmt: skip
    planned = replace(
        job(f"actor.tensor_parallel={tensor}", "model=tiny", f"actor.pipeline_parallel={pipeline}", "gpu=cpu",
            f"nodes.gpus_per_node={tensor * pipeline}"),
        shape=read_shape(config.to_dict(), "the model"),
    )  # fmt: skip
    for stage in range(pipeline):
        mesh = Mesh(0, tensor * pipeline, tensor, pipeline, 1, 0, stage, 0, torch.device("cpu"))
        layout = WeightLayout(config, mesh)
        held = [torch.Size(layout.local_shape(parameter)).numel() for parameter in layout.held()]
        assert sorted(one.count for one in stage_parameters(planned, stage)) == sorted(held)
    everything = [
        torch.Size(shape).numel() for one in layout.everything() for shape in one.hf_shapes
    ]  # whole, without padding
    assert sorted(elements for elements, _ in hf_tensors(planned.shape)) == sorted(everything)


def test_nemo_pads_the_vocabulary_to_more() -> None:
    ours, nemo = (replace(job("model=tiny", f"actor={name}", "gpu=cpu", "nodes.gpus_per_node=1")) for name in
                  ("megatron", "aligner"))  # fmt: skip
    assert ours.shape.vocabulary == 440
    assert (vocabulary_rows(ours), vocabulary_rows(nemo)) == (440, 512)


# --- training state ---


def test_bytes_of_a_7b_rank() -> None:
    found = amounts(job_7b("actor.tensor_parallel=4", "nodes.actor=2"), "train")
    mine = (QWEN_7B + 3 * norms(job_7b().shape)) / 4
    assert found["weights"] == 2 * mine and found["gradients"] == 4 * mine
    assert found["Adam moments"] == 8 * mine / 4 and found["master weights"] == 4 * mine / 4  # 16 / 4 ranks share


def test_float32_needs_no_master_weights() -> None:
    found = amounts(job_7b("actor.dtype=float32"), "train")
    assert found["weights"] == 4 * QWEN_7B and "master weights" not in found


def test_without_the_distributed_optimizer_every_rank_has_all_of_adam() -> None:
    found = amounts(job_7b("actor.distributed_optimizer=false"), "train")
    assert found["Adam moments"] == 8 * QWEN_7B and found["master weights"] == 4 * QWEN_7B


def test_apex_keeps_the_bits_that_bfloat16_cuts_off() -> None:
    found = amounts(job("model=qwen2_5_7b", "actor=aligner"), "train")
    assert found["master weights"] == 2 * QWEN_7B / 8


def test_ppo_adds_a_critic_without_a_vocabulary() -> None:
    grpo, ppo = job_7b(), job_7b("algorithm=ppo")
    assert count(critic_parameters(ppo, 0)) == QWEN_7B - 152_064 * 3584 + 3584
    extra = sum(amounts(ppo, "train").values()) - sum(amounts(grpo, "train").values())
    state = count(critic_parameters(ppo, 0)) * (2 + 4 + 12 / 8)
    assert extra == pytest.approx((1 + FRAGMENTATION) * state)


def test_a_reference_lies_where_it_is_told() -> None:
    assert amounts(job_7b(), "train")["reference weights"] == 2 * QWEN_7B
    assert "reference weights" not in amounts(job_7b("algorithm.kl=0"), "train")
    away = job_7b("actor.reference=offload")
    assert "reference weights" not in amounts(away, "train")
    assert amounts(away, "checkpoint")["reference weights"] == 2 * QWEN_7B  # in host memory
    cpu = job_7b("actor.reference=offload", "gpu=cpu", "nodes.gpus_per_node=1")
    assert amounts(cpu, "train")["reference weights"] == 4 * QWEN_7B


def test_offload_frees_what_each_engine_offloads() -> None:
    state = {"gradients", "Adam moments", "master weights"}
    assert state <= amounts(job_7b(), "rollout").keys()
    assert not state & amounts(job_7b("actor.offload=true"), "rollout").keys()
    aligner = amounts(job("model=qwen2_5_7b", "actor=aligner", "actor.offload=true"), "rollout")
    assert state & aligner.keys() == {"gradients"}
    assert state <= amounts(job_7b("actor.offload=true"), "log_probs").keys()


def test_checkpoints_are_copied_to_the_host_in_float32() -> None:
    one = job_7b("nodes.gpus_per_node=1", "actor.reference=resident")
    assert amounts(one, "checkpoint") == {"weights": 2 * QWEN_7B, "Adam's state": 12 * QWEN_7B}
    aligner = job("model=qwen2_5_7b", "actor=aligner", "nodes.gpus_per_node=1", "algorithm.kl=0")
    assert amounts(aligner, "checkpoint")["Adam's state"] == 12 * QWEN_7B


# --- activations ---


def test_elements_of_a_layer() -> None:
    one = job_7b("actor.dtype=float32", "gpu=cpu", "nodes.gpus_per_node=1", "actor.packing=false")
    batch, shape = micro_batch(one), one.shape
    assert (batch.positions, batch.width) == (16383, 4999)
    h, q, k, m = shape.hidden, 3584, 512, shape.mlp
    a_position = 6 * h + 2 + 3 * q + 3 * k + shape.heads + 5 * m
    kept = 4 * (batch.positions * a_position + 4 * batch.width * 128)
    # A number a position of each norm (its reciprocal root) is below a thousandth and left out.
    assert layer_bytes(one, batch).kept == pytest.approx(kept, rel=1e-4)


def test_sequence_parallel_ranks_share_the_stream() -> None:
    one = job_7b("actor.tensor_parallel=4")
    shared = job_7b("actor.tensor_parallel=4", "actor.sequence_parallel=true")
    batch = micro_batch(one)
    assert layer_bytes(shared, batch).stream == layer_bytes(one, batch).stream / 4
    assert layer_bytes(shared, batch).kept < layer_bytes(one, batch).kept


def test_the_head_keeps_to_its_chunks() -> None:
    one = job_7b("actor.head_chunk_mb=64")
    head = head_bytes(one, micro_batch(one))
    rows = (64 << 20) // (4 * 152_064)
    chunk = 4 * rows * 152_064
    assert head.forward_logits == 3.5 * chunk  # logits and exponentials, the next chunk's in bfloat16 and float32
    small = replace(micro_batch(one), responses=rows)
    assert head_bytes(one, small).forward_logits == 2 * chunk


@pytest.mark.parametrize(("micro_batches", "expected"), [(8, [4, 3, 2, 1]), (2, [2, 2, 2, 1])])
def test_earlier_stages_hold_more_micro_batches(micro_batches: int, expected: list[int]) -> None:
    one = job("model=qwen2_5_32b", "actor.pipeline_parallel=4")
    batch = replace(micro_batch(one), number=micro_batches)
    assert [in_flight(one, stage, batch) for stage in range(4)] == expected


def test_uneven_stages_hold_their_own_layers() -> None:
    one = job("model=qwen2_5_7b", "actor.pipeline_parallel=8")
    found = [amounts(one, "train", stage)["weights"] for stage in range(8)]
    layer = 2 * (QWEN_7B - 2 * 152_064 * 3584 - 3584) // 28
    table = 2 * 152_064 * 3584
    assert found == [3 * layer + table, *[3 * layer] * 2, *[4 * layer] * 4, 3 * layer + table + 2 * 3584]
    given_first = job(
        "model=qwen2_5_7b", "actor=megatron", "actor.pipeline_parallel=2", "actor.pipeline_first_layers=10"
    )
    assert amounts(given_first, "train", 0)["weights"] == 10 * layer + table


CPU, GPU = job_7b("gpu=cpu"), job_7b()
LAYOUTS = st.builds(
    lambda base, tensor, pipeline, tokens, chunk_mb: replace(
        base,
        config=replace(
            base.config,
            micro_batch_tokens=tokens,
            actor=replace(
                base.config.actor, tensor_parallel=tensor, pipeline_parallel=pipeline, head_chunk_mb=chunk_mb
            ),
        ),
    ),
    st.sampled_from([CPU, GPU]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.integers(1, 50_000),
    st.sampled_from([1, 64, 1024]),
)


def recomputing(what: Job, mode: str) -> Job:
    return replace(what, config=replace(what.config, actor=replace(what.config.actor, recompute=mode)))


def needed(what: Job, stage: int) -> float:
    return sum(item.amount for item in train_items(what, stage))


@given(LAYOUTS)
def test_recomputation_never_takes_more(layout: Job) -> None:
    for stage in range(layout.pipeline):
        found = [needed(recomputing(layout, mode), stage) for mode in ("full", "selective", "none")]
        assert found == sorted(found)


@given(LAYOUTS, st.integers(0, 10_000))
def test_larger_micro_batches_never_take_less(layout: Job, more: int) -> None:
    tokens = layout.config.micro_batch_tokens + more
    larger = replace(layout, config=replace(layout.config, micro_batch_tokens=tokens))
    assert micro_batch(layout).positions <= micro_batch(larger).positions
    if layout.pipeline == 1:  # in a pipeline fewer of them may be under way then
        assert needed(layout, 0) <= needed(larger, 0)


def test_a_small_batch_does_not_fill_the_budget() -> None:
    one = job("recipe=tiny", "prompts_per_step=1", "samples_per_prompt=2", "gpu=cpu", "nodes.gpus_per_node=1",
              "mean_prompt_tokens=20", "mean_response_tokens=20")  # fmt: skip
    assert micro_batch(one).positions == 2 * 552 - 1


# --- rollouts ---


def test_the_cache_of_the_longest_response() -> None:
    shape = job_7b().shape
    assert 5000 * rollout_memory.kv_bytes_a_token(shape, 4) == pytest.approx(0.57 * GB, rel=0.01)


def test_the_local_cache_is_as_large_as_the_engines() -> None:
    one = job("recipe=tiny", "rollout.batch_size=40", "gpu=cpu", "nodes.gpus_per_node=1",
              "mean_prompt_tokens=20", "mean_response_tokens=20")  # fmt: skip
    shape = one.shape
    cache = row_cache.RowCache(shape.layers, shape.kv_heads, shape.head_dim, torch.device("cpu"), torch.float32)
    cache.reserve(40, 552)
    taken = sum(tensor.nbytes for tensor in [*cache.keys, *cache.values])
    assert amounts(one, "rollout")["KV cache"] == taken
    constants = (rollout_memory.ROW_STEP, rollout_memory.COLUMN_STEP, rollout_memory.PREFILL_TOKENS)
    assert constants == (row_cache.ROW_STEP, row_cache.COLUMN_STEP, prefill.PREFILL_TOKENS)


def test_the_local_engine_is_whole_and_float32_in_every_phase() -> None:
    one = job_7b("actor.tensor_parallel=4")
    for name in ("rollout", "log_probs", "train", "refit"):
        assert amounts(one, name)["rollout weights"] == 4 * QWEN_7B


def test_servers_of_their_own_take_the_engine_off_the_actor() -> None:
    one = job_7b("rollout=trtllm", "nodes.rollout=1")
    assert "rollout weights" not in amounts(one, "rollout")
    found = amounts(one, "rollout_server")
    assert found["rollout weights"] == 2 * QWEN_7B
    free = one.gpu.memory_bytes - found["rollout weights"] - found["rollout passes"]
    assert found["KV cache"] == pytest.approx(0.85 * free)


def test_ranks_of_an_engine_may_share_a_key_value_head() -> None:
    eight, four = (job_7b("rollout=trtllm", "nodes.rollout=1", f"rollout.trtllm.tensor_parallel={n}") for n in (8, 4))
    notes = [phase(memory(one), "rollout_server")["KV cache"].note for one in (eight, four)]
    room = [int(note.split(": ")[1].split()[0]) for note in notes]
    # 4 heads: each of 8 ranks has as much cache a token as each of 4, and little more room, beside half the weights.
    assert room[1] < room[0] < 1.1 * room[1]


def test_fp8_servers_have_about_half_the_weights() -> None:
    found = amounts(job_7b("rollout=trtllm", "nodes.rollout=1", "rollout.trtllm.fp8_weights=true"), "rollout_server")
    tables = 2 * 152_064 * 3584
    assert found["rollout weights"] == pytest.approx(QWEN_7B - tables + 2 * tables, rel=1e-3)


def test_colocated_servers_share_the_gpu_while_they_are_awake() -> None:
    one = job_7b("rollout=trtllm", "rollout.servers=8", "rollout.colocated=true", "actor.tensor_parallel=4")
    awake = {name for name in ("rollout", "log_probs", "train", "refit") if "KV cache" in amounts(one, name)}
    assert awake == {"rollout", "refit"}


def test_a_refit_gathers_whole_tensors() -> None:
    one = job_7b("actor.tensor_parallel=2", "nodes.rollout=1")
    table = 2 * 152_064 * 3584
    # The head after a small norm: itself, the parts of two ranks, this rank's own.
    assert amounts(one, "refit")["gathered tensors"] == pytest.approx(table * 2.5, rel=1e-3)
    assert amounts(one, "refit")["refit messages"] == 3 * 64 * 2**20
    assert "gathered tensors" not in amounts(job_7b(), "refit")


# --- whether it fits ---


def test_what_passes_the_limit_is_named_with_what_to_change() -> None:
    one = job("recipe=crossthink_32b", "rollout=local", "nodes.rollout=0")
    found = fit(one, memory(one))
    assert len(found) == 4 and found[0].startswith("Stage 0, rollout: ")
    (worst,) = (p for p in memory(one) if (p.phase, p.stage) == ("rollout", 0))
    assert f"{(worst.total - one.gpu.memory_bytes) / GB:.1f} GB more than the" in found[0]
    assert "rollout weights 131.1 GB" in found[0] and "nodes.rollout" in found[0]


def test_layouts_that_fit_have_nothing_to_say() -> None:
    ours = job("recipe=crossthink_7b", "rollout=local", "nodes.rollout=0", "rollout.batch_size=16")
    assert fit(ours, memory(ours)) == []
    for recipe in ("crossthink_7b", "crossthink_32b"):
        served = job(f"recipe={recipe}")
        assert fit(served, memory(served)) == []
    cpu = job_7b("gpu=cpu", "nodes.gpus_per_node=1")
    assert fit(cpu, memory(cpu)) == []


def test_host_memory_is_not_held_to_the_gpu() -> None:
    one = job_7b()
    host = PhaseMemory("checkpoint", 0, (Item("weights", 1e15),))
    assert fit(one, [host]) == []
    device = PhaseMemory("train", 0, (Item("activations", 1e12),))
    (sentence,) = fit(one, [host, device])
    assert "actor.recompute=full" in sentence


def test_what_gpus_add_is_marked_as_assumed() -> None:
    item = phase(memory(job_7b()), "train")["CUDA and allocator"]
    others = sum(one for name, one in amounts(job_7b(), "train").items() if name != "CUDA and allocator")
    assert item.known == "assumed" and item.amount == pytest.approx(CONTEXT_BYTES + FRAGMENTATION * others)
    assert "CUDA and allocator" not in amounts(job_7b("gpu=cpu"), "train")


def test_planning_memory_needs_no_torch() -> None:
    code = "import sys, recipes.planning.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
