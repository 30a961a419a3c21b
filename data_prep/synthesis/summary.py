"""What a finished run tells of itself: manifest.json and the data card."""

from __future__ import annotations

import html
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

import crossthink
from conf.compose import to_yaml
from conf.synth import SynthConfig
from crossthink.files import atomic_file, sha256_file, write_json
from data_prep.synthesis.finish import SOURCE, letters
from data_prep.synthesis.prompts import load_prompts
from data_prep.synthesis.stages import BUCKETS, CLUSTERS, SIGNATURES, logs_of, stages
from data_prep.synthesis.yields import StepYield, read_yields

CARD, MANIFEST = "card.html", "manifest.json"
SAMPLES = 12
_SILENT = (SIGNATURES, BUCKETS, CLUSTERS)  # they drop nothing themselves: the filter of the next stage does
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}table{border-collapse:collapse;font-size:14px}
td,th{padding:.25rem .7rem;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f6f6;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere}
.small{color:#666;font-size:13px}.scroll{overflow-x:auto}
"""


def write_summary(config: SynthConfig) -> list[str]:
    """Write manifest.json and card.html from what the stages left. Returns lines for the terminal."""
    out = Path(config.out)
    rows_file = out / f"{SOURCE[config.kind]}.jsonl"
    yields = {one.name: read_yields(logs_of(config, one.name)) for one in stages(config) if one.name not in _SILENT}
    facts = {
        "format": "crossthink-synth",
        "crossthink": crossthink.__version__,
        "kind": config.kind,
        "rows": yields["rows"][-1].given if yields["rows"] else 0,
        "rows_sha256": sha256_file(rows_file),
        "prompts": {name: prompt.hash for name, prompt in vars(load_prompts(config.prompts)).items()},
        "models": _models(rows_file),
        "stages": {name: [vars(step) for step in steps] for name, steps in yields.items()},
        "answers_right": dict(sorted(letters(rows_file).items())) if config.kind == "qa" else {},
        "decontaminated_against": orjson.loads((out / "benchmarks.json").read_bytes()),
        "licence": "pages carry their own terms, and the models' licences may bind what they wrote: see provenance",
    }
    write_json(out / MANIFEST, facts)
    with atomic_file(out / CARD) as handle:
        handle.write(_card(config, facts, yields, _samples(rows_file, config.seed)))
    lines = [f"{step.step}: {step.given} of {step.taken}{_why(step)}" for steps in yields.values() for step in steps]
    return [*lines, f"{facts['rows']} rows: {rows_file}; card: {out / CARD}"]


def _why(step: StepYield) -> str:
    found = ", ".join(f"{reason} {count}" for reason, count in sorted(step.dropped.items(), key=lambda one: -one[1]))
    return f" ({found})" if found else ""


def _models(rows_file: Path) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    with rows_file.open("rb") as lines:
        for line in lines:
            for role, model in orjson.loads(line)["meta_data"]["models"].items():
                found.setdefault(role, set()).add(model)
    return {role: sorted(names) for role, names in sorted(found.items())}


def _samples(rows_file: Path, seed: int) -> list[dict[str, Any]]:
    """Rows drawn evenly, by reservoir."""
    draws, kept = random.Random(seed), list[dict[str, Any]]()
    with rows_file.open("rb") as lines:
        for number, line in enumerate(lines):
            at = number if number < SAMPLES else draws.randrange(number + 1)
            if at < SAMPLES:
                kept[at : at + 1] = [orjson.loads(line)]
    return kept


def _card(
    config: SynthConfig, facts: dict[str, Any], yields: dict[str, list[StepYield]], samples: Sequence[dict[str, Any]]
) -> str:
    steps = [
        [name, step.step, step.taken, step.given, _why(step)[2:-1]] for name, found in yields.items() for step in found
    ]
    topics = Counter(sample["meta_data"].get("subject") or sample["meta_data"].get("area") for sample in samples)
    body = [
        f"<h1>{_e(Path(config.out).name)}</h1><p>{facts['rows']:,} questions in the schema of {SOURCE[config.kind]}. "
        f"Answers by majority of {config.vote.solutions} solutions each (at least {config.vote.least_valid} readable, "
        f"share of at least {config.vote.threshold:g}).</p>",
        f"<p class=small>{_e(facts['licence'])}.</p>",
        "<h2>What became of the documents</h2>",
        _table(["stage", "step", "in", "out", "dropped by reason"], steps),
        "<h2>Models and prompts</h2>",
        _table(["role", "model"], [[role, ", ".join(names)] for role, names in facts["models"].items()]),
        _table(["prompt", "hash"], list(facts["prompts"].items())),
    ]
    if facts["answers_right"]:
        body += ["<h2>Which label is right</h2>", _table(["label", "rows"], list(facts["answers_right"].items()))]
    body += [f"<h2>Samples</h2><p class=small>{len(samples)} rows, of {len(topics)} topics.</p>"]
    body += [_sample(row) for row in samples]
    body += [f"<h2>Configuration</h2><pre>{_e(_without_secrets(to_yaml(config)))}</pre>"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_e(Path(config.out).name)}: data card</title>"
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _sample(row: dict[str, Any]) -> str:
    meta = dict(row["meta_data"])
    question = meta.pop("question")
    facts = ", ".join(f"{key} {value}" for key, value in meta.items() if isinstance(value, str | int))
    votes = "votes {winning} of {valid} readable, {asked} asked".format(**meta["votes"])
    right = row["reward_model"]["ground_truth"]
    return f"<pre>{_e(question)}\n\n→ {_e(right)}</pre><p class=small>{_e(votes)}; {_e(facts)}</p>"


def _without_secrets(text: str) -> str:
    """A key that was given as it is does not belong into a card; a file's name may."""
    return "\n".join(
        line.partition(":")[0] + ": (a key)"
        if line.strip().startswith("token:") and "@" not in line and "null" not in line
        else line
        for line in text.splitlines()
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["".join(f"<th>{_e(name)}</th>" for name in head)]
    lines += ["".join(f"<td{' class=n' * isinstance(one, int)}>{_e(one)}</td>" for one in row) for row in rows]
    return "<div class=scroll><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _e(value: Any) -> str:
    return html.escape(f"{value:,}" if isinstance(value, int) else str(value))
