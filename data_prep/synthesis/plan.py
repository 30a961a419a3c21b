"""What a run's calls will take, before the first of them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.synth import CallsConfig, SynthConfig
from data_prep.synthesis.calls.budget import Estimate, Planned, Prices, estimate, rough_tokens
from data_prep.synthesis.prompts import load_prompts
from data_prep.synthesis.stages import CLUSTERS, PAGES, logs_of
from data_prep.synthesis.writing import QUESTION, SOLUTION
from data_prep.synthesis.yields import finished, read_yields

QUESTION_CHARACTERS = 600
"""Of a question with its options in the prompt of a solution. [ours]"""
EACH = 1000


def estimates(config: SynthConfig, documents: int) -> dict[str, Estimate]:
    """By role (`writer`, `solver`) what so many documents take at most, if each becomes a question.

    A completion is counted in full (max_tokens), so that the estimate is rather too high.
    """
    prompts = load_prompts(config.prompts)
    if config.kind == "qa":
        writing, solving, passage = prompts.question_mcq, prompts.solution_mcq, config.pages.max_characters
    else:
        writing, solving, passage = prompts.problem, prompts.solution_math, 0
    write = Planned(QUESTION, 1, rough_tokens(len(writing.text) + passage), config.writer.max_tokens)
    prompt = rough_tokens(len(solving.text) + QUESTION_CHARACTERS)
    solve = Planned(SOLUTION, config.vote.solutions, prompt, config.solver.max_tokens)
    return {
        "writer": estimate(documents, [write], _prices(config.writer)),
        "solver": estimate(documents, [solve], _prices(config.solver)),
    }


def documents(config: SynthConfig) -> int | None:
    """How many documents reach the first call at most; None where the pages are not read yet."""
    if config.kind == "math":
        return config.problems
    logs = logs_of(config, PAGES)
    if not finished(logs, config.tasks) or not finished(logs_of(config, CLUSTERS), 1):
        return None
    yields = read_yields(logs)
    return yields[-1].given if yields else 0


def print_plan(config: SynthConfig) -> None:
    """The estimate as a table; of a thousand pages where nobody knows yet how many there are."""
    known = documents(config)
    count = EACH if known is None else known
    what = "pages that reach the first call" if config.kind == "qa" else "problems"
    table = Table(
        title=f"At most, for {count:,} {what}{' (how many there are, stage pages will tell)' * (known is None)}"
    )
    for column in ("", "calls", "prompt tokens", "completion tokens", "cost"):
        table.add_column(column, justify="right" if column else "left")
    for role, found in estimates(config, count).items():
        total = found.total
        table.add_row(
            role, f"{total.calls:,}", f"{total.prompt_tokens:,}", f"{total.completion_tokens:,}", f"{found.cost:,.2f}"
        )
    Console(file=sys.stdout).print(table)
    print(f"out: {Path(config.out)}")


def _prices(calls: CallsConfig) -> Prices:
    return Prices(calls.budget.price_prompt, calls.budget.price_completion)
