"""Which layers a pipeline stage holds."""

from __future__ import annotations

from crossthink.errors import ConfigError


def layers_of_stage(num_layers: int, stages: int, first: int | None = None, last: int | None = None) -> list[int]:
    """The layer count of each pipeline stage, as even as it can be.

    The first and the last stage also hold the embedding and the head, so where the count does not divide they are the
    smaller ones. Of the others the later ones get a layer more: earlier stages keep more micro-batches' activations.

    Args:
        num_layers: decoder layers of the model.
        stages: pipeline-parallel size.
        first: layers of the first stage; None: as even as it can be.
        last: layers of the last stage; None: as even as it can be. `first` and `last` are of two stages or more.

    Returns:
        One count of at least 1 a stage; they add up to `num_layers`.

    Raises:
        ConfigError: more stages than layers, or counts that leave no layer, or too many, for the other stages.
    """
    if num_layers < stages:
        raise ConfigError(
            f"actor.pipeline_parallel={stages} is more than the {num_layers} layers of the model: each stage needs a "
            f"layer of its own. Allowed: 1 to {num_layers}."
        )
    given = {name: count for name, count in (("first", first), ("last", last)) if count is not None}
    if given and stages == 1:
        keys = ", ".join(f"actor.pipeline_{name}_layers={count}" for name, count in given.items())
        raise ConfigError(f"{keys}: actor.pipeline_parallel=1 has one stage, which holds all {num_layers} layers.")
    free = stages - len(given)
    left = num_layers - sum(given.values())
    keys = " and ".join(f"actor.pipeline_{name}_layers={count}" for name, count in given.items())
    if free == 0 and left:
        raise ConfigError(f"{keys} are all stages, and {first} + {last} is not the {num_layers} layers of the model.")
    if any(count < 1 for count in given.values()) or left < free:
        raise ConfigError(
            f"{keys} leave {num_layers} - {' - '.join(map(str, given.values()))} = {left} layers for the other {free} "
            "stages: every stage needs at least 1."
        )
    counts = {stage: count for stage, count in ((0, first), (stages - 1, last)) if count is not None}
    # Who takes a layer more, in this order: middle stages from the back, the first, the last.
    order = dict.fromkeys([*range(stages - 2, 0, -1), 0, stages - 1])
    for place, stage in enumerate(stage for stage in order if stage not in counts):
        counts[stage] = left // free + (place < left % free)
    return [counts[stage] for stage in range(stages)]


def first_layer_of_stage(counts: list[int], stage: int) -> int:
    """The global number of a stage's first layer."""
    return sum(counts[:stage])


def pipeline_layout(counts: list[int]) -> list[list[str]] | None:
    """megatron-core's `pipeline_model_parallel_layout` for these layer counts; None where there is one stage."""
    if len(counts) == 1:
        return None
    stages = [["decoder"] * count for count in counts]
    return [["embedding", *stages[0]], *stages[1:-1], [*stages[-1], "loss"]]
