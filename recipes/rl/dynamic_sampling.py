"""Dynamic sampling: groups that teach nothing are replaced by further draws (DAPO, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recipes.rl.advantages import useful_groups
from recipes.rl.batch import RolloutBatch


def draw_useful(
    draw: Callable[[int, int], RolloutBatch],
    prompts: int,
    most_extra: int,
    check: Callable[[RolloutBatch], None],
) -> tuple[RolloutBatch, dict[str, Any]]:
    """Draw prompts until `prompts` groups are useful or `most_extra` rollouts beyond the first are spent.

    Useful is a group with two valid verdicts whose rewards differ. Each extra rollout draws as many prompts as are
    lacking, so nothing useful is ever thrown away. Where too few are found the batch is filled up with the first of the
    others, so that it has `prompts` groups whatever was drawn; groups stand in the order in which they were drawn.

    Every rank comes to the same batch: decisions rest on verdicts, which are equal on all ranks.

    Args:
        draw: a rollout of so many further prompts, the first of which is the step's so-and-so-many-th.
        prompts: groups wanted.
        most_extra: extra rollouts at most; 0 takes the first rollout as it is.
        check: called with everything drawn so far after each rollout; replaced groups must not hide bad verdicts.

    Returns:
        The batch to train on, and its metrics (none where `most_extra` is 0): extra rollouts, groups left out, mean
        reward over all that was drawn.
    """
    drawn = draw(prompts, 0)
    check(drawn)
    extra = 0
    while extra < most_extra and (lacking := prompts - _useful(drawn).count(True)) > 0:
        more = draw(lacking, len(drawn.samples) // drawn.group)
        drawn = RolloutBatch([*drawn.samples, *more.samples], drawn.group)
        check(drawn)
        extra += 1
    if most_extra == 0:
        return drawn, {}
    useful = _useful(drawn)
    # A stable sort: useful ones first, and either kind in the order of the draws.
    chosen = sorted(sorted(range(len(useful)), key=lambda p: not useful[p])[:prompts])
    batch = RolloutBatch(
        [s for p in chosen for s in drawn.samples[p * drawn.group : (p + 1) * drawn.group]], drawn.group
    )
    return batch, {
        "dynamic_sampling_rollouts": extra,
        "dropped_groups": len(useful) - prompts,
        "drawn_reward": drawn.metrics()["reward"],
    }


def _useful(batch: RolloutBatch) -> list[bool]:
    return useful_groups(batch.rewards_pg, batch.valid_pg).tolist()
