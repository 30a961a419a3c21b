"""`crossthink sweep`: several training runs, each evaluated, and one table of all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conf.compose import from_file, to_yaml
from conf.sweep import SweepConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, ConfigError
from crossthink.files import atomic_file, write_json
from recipes.reporting import over_seeds
from recipes.reporting.directions import directions_png
from recipes.reporting.over_seeds import BASE
from recipes.rl.stop import StopRequest
from recipes.run_files import SUMMARY
from recipes.run_folder import LOCK, check_continues, locked
from recipes.sweeping.arms import Arm, chosen_arms
from recipes.sweeping.collect import collect
from recipes.sweeping.jobs import Chain, Command, exit_code, run_chains
from recipes.sweeping.on_cluster import submit_all, write_cluster_file
from recipes.sweeping.runs import (
    Origin,
    PlannedRun,
    chain_of,
    check_run,
    eval_command,
    evaluated,
    log_of,
    plan_run,
)
from recipes.sweeping.study import NOTE, Study

CONFIG = "sweep.yaml"
STUDY = "study"
MAY_CHANGE = ("out", "resume", "parallel", "threads", "arms", "seeds", "cluster")


def run(config: SweepConfig) -> int:
    """Train and evaluate every arm with every seed, then write the tables.

    Returns:
        0; 1 where an arm failed (it is named, and the others are finished); 75 where the sweep can go on.

    Raises:
        ConfigError: an impossible configuration, before anything starts.
        StoppedEarly: SIGINT or SIGTERM; the same command with `resume=true` goes on.
    """
    arms = chosen_arms(config.recipe, config.arms)
    check(config)
    study = Study(config) if config.recipe == STUDY else None
    if study is None:
        _check_runs(config, arms)
    else:
        study.check(arms)
    with locked(Path(config.out)), StopRequest() as stop:
        _claim(config)
        return _work(config, arms, study, lambda: stop.requested)


def check(config: SweepConfig) -> None:
    """Refuse impossible values and combinations. Raises ConfigError naming key, value and what is allowed."""
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(f"seeds={config.seeds} is not allowed. Allowed: one or more different numbers of at least 0.")
    for word in config.arm_words:
        chosen_arms(config.recipe, [word.partition(":")[0]])
    if config.parallel < 1:
        raise ConfigError(f"parallel={config.parallel} is too small: at least 1.")
    if config.recipe == STUDY:
        for key in ("data", "model"):
            if getattr(config, key) is not None:
                raise ConfigError(f"{key}={getattr(config, key)}: recipe=study makes its own. Drop {key}=.")
        if config.eval.data or config.eval.benchmarks or config.cluster.name:
            raise ConfigError("recipe=study makes its own questions and runs here: drop eval.data=, eval.benchmarks= "
                              "and cluster=.")  # fmt: skip
        for key, value in vars(config.study).items():
            if value < (0 if key == "data_seed" else 1):
                raise ConfigError(f"study.{key}={value} is too small.")
        return
    if config.data is None:
        raise ConfigError(f"data= is required for recipe={config.recipe}: the pool that every arm is trained on.")
    if config.eval.data is None and not config.eval.benchmarks:
        raise ConfigError("eval.data= (a pool of held-out questions) or eval.benchmarks=[NAME,...] is required.")


def _work(config: SweepConfig, arms: list[Arm], study: Study | None, stopped: Callable[[], bool]) -> int:
    out = Path(config.out)
    held_out = Path(config.eval.data) if config.eval.data else None
    if study is not None:
        study.make(arms, stopped, _say)
        runs, held_out = study.runs(arms), study.held_out
        unfinished = study.unfinished
    else:
        runs, unfinished = _runs(config, arms), {}
    chains = [chain_of(config, one, held_out) for one in runs]
    if study is None and config.model is not None and Path(config.model).is_dir() and runs:
        chains.insert(0, _base_chain(config, runs[0], held_out))
    refused: dict[str, str] = {}
    if config.cluster.name:
        waiting, refused = submit_all(runs, write_cluster_file(out, config.cluster), _say)
        unfinished |= waiting | refused
        chains = [chain for chain in chains if chain.name not in unfinished]
    codes = run_chains(chains, config.parallel, stopped, _say)
    for name, code in codes.items():
        if code == EXIT_RESUMABLE:
            unfinished[name] = "stopped; resume=true goes on"
        elif code:
            unfinished[name] = f"failed with {code}; log: {log_of(out, name)}"
    evaluations = _evaluations(config, runs, study)
    _write(config, arms, evaluations, study, unfinished)
    if not stopped() and not unfinished:
        _report(config, runs, evaluations)
    return _code(codes | dict.fromkeys(refused, EXIT_FAILED), unfinished, waiting=bool(config.cluster.name))


def _evaluations(config: SweepConfig, runs: Sequence[PlannedRun], study: Study | None) -> dict[str, Mapping[int, Path]]:
    """The finished evaluations by arm and seed, the base's too: one model may be the base of all seeds."""
    base = Path(config.out) / BASE
    shared = {seed: base for seed in config.seeds if (base / SUMMARY).is_file()}
    found = {BASE: study.base_evaluations() if study else shared, **evaluated(runs)}
    return {name: some for name, some in found.items() if some}


