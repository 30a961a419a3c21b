"""`crossthink rescore`: score a run's dumped rollouts again, offline, and say what changed and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import crossthink
from conf.reward import RescoreConfig, ShapingConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import atomic_dir, sha256_file
from recipes.reporting.facts import match_of_run
from recipes.rescoring.dump import Dump, Dumped, ranges
from recipes.rescoring.markdown import render
from recipes.rescoring.tally import Tally, differ
from recipes.run_files import SUMMARY
from reward_server import shaping
from reward_server.local import LocalJudge
from reward_server.service import Refused
from reward_server.verdicts import MATCHES, Verdict, rules_hash

T = TypeVar("T")

RESCORE = "rescore"  # under the run folder
VERDICTS = "verdicts.jsonl"
SUMMARY_PAGE = "summary.md"
FORMAT = "crossthink-rescore"
BATCH = 256
"""Samples that are read and judged at a time."""
LINES = 20
"""Lines of progress, about, where no terminal shows a bar."""


def run(config: RescoreConfig) -> None:
    """Write `verdicts.jsonl`, `summary.json` and `summary.md`, and print the last. The run's own files are only read.

    What was scored before by these rules is shown and left alone.

    Raises:
        ConfigError: an impossible value, nothing to score, or `out` holds something else.
        UserError: a line of a dump is damaged, or the output cannot be written.
    """
    check(config)
    dump = Dump.open(Path(config.run), config.steps)
    prefilled = dump.think_prefilled() if config.think_prefilled is None else config.think_prefilled
    rules = rules_hash(config.match, config.shaping)
    out = Path(config.out) if config.out else dump.folder / RESCORE / rules
    inputs = {
        "format": FORMAT,
        "rules_hash": {"old": dump.facts.get("rules_hash"), "new": rules},
        "think_prefilled": prefilled,
        "steps": list(dump.steps),
        "dumps": {str(step): sha256_file(dump.file(step)) for step in dump.steps},
    }
    if out.exists():
        check_done(out, inputs)
        print(f"rescore: {out} was finished before and is left as it is.", file=sys.stderr)
    else:
        try:
            with atomic_dir(out) as aside:
                _rescore(config, dump, prefilled, inputs, aside)
        except OSError as error:
            raise UserError(f"{error.filename or out}: {error.strerror}. Choose another out=.") from error
        print(f"rescore: {out}", file=sys.stderr)
    print((out / SUMMARY_PAGE).read_text("utf-8"), end="")


def check(config: RescoreConfig) -> None:
    """Refuse impossible values. Raises ConfigError naming the key, its value and what is allowed."""
    if config.match not in MATCHES:
        raise ConfigError(f"match={config.match} is not one of {', '.join(MATCHES)}.")
    shaping.check(config.shaping)
    if config.workers < 1:
        raise ConfigError(f"workers={config.workers} is too small: at least 1.")
    if config.show < 0:
        raise ConfigError(f"show={config.show} is too small: at least 0.")
    if not config.deadline_s > 0:
        raise ConfigError(f"deadline_s={config.deadline_s} must be above 0.")


def check_done(out: Path, inputs: dict[str, Any]) -> None:
    """Make sure that a finished output is of the same dumps and rules.

    Raises:
        ConfigError: it is something else; says what differs.
    """
    again = "Choose another out=, or remove that folder."
    try:
        known = json.loads((out / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict) or known.get("format") != FORMAT:
        raise ConfigError(f"out={out} exists and holds no rescore. Choose another out=.")
    if known["steps"] != inputs["steps"]:
        raise ConfigError(
            f"out={out} holds the steps {ranges(known['steps'])}, and {ranges(inputs['steps'])} are asked for. {again}"
        )
    for step, digest in inputs["dumps"].items():
        if known["dumps"][step] != digest:
            raise ConfigError(f"out={out} was made of another dump of step {step} than there is now. {again}")
    for key in ("rules_hash", "think_prefilled"):
        if known[key] != inputs[key]:
            raise ConfigError(f"out={out} was made with {key}={known[key]}, not {inputs[key]}. {again}")


def _rescore(config: RescoreConfig, dump: Dump, prefilled: bool, inputs: dict[str, Any], folder: Path) -> None:
    tally = Tally()
    shown: list[tuple[Dumped, Verdict]] = []
    with (
        LocalJudge(config.match, config.shaping, config.workers, config.deadline_s) as judge,
        open(folder / VERDICTS, "w", encoding="ascii") as handle,
    ):
        for step in _progress(dump.steps, tally):
            for batch in _batches(dump.samples(step, prefilled, config.shaping), BATCH):
                for sample, new in zip(batch, _judged(judge, batch, dump.file(step)), strict=True):
                    if tally.add(sample, new) and len(shown) < config.show:
                        shown.append((sample, new))
                    _write(handle, sample, new)
        examples = [_example(judge, sample, new) for sample, new in shown]
    match = match_of_run(dump.facts, dump.config)
    summary = {
        **inputs,
        "crossthink": crossthink.__version__,
        "run": str(dump.folder),
        "match": {"old": match, "new": config.match},
        "shaping": {"old": dump.facts.get("shaping") or {}, "new": _shaped(config.shaping)},
        **tally.to_json(),
        "disagreement": tally.disagreement() if match in MATCHES and match != config.match else None,
        "examples": examples,
    }
    with open(folder / SUMMARY, "w", encoding="ascii") as handle:
        json.dump(summary, handle, indent=2)  # ASCII: a lone surrogate in a response has no other form
        handle.write("\n")
    (folder / SUMMARY_PAGE).write_text(render(summary), encoding="utf-8")


def _judged(judge: LocalJudge, batch: list[Dumped], path: Path) -> list[Verdict]:
    try:
        return judge.score([sample.item for sample in batch])
    except Refused as refusal:
        raise UserError(f"{path}, {batch[0].item.id} and after: {refusal}.") from refusal


def _write(handle: IO[str], sample: Dumped, new: Verdict) -> None:
    line = {
        "step": sample.step,
        "prompt_id": sample.prompt_id,
        "sample": sample.sample,
        "kind": sample.item.kind,
        "old": _plain(sample.old),
        "new": _plain(new),
        "changed": None if sample.old is None else differ(sample.old, new),
    }
    handle.write(json.dumps(line) + "\n")


def _example(judge: LocalJudge, sample: Dumped, new: Verdict) -> dict[str, Any]:
    return {
        "step": sample.step,
        "prompt_id": sample.prompt_id,
        "sample": sample.sample,
        "kind": sample.item.kind,
        "ground_truth": list(sample.item.ground_truth),
        "old": _plain(sample.old),
        "new": _plain(new),
        "steps": judge.explain(sample.item)["steps"],
    }


def _plain(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict without its id, which means nothing outside the request that it was for."""
    return None if verdict is None else {key: value for key, value in verdict.to_json().items() if key != "id"}


def _shaped(config: ShapingConfig) -> dict[str, Any]:
    return {} if config == ShapingConfig() else asdict(config)


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    values = iter(values)
    while batch := list(islice(values, size)):
        yield batch


def _progress(steps: tuple[int, ...], tally: Tally) -> Iterator[int]:
    """The steps one by one, each shown when it is done: a bar on a terminal, some lines elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]rescore"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.description}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    every = max(1, len(steps) // LINES)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(steps))
        for number, step in enumerate(steps, 1):
            yield step
            text = f"{tally.all.samples} samples, {tally.changed} changed"
            bar.update(task, completed=number, description=text)
            if not console.is_terminal and (number % every == 0 or number == len(steps)):
                print(f"rescore: {number} of {len(steps)} steps, {text}", file=sys.stderr, flush=True)
