"""The HTML of the server's own page: the verdict with its steps, the form, the examples, the counters."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

import crossthink
from conf.reward import ServeRewardConfig, ShapingConfig
from reward_server.explaining.steps import BAD, BROKEN, DIFFERENT, EQUAL, GOOD, KEPT, NOTE, UNSETTLED, visible
from reward_server.verdicts import CORRECT, INVALID, STATUSES

_WEB = Path(__file__).parent / "web"
_PAGE, _FORM, _COUNTERS = (
    Template((_WEB / f"{name}.html").read_text(encoding="utf-8")) for name in ("page", "form", "counters")
)
_STYLE = (_WEB / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_WEB / "page.js").read_text(encoding="utf-8")

KINDS = {"math": "Mathematics", "mcq": "Multiple choice", "open": "Short text"}
STAGES = {
    "finish": "Finish",
    "format": "Format",
    "box": "Box",
    "gold": "Ground truth",
    "answer": "Answer",
    "shaping": "Shaping",
    "reward": "Reward",
}
_MARKS = {KEPT: "good", GOOD: "good", EQUAL: "good", BROKEN: "bad", BAD: "bad", DIFFERENT: "bad"}
_QUOTED = re.compile("“([^”]+)”")

_THINK = "<think>Heads is one of two sides.</think>\n"
EXAMPLES: dict[str, dict[str, str]] = {
    "A right answer, spelled differently": {
        "kind": "math",
        "response": _THINK + r"The probability is \boxed{\frac{1}{2}}.",
        "ground_truth": "0.5",
    },
    "Why zero? No </think>": {
        "kind": "math",
        "response": r"<think>Half of 84 is 42. The answer is \boxed{42}.",
        "ground_truth": "42",
    },
    "A label with another option's text": {
        "kind": "mcq",
        "response": r"<think>The capital of France is Paris.</think> \boxed{A. Paris}",
        "ground_truth": "C",
        "options": "A. London\nB. Rome\nC. Paris",
    },
    "An anagram, which Math-Verify alone accepts": {
        "kind": "math",
        "response": r"<think>It is a word.</think> \boxed{silent}",
        "ground_truth": "listen",
    },
    "A tower of powers, built to be slow": {
        "kind": "math",
        "response": r"<think>Large.</think> \boxed{\frac{5^{5^{5^{5^{5}}}}-5}{16}}",
        "ground_truth": "195",
    },
    "A ground truth that nobody can meet": {
        "kind": "math",
        "response": r"<think>A half.</think> \boxed{\frac{1}{2}}",
        "ground_truth": r"\frac{1}{2",
    },
}
"""What the page offers to click."""


@dataclass(frozen=True)
class Asked:
    """What the form holds, as text, and what came of it."""

    fields: Mapping[str, str]
    explanation: dict[str, Any] | None = None
    fault: str | None = None


def render(config: ServeRewardConfig, rules_hash: str, counters: Mapping[str, Any], asked: Asked) -> str:
    """The whole page.

    Args:
        config: of the server.
        rules_hash: of the server.
        counters: as `Service.counters` gives them.
        asked: what the form holds, and what came of it.
    """
    explanation = asked.explanation
    status = explanation["verdict"]["status"] if explanation else None
    form, examples, state = _form(config.shaping, asked), _examples(), _state(counters)
    # Who reads or tabs from top to bottom meets the verdict first, where there is one.
    columns = ([_result(explanation), state], [form, examples]) if explanation else ([form], [examples, state])
    page = _PAGE.substitute(
        title=f"{status} – CrossThink reward server" if status else "CrossThink reward server",
        style=_STYLE,
        script=_SCRIPT,
        match=escape(config.match),
        rules=escape(rules_hash),
        version=escape(crossthink.__version__),
        shaping="" if config.shaping == ShapingConfig() else " · reward is shaped",
        columns="\n".join(f"<div>\n{''.join(sections)}</div>" for sections in columns),
    )
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", page)  # HTML has no way to write these


def _form(shaping: ShapingConfig, asked: Asked) -> str:
    fields = asked.fields
    kind = fields.get("kind") if fields.get("kind") in KINDS else "math"
    return _FORM.substitute(
        alert=f'<p class="alert" role="alert">{escape(visible(asked.fault))}</p>' if asked.fault else "",
        kinds="\n".join(_radio(name, text, name == kind) for name, text in KINDS.items()),
        shaped=_shaped(shaping, fields),
        think_prefilled=_checked(fields, "think_prefilled"),
        cut_off=_checked(fields, "cut_off"),
        **{name: escape(fields.get(name, "")) for name in ("response", "ground_truth", "options")},
    )


def _examples() -> str:
    links = "\n".join(
        f'<li><a href="?{escape(urlencode(example))}">{escape(name)}</a></li>' for name, example in EXAMPLES.items()
    )
    return f"""<section class="examples" aria-labelledby="examples">
