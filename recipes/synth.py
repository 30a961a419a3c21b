"""`crossthink synth`: web pages, or personas and skills, to questions with voted answers, stage by stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conf.compose import from_file, to_yaml
from conf.synth import JSON_MODES, KINDS, ROUTERS, CallsConfig, SynthConfig
from crossthink.errors import EXIT_DONE, EXIT_RESUMABLE, ConfigError, StoppedEarly, UserError, did_you_mean
from crossthink.extras import need
from crossthink.files import atomic_file
from crossthink.procs import PARENT, stop
from data_prep.benchmarks import find_benchmarks
from data_prep.synthesis import stages
from data_prep.synthesis.personas import draw_pairs, load_personas, load_skills
from data_prep.synthesis.prompts import load_prompts
from data_prep.synthesis.subjects import load_subjects
from data_prep.synthesis.yields import finished
from recipes import synth_jobs
from recipes.rl.stop import StopRequest
from recipes.run_folder import LOCK, check_continues, locked

CONFIG = "synth.yaml"
MAY_CHANGE = (
    "out", "resume", "workers", "documents", "retry_failed", "cluster",
    *(f"embeddings.{key}" for key in ("endpoint", "token", "deadline_s", "retries")),
)  # fmt: skip
CALLS_MAY_CHANGE = (
    "endpoint", "token", "json", "json_tries", "concurrency", "deadline_s", "retries", "late_in_a_row", "budget",
)  # fmt: skip
POLL_S = 0.2


def run(config: SynthConfig, dry_run: bool = False) -> int:
    """Run every stage that is not finished, or submit them; or only say what the calls will take.

    Returns:
        0; 75 where jobs are under way.

    Raises:
        ConfigError: an impossible configuration, before anything starts.
        UserError: a stage ended, or let nothing through; exit code 75 where the same command can go on.
    """
    check(config)
    if dry_run:
        from data_prep.synthesis.plan import print_plan

        print_plan(config)
        return EXIT_DONE
    out = Path(config.out)
    with locked(out), StopRequest() as request:
        _claim(config)
        if config.cluster.name:
            return _submit(config)
        for stage in stages.stages(config):
            logs = stages.logs_of(config, stage.name)
            if not finished(logs, stage.tasks):
                _say(f"stage {stage.name}, {stage.tasks} task{'s' * (stage.tasks > 1)}")
                _run_stage(config, stage.name, request)
            if (barren := stages.check_yield(logs)) is not None:
                raise UserError(barren)
        return _finish(config)


def check(config: SynthConfig) -> None:
    """Refuse impossible values. Raises ConfigError naming key, value and what is allowed."""
    need("synth")
    _check_values(config)
    for group, calls in (("writer", config.writer), ("solver", config.solver)):
        _check_calls(group, calls)
    if config.cluster.name:
        synth_jobs.check_jobs(config)
    load_prompts(config.prompts)
    if config.kind == "qa":
        _check_pages(config)
    else:
        draw_pairs(load_personas(config.personas), load_skills(config.skills), config.problems, config.seed)
    if config.decontaminate.path is not None:
        find_benchmarks(config.decontaminate.path)


def _check_values(config: SynthConfig) -> None:
    for key, word, allowed in (
        ("kind", config.kind, KINDS),
        ("subjects.router", config.subjects.router, ROUTERS),
        ("writer.json", config.writer.json, JSON_MODES),
        ("solver.json", config.solver.json, JSON_MODES),
    ):
        if word not in allowed:
            raise ConfigError(
                f"{key}={word} is not allowed. Allowed: {', '.join(allowed)}.{did_you_mean(word, allowed)}"
            )
    vote = config.vote
    for key, value, low, high in (
        ("tasks", config.tasks, 1, 100_000),
        ("workers", config.workers, 1, 100_000),
        ("documents", config.documents, 1, 100_000),
        ("options", config.options, 2, 26),
        ("problems", config.problems, 1, 10**9),
        ("vote.solutions", vote.solutions, 1, 1024),
        ("vote.least_valid", vote.least_valid, 1, vote.solutions),
        ("vote.threshold", vote.threshold, 1e-9, 1),
        ("vote.declined", vote.declined, 1e-9, 1),
        ("pages.max_characters", config.pages.max_characters, 100, 10**7),
        ("embeddings.max_characters", config.embeddings.max_characters, 100, 10**7),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {low:g} to {high:g}.")
    if not config.difficulties:
        raise ConfigError("difficulties=[] is empty. Give one or more, such as difficulties=[undergraduate].")


def _check_pages(config: SynthConfig) -> None:
    crawl, listed = config.crawl, config.crawl.paths_file
    if crawl.path is None:
        raise ConfigError(
            "crawl.path= is required for kind=qa: a folder of WARC or WET files, or with crawl.paths_file= what every "
            "path in it begins with (https://data.commoncrawl.org)."
        )
    if listed and "://" not in listed and not Path(listed).is_file():
        raise ConfigError(f"crawl.paths_file={listed} is not a file. It holds one path a line, gzipped or not.")
    load_subjects(config.subjects.file, "subjects.file")
    if config.subjects.router == "embedding":
        if config.embeddings.endpoint is None:
            raise ConfigError("subjects.router=embedding needs embeddings.endpoint=.")
        from data_prep.synthesis.embeddings import endpoint_of

        endpoint_of(config.embeddings)


def _check_calls(group: str, calls: CallsConfig) -> None:
    if calls.endpoint is None:
        raise ConfigError(f"{group}.endpoint= is required: the base URL of an OpenAI-compatible server, such as "
                          "http://127.0.0.1:8000/v1.")  # fmt: skip
    for key in ("max_tokens", "json_tries", "concurrency", "late_in_a_row"):
        if getattr(calls, key) < 1:
            raise ConfigError(f"{group}.{key}={getattr(calls, key)} is too small: at least 1.")
    from crossthink.endpoint import Access, Endpoint
    from data_prep.synthesis.calls.budget import Budget, Prices
    from data_prep.synthesis.calls.request import Usage

    # Both refuse what no task could begin with: an address that is none, a key that cannot be read, prices amiss.
    Endpoint(
        Access(calls.endpoint, calls.model, calls.token, calls.deadline_s, calls.retries, f"{group}.endpoint", group)
    )
    limits = calls.budget
    prices = Prices(limits.price_prompt, limits.price_completion)
    Budget(limits.tokens, limits.cost, prices, Usage(), f"{group}.budget")


def _claim(config: SynthConfig) -> None:
    """Make `out` the folder of this run. Raises ConfigError where it is another's, or this one's without resume."""
    out = Path(config.out)
    path = out / CONFIG
    if path.is_file():
        may_change = [*MAY_CHANGE, *(f"{group}.{key}" for group in ("writer", "solver") for key in CALLS_MAY_CHANGE)]
        check_continues(from_file(SynthConfig, path), config, "synth run", may_change)
    elif strangers := sorted(one.name for one in out.iterdir() if one.name != LOCK):
        raise ConfigError(f"out={out} is not empty and no synth run (it holds {strangers[0]}). Choose another out=.")
    with atomic_file(path) as handle:
        handle.write(to_yaml(config))


def _run_stage(config: SynthConfig, name: str, request: StopRequest) -> None:
    """A stage in a process of its own; what datatrove says goes to a file.

    Raises:
        StoppedEarly: somebody wants to stop.
        UserError: it failed.
    """
    logs = stages.logs_of(config, name)
    logs.mkdir(parents=True, exist_ok=True)
    console = logs / "console.log"
    words = [sys.executable, "-m", "data_prep.synthesis.stage", str(Path(config.out) / CONFIG), name]
    with console.open("w") as file:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=file,
            env={**os.environ, PARENT: str(os.getpid())}, start_new_session=True,
        )  # fmt: skip
        try:
            while child.poll() is None and not request.requested:
                try:
                    child.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            stop(child)
    if request.requested:
        raise StoppedEarly(f"stopped in stage {name}; every stored answer is kept. The same command with resume=true "
                           "goes on.")  # fmt: skip
    if child.returncode == EXIT_RESUMABLE:
        raise StoppedEarly(f"stage {name} stopped, as said above; the same command with resume=true goes on.")
    if child.returncode:
        raise UserError(f"Stage {name} failed with {child.returncode}; its log: {console}.")


def _submit(config: SynthConfig) -> int:
    """Submit the stages that are left, each waiting for the one before, or finish where none is."""
    left = [one for one in stages.stages(config) if not finished(stages.logs_of(config, one.name), one.tasks)]
    for stage in stages.stages(config):
        logs = stages.logs_of(config, stage.name)
        if stage not in left and (barren := stages.check_yield(logs)) is not None:
            raise UserError(barren)
    if not left:
        return _finish(config)
    alive = synth_jobs.states(synth_jobs.submitted(config))
    for line in synth_jobs.progress(config, left, alive):
        _say(line)
    if not alive:
        for name, job in synth_jobs.submit(config, left).items():
            _say(f"stage {name}: submitted as job {job}")
    _say("the same command with resume=true looks again, and writes the card once all is done")
    return EXIT_RESUMABLE


def _finish(config: SynthConfig) -> int:
    from data_prep.synthesis.summary import write_summary

    for line in write_summary(config):
        _say(line)
    return EXIT_DONE


def _say(what: str) -> None:
    print(f"synth: {what}", file=sys.stderr, flush=True)
