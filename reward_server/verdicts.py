"""What goes into the reward server and what comes out of it (docs/rewards.md)."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from conf.reward import ShapingConfig
from reward_server.scoring.mcq import is_readable

KINDS = ("mcq", "open", "math")
MATCHES = ("equivalent", "exact")

ERROR = "error"
"""The grader could not judge (crash, wall-clock guard): invalid, never zero."""
BAD_GOLD = "bad_gold"
"""The ground truth is empty, not among the options or does not parse: invalid, never zero."""
TIMEOUT = "timeout"
"""The answer used up the worker's CPU-time deadline: reward 0."""
TRUNCATED = "truncated"
"""Cut off by the length limit with no complete box: reward 0."""
NO_BOX = "no_box"
"""Finished without an answer in a box: reward 0."""
BAD_FORMAT = "bad_format"
"""There is an answer, but the think-tag rule is broken: reward 0."""
WRONG = "wrong"
"""Right format, another answer: reward 0."""
CORRECT = "correct"
"""Right format, right answer: reward 1."""

STATUSES = (ERROR, BAD_GOLD, TIMEOUT, TRUNCATED, NO_BOX, BAD_FORMAT, WRONG, CORRECT)
"""All statuses in their order of precedence: the first that applies is the verdict's."""
INVALID = frozenset({ERROR, BAD_GOLD})

RULES_VERSION = "5"
"""Raised with every change that can turn one verdict into another."""


