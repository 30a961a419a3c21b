"""What may be added to R = R_acc ∧ R_format: credit for the format, a price on length, a weight by source.

All off by default, since the paper's reward is 0 or 1. Status, accuracy and format of a
verdict stay what the rules say; only its number changes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from conf.reward import ShapingConfig
from crossthink.errors import ConfigError
from reward_server.verdicts import WRONG, Item, Verdict


def check(shaping: ShapingConfig) -> None:
    """Refuse impossible values. Raises ConfigError naming the key, its value and what is allowed."""
    for key in ("format_credit", "length_penalty"):
        if not 0 <= (value := getattr(shaping, key)) <= 1:
            raise ConfigError(f"shaping.{key}={value} is not between 0 and 1.")
    if shaping.length_penalty and not 0 <= shaping.length_free < shaping.length_limit:
        raise ConfigError(
            f"shaping.length_penalty={shaping.length_penalty} needs 0 <= length_free < length_limit, not "
            f"length_free={shaping.length_free} and length_limit={shaping.length_limit}."
        )
    for source, weight in shaping.source_weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"shaping.source_weights.{source}={weight} is not a number of at least 0.")


def missing(item: Item, shaping: ShapingConfig) -> str | None:
    """The field that an item lacks for this shaping, or None: a penalty that cannot be computed is not left out."""
    if shaping.length_penalty and item.response_tokens is None:
        return "response_tokens: is missing, and shaping.length_penalty needs it"
    if shaping.source_weights and item.source is None:
        return "source: is missing, and shaping.source_weights needs it"
    return None


def shape(verdict: Verdict, item: Item, shaping: ShapingConfig) -> Verdict:
    """The verdict with its shaped reward; an invalid one stays without.

    reward = weight(source) × (R_acc ∧ R_format + format_credit where only the answer is wrong − length penalty)
    """
    if verdict.reward is None or shaping == ShapingConfig():
        return verdict
    reward = verdict.reward
    if verdict.format and verdict.status == WRONG:
        reward += shaping.format_credit
    if shaping.length_penalty:
        assert item.response_tokens is not None, "checked by `missing`"
        reward -= shaping.length_penalty * _excess(item.response_tokens, shaping.length_free, shaping.length_limit)
    return replace(verdict, reward=reward * shaping.source_weights.get(item.source or "", 1.0))


def _excess(tokens: int, free: int, limit: int) -> float:
    """0 up to `free` tokens, 1 from `limit` on, linear in between (DAPO, arXiv 2503.14476, section 3.4)."""
    return min(1.0, max(0.0, (tokens - free) / (limit - free)))
