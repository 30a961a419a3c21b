"""The summary of a rescore for a reader: Markdown, as it is printed and kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.reporting.text import UNKNOWN, pct, plain, visible

LONGEST = 200
"""Characters of a text that are shown."""


def render(summary: dict[str, Any]) -> str:
    """The whole page."""
    rules, match, reward = summary["rules_hash"], summary["match"], summary["reward"]
    parts = [
        f"# {code(summary['run'])} scored again",
        table(
            ("", "old", "new"),
            [
                ("rules", plain(rules["old"]), rules["new"]),
                ("match", plain(match["old"]), match["new"]),
                ("shaping", _shaping(summary["shaping"]["old"]), _shaping(summary["shaping"]["new"])),
                ("mean reward", _mean(reward["old"]), _mean(reward["new"])),
                ("invalid", summary["invalid"]["old"], summary["invalid"]["new"]),
            ],
        ),
        _totals(summary),
        "## Status",
        table(
            ("old", "new", "samples"),
            ((one["old"] or "(no verdict)", one["new"], one["samples"]) for one in summary["status"]),
        ),
        "## Mean reward",
        _rewards("kind", reward["by_kind"]),
        _rewards("step", reward["by_step"]),
    ]
    if summary["examples"]:
        parts += [f"## The first {len(summary['examples'])} of {summary['changed']} changed samples"]
        parts += [_example(one) for one in summary["examples"]]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str, longest: int = LONGEST) -> str:
    """A text of any kind as inline code: one line, shortened in the middle, everything visible."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … ({len(text)} characters) … {text[-half:]}"
    text = visible(text).replace("\n", "⏎").replace("\t", "")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    blank = " " if not text.strip() or text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def _totals(summary: dict[str, Any]) -> str:
    lines = [f"{summary['samples']} samples of {len(summary['steps'])} steps, {summary['changed']} changed."]
    if missing := summary["without_old_verdict"]:
        lines.append(f"{missing} of them have no verdict in the dump, so nothing can have changed there.")
    if one := summary["disagreement"]:
        both = f"{summary['match']['old']} and {summary['match']['new']}"
        lines.append(
            f"Of {one['compared']} answers that both could judge, {both} disagree on {pct(one['rate'])}: "
            f"{one['right_to_wrong']} from right to wrong, {one['wrong_to_right']} from wrong to right."
        )
    return "\n".join(lines)


def _rewards(name: str, groups: dict[str, dict[str, Any]]) -> str:
    rows = ((key, one["samples"], _mean(one["old"]), _mean(one["new"])) for key, one in groups.items())
    return table((name, "samples", "old", "new"), rows)


def _example(one: dict[str, Any]) -> str:
    old, new = one["old"], one["new"]
    head = (
        f"### Step {one['step']}, prompt {code(one['prompt_id'])}, sample {one['sample']} ({one['kind']}): "
        f"{old['status']} → {new['status']}, reward {_number(old['reward'])} → {_number(new['reward'])}"
    )
    lines = [
        f"- extracted: {_text(new['extracted'])}"
        + (f" (before: {_text(old['extracted'])})" if old["extracted"] != new["extracted"] else ""),
        f"- ground truth: {' or '.join(code(gold) for gold in one['ground_truth']) or UNKNOWN}",
        *(f"- {step['step']}: {step['result']}: {code(step['why'], 2 * LONGEST)}" for step in one["steps"]),
    ]
    return head + "\n\n" + "\n".join(lines)


def _text(text: str | None) -> str:
    return UNKNOWN if text is None else code(text)


def _mean(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:g}"


def _shaping(shaping: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in shaping.items()) or "none"
