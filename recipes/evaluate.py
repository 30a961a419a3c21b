"""`crossthink eval`: accuracy of a checkpoint or an endpoint on the benchmarks, or on a pool."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.evaluate import CHECKPOINTS, EvalConfig
from conf.reward import RewardConfig
from conf.rollout import LocalRolloutConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, ConfigError
from crossthink.files import write_json
from recipes.checks import check_reward
from recipes.evaluation import record
from recipes.evaluation.questions import QuestionSet, from_benchmarks, from_pool, join
from recipes.evaluation.run import evaluate, fitting, identity
from recipes.evaluation.table import print_steps, print_summary
from recipes.launch import reward_client, reward_servers, rules_of
from recipes.progress import AnswerProgress
from recipes.rl.stop import StopRequest
from recipes.run_files import SUMMARY
from recipes.run_folder import CONFIG, locked, training_pool
from reward_server.client import RewardClient

STEPS = "steps.json"
_LEAST = {
    "runs": 1, "max_prompt_tokens": 1, "max_response_tokens": 1, "seed": 0, "few_shot": 0,
    "threads": 1, "rollout.batch_size": 1, "request.concurrency": 1, "request.retries": 0,
}  # fmt: skip


def run(config: EvalConfig) -> int:
    """Evaluate and write samples.jsonl and summary.json; with `checkpoints=all` of every checkpoint of a run.

    Returns:
        The exit code.

    Raises:
        ConfigError: before anything starts: an impossible value, nothing to ask or nobody to be asked, or `out` holds
            something else.
        UserError: a server cannot be reached or refuses; a checkpoint without a tokenizer.
        StoppedEarly: SIGINT or SIGTERM, or the endpoint is gone; the same command with `resume=true` goes on.
    """
    check(config)
    with StopRequest() as stop:
        targets = checkpoints_of(config)
        for one in targets:
            check_ends(one)
        questions = read_questions(config)
        if len(targets) == 1 and config.checkpoints != "all":
            print_summary(evaluate_questions(targets[0], questions, lambda: stop.requested), Path(config.out))
            return EXIT_DONE
        steps = []
        for one in targets:
            summary = evaluate_questions(one, questions, lambda: stop.requested)
            steps.append(_line(Path(one.out).name, summary))
            write_json(Path(config.out) / STEPS, steps)
        print_steps(steps, Path(config.out))
    return EXIT_DONE


def check(config: EvalConfig) -> None:
    """Refuse impossible values and combinations. Raises ConfigError naming key, value and what is allowed."""
    if (config.checkpoint is None) == (config.endpoint is None):
        raise ConfigError("checkpoint= (a run, a checkpoint, a model folder) or endpoint= (an address): give one.")
    if config.data is None and not config.benchmarks:
        raise ConfigError("data= (a pool folder) or benchmarks=[NAME,...] is required: what shall be asked?")
    if config.checkpoints not in CHECKPOINTS:
        raise ConfigError(f"checkpoints={config.checkpoints} is not one of {', '.join(CHECKPOINTS)}.")
    if config.few_shot and not config.benchmarks:
        raise ConfigError(f"few_shot={config.few_shot} needs benchmarks=: a pool's prompts stand as they are.")
    for key, least in _LEAST.items():
        part, _, name = key.rpartition(".")
        value = getattr(getattr(config, part) if part else config, name)
        if value is not None and value < least:
            raise ConfigError(f"{key}={value} is too small: at least {least}.")
    for key, value, right, allowed in (
        ("temperature", config.temperature, config.temperature >= 0, "at least 0"),
        ("top_p", config.top_p, 0 < config.top_p <= 1, "above 0, at most 1"),
        ("request.deadline_s", config.request.deadline_s, config.request.deadline_s > 0, "above 0"),
    ):
        if not (right and math.isfinite(value)):
            raise ConfigError(f"{key}={value}: allowed is {allowed}.")
    check_reward(config.reward)


def checkpoints_of(config: EvalConfig) -> list[EvalConfig]:
    """The config of every evaluation that is wanted: one, or with `checkpoints=all` one for each checkpoint of a run.

    Raises:
        ConfigError: a choice among checkpoints without a run, or without checkpoints.
    """
    if config.checkpoints == "last":
        return [config]
    from recipes.rl import checkpoints

    run = Path(config.checkpoint or "")
    if config.checkpoint is None or not (run / CONFIG).is_file():
        raise ConfigError(f"checkpoints={config.checkpoints} needs checkpoint=RUN, a run folder.")
    root = run / checkpoints.CHECKPOINTS
    if config.checkpoints == "best":
        return [_changed(config, checkpoint=str(root / "best"))]
    found = sorted(path for path in root.glob("step_*") if (path / checkpoints.TRAINER).is_file())
    if not found:
        raise ConfigError(f"checkpoint={run} is a run folder without a checkpoint yet.")
    return [_changed(config, checkpoint=str(path), out=str(Path(config.out) / path.name)) for path in found]


def check_ends(config: EvalConfig) -> None:
    """Refuse who is asked and where the answers go before questions are read, which may take a download.

    Raises:
        ConfigError: no such checkpoint, an endpoint that is no address, or `out` holds something else.
        UserError: `request.tokenizer` is none.
    """
    if config.checkpoint is not None:
        from recipes.stored_weights import find_checkpoint

        find_checkpoint(Path(config.checkpoint))
    else:
        answerer_of(config)
    if Path(config.out).is_dir():
        record.check_folder(Path(config.out), config)


def read_questions(config: EvalConfig) -> QuestionSet:
    """What is asked: the pool's rows, then the benchmarks' questions.

    Raises:
        ConfigError, UserError: see `from_pool` and `from_benchmarks`.
    """
    sets = [] if config.data is None else [from_pool(Path(config.data), config.limit)]
    questions = join([*sets, *([from_benchmarks(config)] if config.benchmarks else [])])
    for name, why in questions.absent.items():
        _say(f"WARNING: {name} is not asked: {why}")
    if not questions.asked:
        raise ConfigError("There is no question to ask: none of the benchmarks is here. See benchmarks_path=.")
    return questions


def answerer_of(config: EvalConfig) -> Any:
    """Who is asked, as a context: the checkpoint on the local engine, or the endpoint.

    Raises:
        ConfigError, UserError: see `LocalAnswerer` and `EndpointAnswerer`.
    """
    if config.endpoint is not None:
        from recipes.evaluation.endpoint import EndpointAnswerer

        return EndpointAnswerer(config)
    from recipes.evaluation.local import LocalAnswerer

    return LocalAnswerer(config)


def evaluate_questions(config: EvalConfig, questions: QuestionSet, stopped: Callable[[], bool]) -> dict[str, Any]:
    """One evaluation of these questions in `config.out`, begun or continued.

    Args:
        config: of the evaluation.
        questions: what is asked, whatever the config says of it.
        stopped: whether somebody wants to stop.

    Returns:
        The contents of its summary.json.

    Raises:
        ConfigError, UserError, StoppedEarly: see `run`.
    """
    out = Path(config.out)
    with answerer_of(config) as answerer, locked(out):
        record.check_folder(out, config)
        finished = record.is_finished(out)
        # The endpoint of a finished evaluation need not be there any more.
        record.check_identity(out, identity(config, questions, None if finished and config.endpoint else answerer))
        if finished:
            _say(f"{out} is finished: nothing is left to do.")
            return read_summary(out)
        with (
            reward_servers(config.reward, out / record.SERVER_LOG) as urls,
            reward_client(config.reward, urls) as client,
        ):
            return evaluate_into(out, config, questions, answerer, client, stopped)


def evaluate_into(
    out: Path,
    config: EvalConfig,
    questions: QuestionSet,
    answerer: Any,
    client: RewardClient,
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Evaluate in a folder that `record.check_folder` has passed, with a running reward server.

    Args:
        out: the folder; exists.
        config: of the evaluation.
        questions: what is asked.
        answerer: who is asked, an `Answerer`.
        client: of the reward server.
        stopped: whether somebody wants to stop.

    Returns:
        The contents of summary.json.

    Raises:
        UserError, StoppedEarly: see `recipes.evaluation.run.evaluate`.
    """
    rules = rules_of(config.reward, client)
    who = identity(config, questions, answerer) | rules
    record.check_identity(out, who)
    fit = fitting(questions.asked, answerer, config.max_prompt_tokens)
    for name, count in fit.too_long.items():
        total = sum(one.benchmark == name for one in questions.asked)
        _say(f"WARNING: {count} of {total} questions of {name} are longer than max_prompt_tokens="
             f"{config.max_prompt_tokens} and are left out.")  # fmt: skip
    record.claim(out, config, who)
    known = json.loads((out / record.IDENTITY).read_text("utf-8"))
    facts = {
        **known["answerer"],
        "data": config.data,
        "pool_sha256": next((one["pool_sha256"] for one in questions.facts.values() if "pool_sha256" in one), None),
        **rules,
        "questions_sha256": questions.sha256,
        "protocol": known["protocol"],
        "asked": questions.facts,
        "also_in_training": also_in_training(questions, getattr(answerer, "trained_with", None)),
    }
    with AnswerProgress(f"eval {out.name}") as progress:
        return evaluate(out, config, fit, answerer, client, facts, stopped, progress.show)


