"""Running `crossthink synth` in tests: its words, what it left, and what was to be expected."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from synth_endpoint import Running
from synth_foretold import Expected, expected_math, expected_qa
from synth_world import MAX_BYTES, World

from conf.compose import from_yaml
from conf.synth import SynthConfig
from data_prep.synthesis.stages import logs_of
from data_prep.synthesis.yields import StepYield, read_yields

QA_FILE, MATH_FILE = "syn_qa.jsonl", "personaskill_math.jsonl"


def words(out: Path, url: str, *more: str) -> list[str]:
    """A run with small votes, whose writer and solver are one endpoint."""
    calls = [
        f"{group}.{key}"
        for group in ("writer", "solver")
        for key in (f"endpoint={url}", "json=schema", "json_tries=2", "retries=1", "concurrency=16", "deadline_s=60")
    ]
    votes = ["vote.solutions=5", "vote.least_valid=3"]
    return ["synth", f"out={out}", *calls, "writer.max_tokens=400", "solver.max_tokens=200", *votes, *more]


def qa_words(out: Path, url: str, crawl: Path, *more: str) -> list[str]:
    """From a crawl to multiple choice, in two tasks."""
    read = [f"crawl.path={crawl}", f"crawl.max_bytes={MAX_BYTES}", "pages.extract_s=60", "tasks=2"]
    return words(out, url, "kind=qa", *read, *more)


def math_words(out: Path, url: str, problems: int, *more: str) -> list[str]:
    """Problems for personas, in two tasks."""
    return words(out, url, "kind=math", f"problems={problems}", "tasks=2", *more)


def config_of(out: Path) -> SynthConfig:
    return from_yaml(SynthConfig, (out / "synth.yaml").read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def yields_of(out: Path, stage: str) -> dict[str, StepYield]:
    """The steps of a stage by their names."""
    return {one.step: one for one in read_yields(logs_of(config_of(out), stage))}


def heard(server: Running) -> Counter[str]:
    """How often the endpoint heard each request."""
    return Counter(line["key"] for line in server.lines())


def pages_of(out: Path) -> list[tuple[int, dict[str, Any]]]:
    """(task, page) of what the stage of pages wrote, in order."""
    files = sorted((out / "work" / "pages").glob("*.jsonl"))
    return [(int(path.stem), json.loads(line)) for path in files for line in path.read_text().splitlines()]


def deduplicated(world: World, pages: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Without the duplicates that the crawl holds: of those that are each other's the first stays."""
    by_url, seen, kept = world.by_url(), set[str](), []
    for task, page in pages:
        record = by_url[page["metadata"]["url"]]
        twin = record.twin or record.name
        if twin not in seen:
            kept.append((task, page))
        seen.add(twin)
    return kept


def foretold(out: Path, shares: Any, world: World | None = None) -> Expected:
    """What must come of a run."""
    config = config_of(out)
    return (
        expected_math(config, shares)
        if world is None
        else expected_qa(config, shares, deduplicated(world, pages_of(out)))
    )
