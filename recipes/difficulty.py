"""`crossthink difficulty`: the questions that a smaller model already solves, marked and left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from conf.difficulty import KEEPS, DifficultyConfig
from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_DONE, ConfigError, did_you_mean
from crossthink.files import atomic_file
from data_prep.pool import Pool
from data_prep.rows import DOMAINS
from recipes import evaluate
from recipes.evaluation.folder import read_evaluation
from recipes.evaluation.questions import QuestionSet, from_pool
from recipes.evaluation.record import LEFTOVERS
from recipes.marking import show
from recipes.marking.filtered_pool import FACTS, write_filtered, write_marks
from recipes.marking.marks import Mark, Rule, histogram, marks_of
from recipes.rl.stop import StopRequest
from recipes.run_folder import LOCK, locked

ANSWERS, MARKS, PICTURE, POOL = "answers", "marks.parquet", "pass_rates.svg", "pool"


def run(config: DifficultyConfig) -> int:
    """Ask, mark, and write the pool of what is left. Returns the exit code.

    Raises:
        ConfigError: an impossible value, or `out` holds something else; before anything starts.
        UserError: a server cannot be reached or refuses; nothing would be left of the pool.
        StoppedEarly: SIGINT or SIGTERM, or the endpoint is gone; the same command with `resume=true` goes on.
    """
    check(config)
    out = Path(config.out)
    _check_folder(out, config)
    pool = Pool.open(config.data)
    rule = keep_rule(config)
    asked = questions(config)
    if not asked.asked:
        raise ConfigError(f"domains={config.domains}: {config.data} has no row of these domains.")
    with locked(out), StopRequest() as stop:
        if (out / POOL).is_dir():
            _check_finished(out, pool, rule)
            print(f"crossthink: {out} is finished: its pool is {out / POOL}.", file=sys.stderr)
            return EXIT_DONE
        evaluate.evaluate_questions(eval_config(config), asked, lambda: stop.requested)
        answers = read_evaluation(out / ANSWERS)
        marks = marks_of(asked.asked, answers.samples())
        write_marks(out / MARKS, marks, rule)
        rates = histogram(mark.pass_rate for mark in marks if mark.pass_rate is not None)
        if rates:
            with atomic_file(out / PICTURE) as handle:
                handle.write(show.svg(rates, f"Pass rates of {config.data}"))
        facts = _facts(config, pool, rule, rates, answers.identity)
        counts = write_filtered(out / POOL, pool, marks, config.domains, rule, facts)
    show.print_counts(counts, f"Pool {out / POOL}")
    if rates:
        print(show.bars(rates))
    _warn(config, marks)
    return EXIT_DONE


def check(config: DifficultyConfig) -> None:
    """Refuse impossible values and combinations. Raises ConfigError naming key, value and what is allowed."""
    if config.keep not in KEEPS:
        raise ConfigError(f"keep={config.keep} is not allowed. Allowed: {', '.join(KEEPS)}.")
    for name in config.domains:
        if name not in DOMAINS:
            near = did_you_mean(name, DOMAINS)
            raise ConfigError(f"domains: '{name}' is no domain. Allowed: {', '.join(DOMAINS)}.{near}")
    if not config.domains:
        raise ConfigError(f"domains=[] asks nothing. Allowed: some of {', '.join(DOMAINS)}.")
    if len(config.keep_range) != 2 or not 0 <= config.keep_range[0] <= config.keep_range[1] <= 1:
        raise ConfigError(f"keep_range={config.keep_range} is not allowed. Allowed: [low, high], 0 ≤ low ≤ high ≤ 1.")
    if config.samples < 1:
        raise ConfigError(f"samples={config.samples} is too small: at least 1.")
    if config.samples > 1 and not config.temperature > 0:
        raise ConfigError(
            f"temperature={config.temperature}: {config.samples} samples would be one answer {config.samples} times. "
            "Give a temperature above 0, or samples=1, which is greedy."
        )
    evaluate.check(eval_config(config))


def keep_rule(config: DifficultyConfig) -> Rule:
    """Which pass rates stay."""
    return Rule(0.0, 0.0) if config.keep == "unsolved" else Rule(*config.keep_range)


def questions(config: DifficultyConfig) -> QuestionSet:
    """The rows that are to be asked, in the pool's order."""
    whole = from_pool(Path(config.data), None)
    return QuestionSet(tuple(one for one in whole.asked if one.row.domain in config.domains), whole.facts)


def eval_config(config: DifficultyConfig) -> EvalConfig:
    """The evaluation whose answers the marks are made from."""
    return EvalConfig(
        checkpoint=config.checkpoint,
        endpoint=config.endpoint,
        request=config.request,
        data=config.data,
        out=str(Path(config.out) / ANSWERS),
        runs=config.samples,
        temperature=config.temperature if config.samples > 1 else 0.0,
        top_p=config.top_p,
        seed=config.seed,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
        threads=config.threads,
        rollout=config.rollout,
        reward=config.reward,
        resume=config.resume,
    )


def _check_folder(out: Path, config: DifficultyConfig) -> None:
    known = {LOCK, ANSWERS, MARKS, PICTURE, POOL}
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    for name in found:
        if name not in known and not name.endswith(".tmp"):
            raise ConfigError(f"out={out} is not empty and holds no marks of a pool ({name}). Choose another out=.")
    begun = set(found) - {LOCK}
    if {path.name for path in (out / ANSWERS).glob("*")} <= set(LEFTOVERS):
        begun -= {ANSWERS}  # a start that could not reach its endpoint has left it
    if begun and not config.resume:
        raise ConfigError(
            f"out={out} already exists. Add resume=true to go on with what was stopped there, or choose another out=."
        )


def _check_finished(out: Path, parent: Pool, rule: Rule) -> None:
    """Refuse to call a folder finished that was filtered from another pool or by another rule."""
    made = Pool.open(out / POOL).manifest[FACTS]
    for key, known, now in (
        ("data", made["parent"]["sha256"], parent.sha256),
        ("keep", made["keep_range"], [rule.low, rule.high]),
    ):
        if known != now:
            raise ConfigError(
                f"out={out} holds a pool that was filtered with another {key}: it was {known}, now it is {now}. Choose "
                f"another out=; for another keep= only, remove {out / POOL} and the answers are used again."
            )


def _facts(
    config: DifficultyConfig, pool: Pool, rule: Rule, rates: list[tuple[str, int]], identity: dict[str, Any]
) -> dict[str, Any]:
    return {
        "parent": {"sha256": pool.sha256, "rows": len(pool)},
        "domains": list(config.domains),
        "samples": config.samples,
        "keep": config.keep,
        "keep_range": [rule.low, rule.high],
        "pass_rates": dict(rates),
        **identity,
    }


def _warn(config: DifficultyConfig, marks: list[Mark]) -> None:
    invalid = sum(bool(mark.statuses) and mark.pass_rate is None for mark in marks)
    too_long = sum(not mark.statuses for mark in marks)
    if invalid:
        print(f"crossthink: WARNING: {invalid} rows could not be judged and are dropped.", file=sys.stderr)
    if too_long:
        print(
            f"crossthink: WARNING: {too_long} rows are longer than max_prompt_tokens={config.max_prompt_tokens}; they "
            "were not asked and stay.",
            file=sys.stderr,
        )