<h2 id="examples">Examples</h2>
<ul>
{links}
</ul>
</section>
"""


def _state(counters: Mapping[str, Any]) -> str:
    shown = numbers(counters)
    return _COUNTERS.substitute(
        numbers="\n".join(
            f'<div><dt>{key}</dt><dd data-key="{key}">{text}</dd></div>' for key, text in shown["numbers"].items()
        ),
        verdicts="\n".join(_row(status, **one) for status, one in shown["verdicts"].items()),
    )


def _result(explanation: dict[str, Any]) -> str:
    verdict = explanation["verdict"]
    status = verdict["status"]
    reward = "none" if verdict["reward"] is None else f"{verdict['reward']:g}"
    answer = "none" if verdict["extracted"] is None else f"<code>{escape(visible(verdict['extracted']))}</code>"
    bits = {name: "none" if verdict[name] is None else verdict[name] for name in ("accuracy", "format")}
    stages = "\n".join(
        _stage(stage, list(steps)) for stage, steps in groupby(explanation["steps"], lambda one: one["step"])
    )
    return f"""<section class="result" aria-labelledby="verdict">
<h2 id="verdict"><span class="status {_tone(status)}">{status}</span> reward {reward}</h2>
<p class="facts">accuracy {bits["accuracy"]} · format {bits["format"]} · answer {answer}</p>
<ol class="stages">
{stages}
</ol>
</section>
"""


def _stage(stage: str, steps: Sequence[dict[str, Any]]) -> str:
    tone = _stage_tone(stage, steps)
    lines = "\n".join(_line(step, named=len(steps) > 1) for step in steps)
    rule, source = steps[-1]["rule"], steps[-1]["source"]
    return f"""<li class="stage {tone}">
<h3>{STAGES[stage]}</h3>
<ul>
{lines}
</ul>
<details{" open" if tone == "bad" and stage != "reward" else ""}><summary>The rule</summary>
<p>{escape(rule)} <cite>{escape(source)}</cite></p></details>
</li>"""


def _stage_tone(stage: str, steps: Sequence[dict[str, Any]]) -> str:
    """One broken step breaks a stage; of the answers to several ground truths one is enough."""
    if stage == "answer":
        tones = [_tone(step["result"]) for step in steps if step["part"].startswith("answer")]
        order = ("good", "bad", "none")
    else:
        tones = [_tone(step["result"]) for step in steps]
        order = ("bad", "none", "good")
    return next((tone for tone in order if tone in tones), "note")


def _line(step: dict[str, Any], named: bool) -> str:
    part = f"<span>{escape(step['part'])}</span> " if named else ""
    why = _QUOTED.sub(r"<code>\1</code>", escape(step["why"]))
    return f'<li class="{_tone(step["result"])}"><b>{escape(step["result"])}</b> <div>{part}{why}</div></li>'


def _tone(result: str) -> str:
    if result in (NOTE, UNSETTLED):
        return "note"
    if result in STATUSES:
        return "good" if result == CORRECT else "none" if result in INVALID else "bad"
    return _MARKS[result]


def _radio(name: str, text: str, checked: bool) -> str:
    mark = " checked" if checked else ""
    return f'<label><input type="radio" name="kind" value="{name}"{mark}> <span>{text}</span></label>'


def _shaped(shaping: ShapingConfig, fields: Mapping[str, str]) -> str:
    """Inputs for what shaping needs to know."""
    wanted = []
    if shaping.length_penalty:
        wanted.append(("response_tokens", "Response tokens", 'inputmode="numeric" required'))
    if shaping.source_weights:
        wanted.append(("source", "Source", "required"))
    return "\n".join(
        f'<label for="{name}">{text}</label>\n'
        f'<input id="{name}" name="{name}" value="{escape(fields.get(name, ""))}" {more}>'
        for name, text, more in wanted
    )


def _checked(fields: Mapping[str, str], name: str) -> str:
    return " checked" if fields.get(name) == "true" else ""


def _row(status: str, count: str, share: str) -> str:
    return (
        f'<tr><th scope="row">{status}</th><td data-key="status-{status}">{count}</td>'
        f'<td class="bar"><svg aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none">'
        f'<rect class="{_tone(status)}" data-bar="{status}" width="{share}" height="6"/></svg></td></tr>'
    )


def numbers(counters: Mapping[str, Any]) -> dict[str, Any]:
    """The counters as the page shows them, as texts."""
    verdicts: Mapping[str, int] = counters["verdicts"]
    total = sum(verdicts.values())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(counters["restarts"].items()) if number)
    return {
        "numbers": {
            "Verdicts": f"{total:,}",
            "Requests": f"{counters['requests']:,}",
            "Items under way": f"{counters['queue']:,}",
            "Workers": f"{counters['workers']:,}",
            "Workers replaced": reasons or "0",
            "Up for": _span(int(counters["uptime_s"])),
        },
        "verdicts": {
            status: {
                "count": f"{verdicts.get(status, 0):,}",
                "share": f"{100 * verdicts.get(status, 0) / max(total, 1):.1f}",
            }
            for status in reversed(STATUSES)
        },
    }


def _span(seconds: int) -> str:
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of the page: it runs its own script and nothing else, and keeps the path's token to itself."""
