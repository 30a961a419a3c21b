"""verl's reward function: `reward.custom_reward_function.path=pkg://reward_server.protocols.verl name=compute_score`.

verl calls it once a sample, from a thread of each of its reward workers, with the response decoded without special
tokens. What the dictionary holds besides `score` becomes columns of the batch: verl averages the numbers by data source
in validation, with `acc` as the headline, skips strings, and breaks on None. (Shapes: verl 0.9.1,
verl/experimental/reward_loop/reward_manager/naive.py, verl/trainer/ppo/metric_utils.py.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crossthink.errors import UserError
from reward_server.protocols import judges
from reward_server.protocols.questions import answered, read_question
from reward_server.protocols.rewards import share, to_numbers

PREFIX = "crossthink/"
"""What our export puts before the name of a source."""


class BadRow(UserError):
    """A row that says no such thing as how its answers are judged."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | Iterable[str] | None = None,
    token: str | None = None,
    match: str = "equivalent",
    invalid_as: float | None = None,
    think_prefilled: bool = False,
    **kwargs: Any,
) -> dict[str, float | str]:
    """The verdict on one response.

    Args:
        data_source: the row's; its last part is the source's name.
        solution_str: the response, without the prompt.
        ground_truth: the row's `reward_item`, as `crossthink prep export=[verl]` writes it.
        extra_info: the row's; its `id` is what an error names.
        url: a reward server, or several; None: judged in this process and its workers.
        token: the servers' shared secret.
        match: rule of the judge in this process, "equivalent" or "exact".
        invalid_as: number that stands for an item that cannot be judged; None: such an item is an error.
        think_prefilled: the prompt ends in `<think>`, so the response starts inside it.
        **kwargs: what else verl passes on; not looked at.

    Returns:
        `score` (the reward), `acc` and `format` (the two bits), `invalid` (1 where `invalid_as` stands in), `status`.

    Raises:
        BadRow, InvalidItems: name the row. RewardUnavailable, RewardRefused: as the client says.
    """
    ident = _name(data_source, extra_info)
    try:
        question = read_question(ground_truth)
    except ValueError as error:
        raise BadRow(f"{ident}: reward_model.ground_truth: {error}") from error
    item = answered(
        question,
        ident,
        solution_str,
        source=question.source or str(data_source).removeprefix(PREFIX),
        think_prefilled=question.think_prefilled or think_prefilled,
    )
    (verdict,) = judges.score([item], url, token, match)
    (reward,) = to_numbers([item], [verdict], invalid_as)
    return {
        "score": reward,
        "acc": share(verdict.accuracy, invalid_as),
        "format": float(verdict.format),
        "invalid": float(not verdict.is_valid),
        "status": verdict.status,
    }


def _name(data_source: str, extra_info: Mapping[str, Any] | None) -> str:
    info = extra_info or {}
    known = [f"{key} {info[key]}" for key in ("id", "index") if info.get(key) is not None]
    return f"{data_source} ({', '.join(known)})" if known else str(data_source)
