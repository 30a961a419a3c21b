"""Memory of a rank by pipeline stage and phase, and what to change where a GPU has less.

What a run takes follows from the code: parameters by formula (`weights`), what autograd keeps and a pass needs
(`activations`), generation (`rollout_memory`). Of phases the worst moment counts, with the largest micro-batch
that the config lets happen. Held to runs by benchmarks/plan_memory.py. What the memory allocator and the libraries add
on a GPU is assumed.

Whether the model's heads, columns and layers divide at all is not asked here: see `recipes.planning.job.make_job`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from recipes.planning import rollout_memory as rollout
from recipes.planning.activations import log_prob_items, train_items
from recipes.planning.gpus import GB
from recipes.planning.interface import Item, Job, PhaseMemory
from recipes.planning.parameters import count
from recipes.planning.weights import (
    BYTES,
    FLOAT32,
    critic_parameters,
    master_bytes,
    stage_parameters,
    training_state,
)

HOST = "checkpoint"
"""The phase whose bytes are the host's, not the GPU's."""
CONTEXT_BYTES = 2e9
"""CUDA context, NCCL's buffers and cuBLAS' workspace of a process. Assumed."""
FRAGMENTATION = 0.05
"""Of the tensors' bytes, that the caching allocator holds beside them. Assumed."""
FP8_COPIES = 2
"""Bytes a parameter of a linear layer: Transformer Engine caches it in FP8 by rows and by columns."""

# What lowers an item, by its name; the critic's items are the policy's with a word before.
ADVICE = {
    "weights": "actor.tensor_parallel or actor.pipeline_parallel",
    "gradients": "actor.tensor_parallel or actor.pipeline_parallel",
    "Adam moments": "actor.distributed_optimizer=true and more nodes, or actor.tensor_parallel",
    "master weights": "actor.distributed_optimizer=true and more nodes, or actor.tensor_parallel",
    "reference weights": "actor.reference=offload",
    "activations": "actor.recompute=full, a smaller micro_batch_tokens, or actor.sequence_parallel=true",
    "backward pass": "a smaller micro_batch_tokens, or actor.tensor_parallel",
    "hidden states": "a smaller micro_batch_tokens",
    "logits": "a smaller actor.head_chunk_mb",
    "gradient of the head": "actor.tensor_parallel",
    "gradient of the embedding": "actor.tensor_parallel",
    "gathered sequence": "a smaller micro_batch_tokens",
    "FP8 weights": "actor.fp8=off",
    "optimizer step": "actor.transformer_engine=true",
    "KV cache": "a smaller rollout.batch_size",
    "drawing tokens": "a smaller rollout.batch_size",
    "prefill": "rollout servers on nodes of their own (nodes.rollout)",
    "rollout weights": "rollout servers on nodes of their own (nodes.rollout), or rollout=trtllm with tensor_parallel",
    "rollout passes": "a smaller rollout.trtllm.max_num_tokens",
    "refit messages": "a smaller rollout.bucket_mb",
}
_OFFLOAD = {"gradients", "Adam moments", "master weights"}


def memory(job: Job) -> list[PhaseMemory]:
    """Bytes that a rank holds at the peak of each phase, for every pipeline stage; the worst rank of a stage.

    Phases: rollout, log_probs, train and refit; checkpoint, whose bytes are in host memory; and rollout_server for a
    GPU of a rollout node.

    Args:
        job: with nothing open in its config.
    """
    found = []
    for stage in range(job.pipeline):
        resident = _resident(job, stage)
        for phase, items in (
            ("rollout", [*_away(job, resident), *_generation(job)]),
            ("log_probs", [*resident, *log_prob_items(job, stage)]),
            ("train", [*resident, *train_items(job, stage)]),
            ("refit", [*resident, *_refit(job, stage)]),
        ):
            found.append(PhaseMemory(phase, stage, (*items, *_reserve(job, items))))
        found.append(PhaseMemory(HOST, stage, tuple(_host(job, stage))))
    if job.rollout_gpus:
        items = [*_server(job), rollout.landing(job), rollout.messages(job)]
        found.append(PhaseMemory("rollout_server", 0, (*items, *_reserve(job, items))))
    return found


def fit(job: Job, phases: Sequence[PhaseMemory]) -> list[str]:
    """A sentence for every stage, and for rollout servers, whose worst phase takes more than a GPU has.

    Args:
        job: what was planned.
        phases: what `memory` found.

    Returns:
        By how much, which items are the largest, and what lowers them; empty where all fits, and on CPUs.
    """
    if job.gpu is None:
        return []
    worst: dict[tuple[bool, int], PhaseMemory] = {}
    for one in phases:
        place = (one.phase == "rollout_server", one.stage)
        if one.phase != HOST and (place not in worst or one.total > worst[place].total):
            worst[place] = one
    limit = job.gpu.memory_bytes
    return [_sentence(job, one, limit) for one in worst.values() if one.total > limit]


def _sentence(job: Job, phase: PhaseMemory, limit: float) -> str:
    largest = sorted(phase.items, key=lambda item: -item.amount)[:3]
    parts = ", ".join(f"{item.name} {item.amount / GB:.1f} GB" for item in largest)
    advice = dict.fromkeys(words for item in largest if (words := _advice(job, item)))
    where = "A GPU of a rollout node" if phase.phase == "rollout_server" else f"Stage {phase.stage}, {phase.phase}"
    assert job.gpu is not None
    return (
        f"{where}: {phase.total / GB:.1f} GB is {(phase.total - limit) / GB:.1f} GB more than the {limit / GB:.1f} GB "
        f"of gpu={job.gpu.name}. Largest: {parts}. What lowers them: {'; '.join(advice)}."
    )