def _write(
    config: SweepConfig,
    arms: list[Arm],
    evaluations: Mapping[str, Mapping[int, Path]],
    study: Study | None,
    unfinished: Mapping[str, str],
) -> None:
    """The tables of what is finished, as JSON and as Markdown; and on the terminal what is not."""
    out = Path(config.out)
    note = NOTE if study else f"Trained on {config.data}; seeds {', '.join(map(str, config.seeds))}."
    singles = study.scores() if study else {}
    found = collect(f"Sweep {config.recipe}", note, arms, evaluations, unfinished, singles)
    name = _name(config)
    write_json(out / f"{name}.json", found)
    compared = over_seeds.directions(found["claims"])
    if compared:
        directions_png(out / f"{name}.png", compared)
    with atomic_file(out / f"{name}.md") as handle:
        handle.write(over_seeds.page(found, f"{name}.png" if compared else None))
    _say(f"tables: {out / f'{name}.md'}")
    for arm, why in unfinished.items():
        _say(f"{arm}: {why}")


def _report(config: SweepConfig, runs: Sequence[PlannedRun], evaluations: Mapping[str, Mapping[int, Path]]) -> None:
    """The page: what was found over the seeds, then the first seed's runs and evaluations."""
    out, seed = Path(config.out), config.seeds[0]
    base = [f"'{BASE}={evaluations[BASE][seed]}'"] if seed in evaluations.get(BASE, {}) else []
    named = [f"'{one.arm.name}={one.out}'" for one in runs if one.seed == seed]
    words = (
        "report",
        f"sweep={out / _name(config)}.json",
        f"evaluations=[{','.join(base)}]",
        f"runs=[{','.join(named)}]",
        f"out={out / 'report.html'}",
    )
    chain = Chain("report", (Command(words, out / "report", lambda: False),), log_of(out, "report"))
    if run_chains([chain], 1, lambda: False, lambda said: None)["report"]:
        _say(f"the report could not be written; log: {chain.log}")
    else:
        _say(f"report: {out / 'report.html'}")


def _name(config: SweepConfig) -> str:
    """What the files with a sweep's numbers are called, without their ending."""
    return STUDY if config.recipe == STUDY else "sweep"


def _runs(config: SweepConfig, arms: Sequence[Arm]) -> list[PlannedRun]:
    origin = Origin(Path(config.data or ""), config.model)
    return [plan_run(config, arm, seed, origin) for arm in arms for seed in config.seeds]


def _check_runs(config: SweepConfig, arms: Sequence[Arm]) -> None:
    """Every arm's first run, before any starts; a job's is checked by `submit`, for the machine that it goes to."""
    runs = _runs(config, arms)
    for one in runs[:: len(config.seeds)]:
        if not config.cluster.name:
            check_run(one)


def _base_chain(config: SweepConfig, run: PlannedRun, held_out: Path | None) -> Chain:
    """The evaluation of what all arms start from, with the lengths of a run."""
    out = Path(config.out)
    command = eval_command(config, Path(config.model or ""), out / BASE, run.config, held_out)
    return Chain(BASE, (command,), log_of(out, BASE))


def _claim(config: SweepConfig) -> None:
    """Make `out` the folder of this sweep. Raises ConfigError where it is another's, or this one's without resume."""
    out = Path(config.out)
    path = out / CONFIG
    if path.is_file():
        check_continues(from_file(SweepConfig, path), config, "sweep", MAY_CHANGE)
    elif strangers := sorted(one.name for one in out.iterdir() if one.name != LOCK):
        raise ConfigError(f"out={out} is not empty and no sweep (it holds {strangers[0]}). Choose another out=.")
    with atomic_file(path) as handle:
        handle.write(to_yaml(config))


def _code(codes: Mapping[str, int], unfinished: Mapping[str, str], waiting: bool) -> int:
    code = exit_code(codes)
    if code == EXIT_DONE and unfinished:
        return EXIT_RESUMABLE if waiting else EXIT_FAILED
    return code


def _say(what: str) -> None:
    print(f"sweep: {what}", file=sys.stderr, flush=True)