def also_in_training(questions: QuestionSet, trained_with: TrainConfig | None) -> int | None:
    """How many of the questions also stand in the pool that the checkpoint was trained on; None where there is none."""
    if trained_with is None or not training_pool(trained_with).is_dir():
        return None
    from data_prep.overlap import content_key
    from data_prep.pool import Pool

    trained = {content_key(row) for row in Pool.open(training_pool(trained_with)).rows()}
    return sum(content_key(one.row) in trained for one in questions.asked)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished evaluation."""
    return json.loads((folder / SUMMARY).read_text("utf-8"))


def demo_eval_config(checkpoint: Path, data: Path, config: TrainConfig, out: Path) -> EvalConfig:
    """The evaluation that goes with a training config: once, as the local engine's greedy answers never differ."""
    return EvalConfig(
        checkpoint=str(checkpoint),
        data=str(data),
        out=str(out),
        runs=1,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
        threads=config.actor.threads,
        rollout=LocalRolloutConfig(batch_size=config.rollout.batch_size),
        reward=RewardConfig(think_prefilled=config.reward.think_prefilled),
    )


def _line(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What steps.json says of one checkpoint."""
    keys = ("questions", "accuracy", "accuracy_interval", "average", "reward", "format", "tokens")
    return {"step": int(name.removeprefix("step_")), "folder": name, **{key: summary[key] for key in keys}}


def _changed(config: EvalConfig, **values: str) -> EvalConfig:
    """A copy of the config with other values; a choice among checkpoints is made by then."""
    changed = copy.deepcopy(config)
    changed.checkpoints = "last"
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def _say(what: str) -> None:
    print(f"crossthink: {what}", file=sys.stderr, flush=True)
