"""NeMo-Gym's summary of many rollouts: the numbers that its base class computes (nemo_gym/reward_profile.py, 0.7.0)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_server.verdicts import show

TASK, ROLLOUT, MASKED = "_ng_task_index", "_ng_rollout_index", "mask_sample"
LARGEST = 1e300
"""Numbers from here on, infinity and NaN are no measurements."""


def aggregate(replies: Any) -> dict[str, Any]:
    """Metrics of the replies to `/verify`: over all (`agent_metrics`), by task, and their means (`key_metrics`).

    Replies that are marked as not counting (`mask_sample`) are left out, and counted under `coverage/`.

    Raises:
        ValueError: `replies` is no list of JSON objects.
    """
    if not isinstance(replies, list):
        raise ValueError(f"verify_responses: is {show(replies)}, expected a list of replies")
    for index, one in enumerate(replies):
        if not isinstance(one, dict):
            raise ValueError(f"verify_responses[{index}]: is {show(one)}, expected a JSON object")
        if not isinstance(one.get(TASK, 0), int):
            raise ValueError(f"verify_responses[{index}].{TASK}: {show(one[TASK])} is not a whole number")
    counted = [one for one in replies if not one.get(MASKED)]
    tasks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in counted:
        tasks[one.get(TASK, 0)].append(one)
    overall = _statistics(counted)
    if len(counted) != len(replies):
        overall |= {
            "coverage/measured_rollouts": len(counted),
            "coverage/masked_rollouts": len(replies) - len(counted),
            "coverage/measured_tasks": len(tasks),
            "coverage/fully_masked_tasks": len({one.get(TASK, 0) for one in replies} - set(tasks)),
        }
    return {
        "group_level_metrics": [
            {TASK: task, **_statistics(tasks[task]), "num_rollouts": len(tasks[task])} for task in sorted(tasks)
        ],
        "agent_metrics": overall,
        "key_metrics": {name: overall[name] for name in overall if name.startswith(("mean/", "coverage/"))},
    }


def _statistics(replies: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    columns: dict[str, list[float]] = defaultdict(list)
    rows = len(replies)
    for one in replies:
        response = one.get("response")
        usage = response.get("usage") if isinstance(response, dict) else None
        for name, value in {**one, **(usage if isinstance(usage, dict) else {})}.items():
            if name not in (TASK, ROLLOUT, MASKED) and isinstance(value, int | float) and abs(value) < LARGEST:
                columns[name].append(float(value))
    found: dict[str, float] = {}
    for kind, compute in _COMPUTE.items():
        found |= {f"{kind}/{name}": compute(values) for name, values in columns.items()}
    for name, values in columns.items():
        if len(values) > 1 or rows == 1:  # one value among rows without it has no deviation
            found[f"std/{name}"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return found


_COMPUTE: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "max": max,
    "min": min,
    "median": statistics.median,
}
