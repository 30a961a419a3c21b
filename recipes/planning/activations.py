"""Bytes of activations, by what autograd keeps in this engine, and of what a pass needs at its worst moment.

Counted from the code, in the manner of Korthikanti et al. 2022 (arXiv 2205.05198, section 4), whose 34 bytes a position
and hidden unit are those of another layer: here attention keeps no scores, and the MLP is gated. Elements that a layer
keeps a position, with h hidden, q and k the widths of all query and of all key-value heads, m MLP columns, on a
tensor-parallel rank of t:

| | layers of torch (recipes/actors/megatron/local_layers.py) | Transformer Engine |
|---|---|---|
| input of each of two norms | h | h |
| normalised, before the norm's weight | h, float32: torch's composite RMSNorm on a CPU | – |
| input of QKV, of the MLP | h | h |
| queries and keys rotated, value (a view that keeps the whole QKV product) | (2 q + 3 k) / t | (2 q + 3 k) / t |
| attention's output; log-sum-exp a head in float32 | q / t | q / t |
| gate and up product; silu(gate); up + 0.0; their product | 2 m + 3 m, / t | 2 m + 3 m, / t |

`up + 0.0` is megatron-core's glu_linear_offset (transformer/mlp.py:225 of 0.16.1). Under sequence parallelism what is h
wide is shared, too. What Transformer Engine keeps is read from its sources, and was not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipes.models.families import ModelShape
from recipes.planning.interface import Item, Job
from recipes.planning.job import stage_layers
from recipes.planning.weights import (
    BYTES,
    FLOAT32,
    adam_elements,
    stage_parameters,
    vocabulary_rows,
)

MIB = 2**20
FP8 = 1


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch that a rank may see.

    Attributes:
        positions: of a pass, padding included.
        width: of its longest row.
        responses: positions that have logits.
        number: micro-batches of an optimizer step.
    """

    positions: int
    width: int
    responses: int
    number: int