def _advice(job: Job, item: Item) -> str | None:
    """What lowers an item; None where nothing but all the others do."""
    name = item.name.removeprefix("critic ")
    if name == "activations" and job.config.actor.recompute == "full":
        return "a smaller micro_batch_tokens, or actor.sequence_parallel=true"
    if name == "KV cache" and job.config.rollout.name == "trtllm":
        return "a smaller rollout.trtllm.kv_cache_fraction"
    return ADVICE.get(name)


def _resident(job: Job, stage: int) -> list[Item]:
    """What a rank of a stage holds all the time, as far as nothing is offloaded."""
    actor = job.config.actor
    parameters = stage_parameters(job, stage)
    found = training_state(job, parameters)
    if job.config.algorithm.kl > 0 and _reference_stays(job):
        found.append(Item("reference weights", count(parameters) * BYTES[actor.dtype or "float32"]))
    if actor.fp8 != "off":
        linear = sum(one.count for one in parameters if one.kind == "linear")
        found.append(Item("FP8 weights", linear * FP8_COPIES, "assumed", "as Transformer Engine caches them"))
    if job.config.algorithm.name == "ppo":
        found += training_state(job, critic_parameters(job, stage), "critic ")
    if not job.served:
        found.append(rollout.local_weights(job))
    elif job.servers_share_gpus and not job.config.rollout.colocated:
        found += _server(job)
    return found


def _away(job: Job, resident: list[Item]) -> list[Item]:
    """Without what `actor.offload` takes off the GPU for generation; Aligner's takes Adam's state alone."""
    if not job.makes_room:
        return resident
    gone = _OFFLOAD - ({"gradients"} if job.config.actor.name == "aligner" else set())
    return [item for item in resident if item.name.removeprefix("critic ") not in gone]


def _generation(job: Job) -> list[Item]:
    """What generating adds on the actor's device."""
    if not job.served:
        prompts = math.ceil(job.config.prompts_per_step / job.world)
        return rollout.local_generation(job, prompts * job.config.samples_per_prompt)
    return _server(job) if job.servers_share_gpus and job.config.rollout.colocated else []


def _refit(job: Job, stage: int) -> list[Item]:
    """What bringing new weights over adds. Colocated servers are awake by then, and Adam's state is there."""
    found = [rollout.gathered_tensors(job)]
    if job.served:
        found += [rollout.messages(job)] if stage == 0 else []
        if job.servers_share_gpus and job.config.rollout.colocated:
            found += [*_server(job), rollout.landing(job)]
    return [item for item in found if item.amount]


def _server(job: Job) -> list[Item]:
    """A rollout server's rank, generating."""
    if job.config.rollout.name == "trtllm" and job.gpu is not None:
        return [rollout.trtllm_weights(job), *rollout.trtllm_generation(job)]
    samples = job.config.prompts_per_step * job.config.samples_per_prompt
    return [rollout.local_weights(job), *rollout.local_generation(job, math.ceil(samples / job.servers))]


def _host(job: Job, stage: int) -> list[Item]:
    """Host memory of a rank: a checkpoint's copies until they are written, and what is offloaded.

    The first data-parallel rank writes the weights. Adam's state is put together in float32, each of the ranks that
    share it taking its part (`recipes/actors/megatron/adam_state.py`).
    """
    parameters = stage_parameters(job, stage)
    models = [("", parameters)]
    if job.config.algorithm.name == "ppo":
        models.append(("critic ", critic_parameters(job, stage)))
    found: list[Item] = []
    for whose, held in models:
        weights, *adam = (one for one in training_state(job, held, whose) if one.name != f"{whose}gradients")
        found.append(Item(f"{whose}weights", weights.amount, note="host memory, until written"))
        amount = sum(one.amount for one in adam)
        if master_bytes(job):  # written in float32, however they are kept
            amount *= (2 * FLOAT32 + FLOAT32) / (2 * FLOAT32 + master_bytes(job))
        found.append(Item(f"{whose}Adam's state", amount, note="host memory, until written"))
    if job.gpu is not None:
        found += _offloaded(job, parameters, models)
    return found


def _offloaded(job: Job, parameters: list, models: list) -> list[Item]:
    """What waits in pinned host memory; Adam's state only while responses are generated."""
    actor, found = job.config.actor, []
    if job.config.algorithm.kl > 0 and not _reference_stays(job):
        amount = count(parameters) * BYTES[actor.dtype or "float32"]
        found.append(Item("reference weights", amount, note="host memory, always"))
    if job.makes_room:
        state = [one for whose, held in models for one in training_state(job, held, whose)[2:]]
        held_back = sum(one.amount for one in state)
        found.append(Item("offloaded Adam's state", held_back, note="host memory, while responses are generated"))
    return found


def _reference_stays(job: Job) -> bool:
    """Whether the reference policy lies on the device: on a CPU host memory is no other place."""
    return job.config.actor.reference == "resident" or job.gpu is None


def _reserve(job: Job, items: Sequence[Item]) -> list[Item]:
    if job.gpu is None:
        return []
    amount = CONTEXT_BYTES + FRAGMENTATION * sum(item.amount for item in items)
    return [Item("CUDA and allocator", amount, "assumed", "2 GB, and 5 % of all tensors")]