@dataclass(frozen=True)
class Item:
    """One response to judge.

    Attributes:
        id: the caller's name for it, given back unchanged.
        kind: "mcq", "open" or "math".
        response: everything the model wrote, special tokens removed.
        ground_truth: right answers; any one of them is right.
        options: (label, text) pairs of a multiple-choice question, or None.
        finish_reason: "length" when the response was cut off; anything else counts as finished.
        think_prefilled: the prompt already ended in `<think>`, so the response starts inside it.
        source: where the question comes from; only `shaping.source_weights` looks at it.
        response_tokens: tokens of the response; only `shaping.length_penalty` looks at it.
    """

    id: str
    kind: str
    response: str
    ground_truth: tuple[str, ...]
    options: tuple[tuple[str, str], ...] | None = None
    finish_reason: str | None = None
    think_prefilled: bool = False
    source: str | None = None
    response_tokens: int | None = None

    @classmethod
    def from_json(cls, obj: Any) -> Item:
        """Read one item of a `/v1/score` request.

        Raises:
            ValueError: naming the field, its value and what is allowed. Unknown fields are refused too, so that a
                misspelt `think_prefilled` never silently scores zero.
        """
        if not isinstance(obj, dict):
            raise ValueError(f"is {show(obj)}, expected a JSON object")
        if unknown := obj.keys() - Item.__dataclass_fields__.keys():
            name = next(name for name in obj if name in unknown)
            raise ValueError(f"{show(name)}: unknown field, allowed are {', '.join(Item.__dataclass_fields__)}")
        gold = _need(obj, "ground_truth")
        golds = [gold] if isinstance(gold, str) else gold
        if not isinstance(golds, list) or not all(isinstance(text, str) for text in golds):
            raise ValueError(f"ground_truth: {show(gold)} is neither a string nor a list of strings")
        return cls(
            id=_string(obj, "id"),
            kind=_one_of(obj, "kind", KINDS),
            response=_string(obj, "response"),
            ground_truth=tuple(golds),
            options=_options(obj.get("options")),
            finish_reason=_optional(obj, "finish_reason", str, "a string"),
            think_prefilled=_optional(obj, "think_prefilled", bool, "true or false") or False,
            source=_optional(obj, "source", str, "a string"),
            response_tokens=_count(obj, "response_tokens"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads; fields at their default are left out."""
        obj: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "response": self.response,
            "ground_truth": list(self.ground_truth),
        }
        if self.options is not None:
            obj["options"] = dict(self.options)
        if self.finish_reason is not None:
            obj["finish_reason"] = self.finish_reason
        if self.think_prefilled:
            obj["think_prefilled"] = True
        if self.source is not None:
            obj["source"] = self.source
        if self.response_tokens is not None:
            obj["response_tokens"] = self.response_tokens
        return obj


@dataclass(frozen=True)
class Verdict:
    """The judgement of one item.

    Attributes:
        id: the item's id.
        reward: 1.0 when accuracy and format are both 1, else 0.0, unless the server shapes it
            (`reward_server.shaping`); None for an invalid item.
        accuracy: 1 when the boxed answer is right, whatever the format; None for an invalid item.
        format: 1 when the response is one `<think>…</think>` and then a box, whatever the answer.
        extracted: content of the box that counts, outer whitespace removed; None where there is no answer.
        status: one of `STATUSES`.
        elapsed_ms: milliseconds spent judging, waiting for a free worker not included.
    """

    id: str
    reward: float | None
    accuracy: int | None
    format: int
    extracted: str | None
    status: str
    elapsed_ms: float

    @property
    def is_valid(self) -> bool:
        """False for `bad_gold` and `error`: to be left out of every mean, never counted as zero."""
        return self.status not in INVALID

    @classmethod
    def from_json(cls, obj: Any) -> Verdict:
        """Read one verdict of a `/v1/score` reply. Raises ValueError naming what is wrong with it."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(obj, dict) or not names <= set(obj):
            raise ValueError(f"{show(obj)} is no verdict, expected an object with {', '.join(sorted(names))}")
        verdict = cls(**{name: obj[name] for name in names})
        if verdict.status not in STATUSES:
            raise ValueError(f"status: {show(verdict.status)} is not one of {', '.join(STATUSES)}")
        number = isinstance(verdict.reward, int | float) and math.isfinite(verdict.reward)
        if verdict.is_valid != number:
            raise ValueError(f"reward: {show(verdict.reward)} does not go with status {verdict.status}")
        return verdict

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the reply."""
        return dict(vars(self))


def rules_hash(match: str, shaping: ShapingConfig | None = None) -> str:
    """Twelve hex digits that change when a verdict may: rules version, match, shaping, math library versions.

    Two servers with one hash judge alike; a run that meets two hashes mixes two rewards.
    """
    shaped = asdict(shaping) if shaping is not None and shaping != ShapingConfig() else {}
    return _rules_hash(match, json.dumps(shaped, sort_keys=True))


@functools.lru_cache(maxsize=16)
def _rules_hash(match: str, shaping: str) -> str:
    rules = {"rules": RULES_VERSION, "match": match, "shaping": shaping}
    for package in ("math-verify", "latex2sympy2_extended", "sympy"):
        rules[package] = importlib.metadata.version(package)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]


def show(value: Any) -> str:
    """`value` as short ASCII JSON, for error messages: safe for any text, NULs and surrogates included."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


def _need(obj: dict[str, Any], name: str) -> Any:
    if name not in obj:
        raise ValueError(f"{name}: is missing")
    return obj[name]


def _string(obj: dict[str, Any], name: str) -> str:
    value = _need(obj, name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: {show(value)} is not a string")
    return value


def _one_of(obj: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = _string(obj, name)
    if value not in allowed:
        raise ValueError(f"{name}: {show(value)} is not one of {', '.join(allowed)}")
    return value


def _optional(obj: dict[str, Any], name: str, kind: type, what: str) -> Any:
    value = obj.get(name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name}: {show(value)} is not {what}")
    return value


def _count(obj: dict[str, Any], name: str) -> int | None:
    value = obj.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"{name}: {show(value)} is not a whole number of at least 0")
    return value


def _options(value: Any) -> tuple[tuple[str, str], ...] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not value or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"options: {show(value)} is not a JSON object of label to text with at least one option")
    if any(not label.strip() for label in value):
        raise ValueError(f"options: {show(value)} has an empty label")
    if (label := next((label for label in value if not is_readable(label)), None)) is not None:
        raise ValueError(
            f"options: the label {show(label)} never matches, as brackets, quotes, $ and \\text{{}} are taken off an "
            "answer and commas part it; a label is plain, such as A"
        )
    return tuple(value.items())