def micro_batch(job: Job) -> MicroBatch:
    """What `micro_batch_tokens` lets come together (recipes/actors/packing.py).

    Short samples fill the budget, a sample longer than it stands alone. Every sample has a position less than tokens.
    """
    config = job.config
    longest = config.max_prompt_tokens + config.max_response_tokens
    mean = job.prompt + job.response
    samples = config.prompts_per_step * config.samples_per_prompt // config.updates_per_rollout
    share = math.ceil(samples / job.data)
    budget = config.micro_batch_tokens
    positions = min(max(longest, budget), share * longest) - 1
    width = positions if config.actor.packing else min(longest - 1, positions)
    responses = min(positions, math.ceil(positions * job.response / mean))
    return MicroBatch(positions, width, responses, math.ceil(share / max(1, budget // mean)))


@dataclass(frozen=True)
class Layer:
    """Bytes of one decoder layer for one micro-batch on one rank.

    Attributes:
        stream: of the residual stream, [positions, hidden].
        kept: what autograd keeps of the whole layer, its input included.
        attention: what of it selective recomputation makes again.
        forward: most bytes at a time in a forward pass that keeps nothing.
        backward: most bytes at a time in its backward pass, beside what is kept of it and of the layers before.
    """

    stream: float
    kept: float
    attention: float
    forward: float
    backward: float


def layer_bytes(job: Job, batch: MicroBatch) -> Layer:
    """See `Layer`."""
    shape, actor, t = job.shape, job.config.actor, job.tensor
    e, n = BYTES[actor.dtype or "float32"], batch.positions
    h, m = shape.hidden, shape.mlp / t
    q, k = shape.heads * shape.head_dim / t, shape.kv_heads * shape.head_dim / t
    stream = e * n * h / (t if actor.sequence_parallel else 1)
    fp8 = actor.fp8 != "off"
    log_sum_exp = FLOAT32 * n * shape.heads / t
    attention = e * n * (3 * q + 3 * k) + log_sum_exp
    mlp = e * n * 5 * m
    norms = 2 * (stream + _norm_bytes(job, stream, e))
    # Input of QKV and of the MLP; in FP8 only Transformer Engine's cast of them is kept, as of the two other products'.
    inputs = 2 * stream * (FP8 / e if fp8 else 1)
    if fp8:
        attention += FP8 * n * q
        mlp += n * m * (FP8 - e)
    if shape.qk_norm:
        attention += e * n * (q + k) + FLOAT32 * n * (shape.heads + shape.kv_heads) / t
    if not actor.transformer_engine:
        attention += _unfused_rotary(shape, batch, e)
        if actor.packing:  # sequences attend one by one, and their outputs are put together (attention.py)
            attention += e * n * q
    # The MLP is the widest: its five products, beside the sum after attention and that normalised, the layer's input
    # and the stage's, which the callers hold.
    forward = 4 * stream + e * n * 5 * m
    # d(product) and the gradient of fc2's weight; or, with the product gone, d(product), d(silu) and d(up). Beside them
    # the gradient of the layer's output, and that of the sum of MLP and residual.
    backward = 2 * stream + max(e * n * m + e * h * m, 2 * e * n * m)
    return Layer(stream, norms + inputs + attention + mlp, log_sum_exp, forward, backward)


def _norm_bytes(job: Job, stream: float, e: int) -> float:
    """What a norm keeps beside its input: fused kernels a number a position, torch's composite on a CPU the rest.

    That computes in float32, so of a bfloat16 input it keeps a float32 copy, too.
    """
    if job.gpu is not None:
        return stream / e * FLOAT32 / job.shape.hidden
    normalised = stream / e * FLOAT32
    return normalised + (0 if e == FLOAT32 else normalised - stream)


def _unfused_rotary(shape: ModelShape, batch: MicroBatch, e: int) -> float:
    """Cosine and sine, made anew in each layer for queries and for keys, once for all rows (mcore's rope_utils.py)."""
    return 4 * e * batch.width * shape.head_dim


@dataclass(frozen=True)
class Head:
    """Bytes of the last stage's end for one micro-batch: final norm, log-probs chunk by chunk (mcore/head.py).

    Attributes:
        kept: what autograd keeps.
        forward: most bytes at a time in the forward pass, beside what is kept.
        forward_logits: what of these are logits.
        backward: as `forward`, of the backward pass.
        backward_logits: what of these are logits.
    """

    kept: float
    forward: float
    forward_logits: float
    backward: float
    backward_logits: float


def head_bytes(job: Job, batch: MicroBatch) -> Head:
    """See `Head`."""
    shape, actor = job.shape, job.config.actor
    e, h = BYTES[actor.dtype or "float32"], shape.hidden
    rows = vocabulary_rows(job) / job.tensor
    whole = e * batch.positions * h  # [positions, hidden], on every tensor-parallel rank
    stream = whole / (job.tensor if actor.sequence_parallel else 1)
    answers = e * batch.responses * h
    chunk_rows = min(batch.responses, max(1, (actor.head_chunk_mb * MIB) // (FLOAT32 * rows)))
    chunk = FLOAT32 * chunk_rows * rows
    cast = 0 if e == FLOAT32 else e * chunk_rows * rows
    # Of the next chunk's logits, which stand beside a chunk's own tensors before the names move on: a share of a chunk.
    following = min(chunk_rows, batch.responses - chunk_rows) / chunk_rows
    forward_logits = 2 * chunk + following * (chunk + cast)  # logits and their exponentials
    table = rows * h
    slopes = cast or chunk
    logits = max(chunk + cast, slopes + following * (chunk + cast))
    # The sum over chunks in float32, and a chunk's product with the hidden states that is added to it.
    gradients = FLOAT32 * table + answers
    backward = gradients + max(logits, slopes + e * table)
    backward_logits = logits if logits >= slopes + e * table else slopes
    return Head(
        kept=stream + _norm_bytes(job, stream, e) + answers,
        forward=whole + forward_logits,
        forward_logits=forward_logits,
        backward=backward,
        backward_logits=backward_logits,
    )


def in_flight(job: Job, stage: int, batch: MicroBatch) -> int:
    """Micro-batches whose activations a stage holds under 1F1B: fewer the later it stands (Narayanan et al. 2021)."""
    return min(job.pipeline - stage, batch.number)


def gather_bytes(job: Job, batch: MicroBatch) -> float:
    """The whole sequence that sequence-parallel ranks gather before a product; megatron-core keeps one such buffer."""
    if not job.config.actor.sequence_parallel:
        return 0.0
    return BYTES[job.config.actor.dtype or "float32"] * batch.positions * job.shape.hidden


def log_prob_items(job: Job, stage: int) -> list[Item]:
    """What a pass without gradients needs at its worst moment on a stage."""
    batch = micro_batch(job)
    layer, gather = layer_bytes(job, batch), _gathered(job, batch)
    last = stage == job.pipeline - 1
    sent = 0.0 if last else layer.stream  # of the micro-batch before, as long as the next one runs
    moments = [[Item("activations", layer.forward + sent, note="of one layer"), *gather]]
    if last:
        head = head_bytes(job, batch)
        hidden = head.kept + head.forward - head.forward_logits
        moments.append([Item("activations", hidden, note="hidden states"), *gather, _logits(job, head.forward_logits)])
    return _worst(moments)


def train_items(job: Job, stage: int) -> list[Item]:
    """What forward, backward pass and optimizer step need at their worst moment on a stage, beside the training state.

    Moments: the head's forward and backward pass, a layer's backward pass, the embedding's, the optimizer step.
    """
    batch = micro_batch(job)
    layer, layers = layer_bytes(job, batch), stage_layers(job)[stage]
    recompute, last = job.config.actor.recompute, stage == job.pipeline - 1
    kept_a_layer = {"none": layer.kept, "selective": layer.kept - layer.attention, "full": layer.stream}[recompute]
    head = head_bytes(job, batch) if last else None
    # Other stages keep what they send: megatron-core frees it only where deallocate_pipeline_outputs is set.
    one = layers * kept_a_layer + (head.kept if head else layer.stream)
    flying = in_flight(job, stage, batch)
    note = f"recompute={recompute}" + (f", {flying} micro-batches under way" if flying > 1 else "")
    kept = Item("activations", flying * one, note=note)
    gather = _gathered(job, batch)
    again = {"none": 0.0, "selective": layer.attention, "full": layer.kept}[recompute]  # of full: input and output
    moments = [
        [kept, Item("backward pass", layer.backward + again, note="of one layer"), *gather],
        [Item("optimizer step", _optimizer_step(job, stage), note="temporaries"), *gather],
    ]
    if head:
        hidden, rest = head.forward - head.forward_logits, head.backward - head.backward_logits
        moments.append([kept, Item("hidden states", hidden), *gather, _logits(job, head.forward_logits)])
        moments.append([kept, Item("gradient of the head", rest), *gather, _logits(job, head.backward_logits)])
    if stage == 0:
        table = BYTES[job.config.actor.dtype or "float32"] * _table(job)
        others = Item("activations", (flying - 1) * one, note=f"{flying - 1} micro-batches under way")
        moments.append([others, Item("gradient of the embedding", table + layer.stream), *gather])
    return _worst(moments)


def _gathered(job: Job, batch: MicroBatch) -> list[Item]:
    found = gather_bytes(job, batch)
    return [Item("gathered sequence", found, note="sequence parallel")] if found else []


def _logits(job: Job, amount: float) -> Item:
    return Item("logits", amount, note=f"chunks of actor.head_chunk_mb={job.config.actor.head_chunk_mb}")


def _table(job: Job) -> float:
    return vocabulary_rows(job) / job.tensor * job.shape.hidden


def _optimizer_step(job: Job, stage: int) -> float:
    """Temporaries of Adam: none in Transformer Engine's and apex's fused kernels.

    torch's AdamW, which megatron-core takes without them: on a GPU the square root of every second moment at once, on a
    CPU that of one parameter and its quotient.
    """
    parameters = stage_parameters(job, stage)
    if job.gpu is None:
        return 2.0 * FLOAT32 * max(one.count for one in parameters)
    fused = job.config.actor.transformer_engine or job.config.actor.name == "aligner"
    return 0.0 if fused else FLOAT32 * adam_elements(job, parameters)


def _worst(moments: list[list[Item]]) -> list[Item]:
    """The moment with most bytes, without what is nothing."""
    found = max(moments, key=lambda items: sum(item.amount for item in items))
    return [item for item in found if item.amount > 0]
