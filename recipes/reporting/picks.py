"""Which answers a page shows, and how they get into it: evenly spread, nothing private, nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from data_prep.benchmarks import BENCHMARKS
from recipes.reporting.measured import Measured, Run
from recipes.reporting.text import visible
from recipes.run_files import ROLLOUTS

LONGEST = 20_000
"""Characters of a text that a page holds; a page of 200 answers stays within a few MB."""
PICKED_STEPS = 8


@dataclass(frozen=True)
class Picked:
    """An answer as the page's script takes it. Every text is `visible`; `right` is None where nobody could judge."""

    origin: str
    topic: str
    right: bool | None
    status: str
    question: str
    options: list[str]
    ground_truth: list[str]
    response: str
    tokens: int | None


def pick_answers(runs: Sequence[Run], evaluations: Sequence[Measured], count: int) -> list[Picked]:
    """Answers to show, at most `count`: as many of each evaluation and of each run's training as of the others.

    Raises:
        UserError: a file of samples or rollouts cannot be read; the message names it.
    """
    left = count
    origins: list[Measured | Run] = [*evaluations, *runs]
    found: list[Picked] = []
    for place, origin in enumerate(origins):
        share = left // (len(origins) - place)
        picked = pick_samples(origin, share) if isinstance(origin, Measured) else pick_rollouts(origin, share)
        left -= len(picked)
        found += picked
    return found


def pick_samples(evaluation: Measured, count: int) -> list[Picked]:
    """Answers of an evaluation: of the first run only, from every benchmark about as many, evenly spread over it.

    Those of private benchmarks are never taken.
    """
    blocks = evaluation.summary["benchmarks"]
    sizes = {name: block["questions"] for name, block in blocks.items() if not _is_private(name)}
    shares = _shares(sizes, count)
    places: dict[str, int] = {}
    found = []
    for sample in evaluation.folder.samples():
        name = sample["benchmark"]
        if sample["run"] != 0:
            continue
        place = places[name] = places.get(name, -1) + 1
        if place in shares.get(name, ()) and not sample["private"]:
            found.append(_picked(sample, evaluation.name, name, sample["question"] or "", sample["tokens"]))
    return found


def pick_rollouts(run: Run, count: int) -> list[Picked]:
    """Answers that a run was trained on, from steps spread evenly over it."""
    paths = sorted((run.data.folder / ROLLOUTS).glob("step_*.jsonl"))
    chosen = [paths[place] for place in _even(len(paths), min(PICKED_STEPS, count))]
    found: list[Picked] = []
    for number, path in enumerate(chosen):
        wanted = count * (number + 1) // len(chosen) - len(found)
        step = f"{run.name}, step {int(path.stem.removeprefix('step_'))}"
        try:
            for line in _spread(path, wanted):
                row = json.loads(line)
                topic = row.get("source") or row["kind"]
                found.append(_picked(row, step, topic, row["prompt"], len(row["token_ids"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} does not hold what a run writes there ({error!r}).") from error
    return found


def script_data(picked: Sequence[Picked]) -> str:
    """The answers as JSON for a script element: no character of it can end the element or a line of a script."""
    text = json.dumps([asdict(one) for one in picked], ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _is_private(benchmark: str) -> bool:
    return benchmark in BENCHMARKS and BENCHMARKS[benchmark].private


def _picked(row: Mapping[str, Any], origin: str, topic: str, question: str, tokens: int | None) -> Picked:
    verdict = row["verdict"]
    options = row.get("options") or {}
    if all(text in question for text in options.values()):
        options = {}  # some sources keep the options inside the question's text
    return Picked(
        origin=visible(origin),
        topic=visible(topic),
        right=None if verdict["reward"] is None else verdict["accuracy"] == 1,
        status=verdict["status"],
        question=_shown(question),
        options=[_shown(f"{label}. {text}") for label, text in options.items()],
        ground_truth=[_shown(text) for text in row["ground_truth"] or []],
        response=_shown(row["response"]),
        tokens=tokens,
    )


def _shown(text: str) -> str:
    rest = len(text) - LONGEST
    return visible(text) if rest <= 0 else f"{visible(text[:LONGEST])}\n… {rest} more characters"


def _shares(questions: Mapping[str, int], count: int) -> dict[str, set[int]]:
    """Places to take of every benchmark: `count` in all, what a small one cannot give the others do."""
    found, left = {}, count
    for done, (name, size) in enumerate(sorted(questions.items(), key=lambda item: item[1])):
        take = min(size, left // (len(questions) - done))
        found[name] = set(_even(size, take))
        left -= take
    return found


def _even(size: int, count: int) -> list[int]:
    """`count` places of `size`, evenly spread, first and last among them."""
    count = min(size, count)
    return [0] if count == 1 else [place * (size - 1) // (count - 1) for place in range(count)]


def _spread(path: Path, count: int) -> Iterator[bytes]:
    """`count` lines of a file, evenly spread. A line may hold megabytes: they are never held all at once."""
    with open(path, "rb") as lines:
        places = set(_even(sum(1 for _ in lines), count))
        lines.seek(0)
        yield from (line for place, line in enumerate(lines) if place in places)
