"""`crossthink demo`: data, warm start, reward server, training, evaluation, report, in a few minutes on a laptop."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.report import ReportConfig
from conf.train import DemoConfig, TrainConfig
from crossthink.errors import EXIT_DONE, UserError
from crossthink.files import atomic_dir, write_json
from recipes import evaluate, launch, prepare, report, train
from recipes.rl.stop import StopRequest
from recipes.run_files import EVAL_BASE, EVAL_FINAL, LOGS, REPORT_JSON
from recipes.run_folder import BASE, claim, held_out_pool, locked, read_config, training_pool

SECONDS = "demo_seconds.json"


def run(config: DemoConfig) -> int:
    """Run the whole job. An interrupted demo goes on; a finished one in the same folder is kept under another name.

    Returns:
        The exit code; 75 after Ctrl-C, with everything saved.
    """
    train.check(config)
    launch.OwnServers().check(config)
    out = Path(config.out)
    _set_finished_aside(out)
    config.resume = config.resume or read_config(out) is not None
    with locked(out):
        claim(config)
        with counting_seconds(out / SECONDS):
            code = _work(config, out)
        if code != EXIT_DONE:
            return code
        write_json(out / REPORT_JSON, summarise(out, config, read_seconds(out / SECONDS)))
    report.run(ReportConfig(run=str(out)))
    return EXIT_DONE


@contextlib.contextmanager
def counting_seconds(path: Path) -> Iterator[None]:
    """Add the block's wall-clock seconds to those that `path` counts, however the block ends.

    So a job that was stopped and continued counts all of its starts; only one that was killed outright is left out.
    """
    began = time.monotonic()
    try:
        yield
    finally:
        write_json(path, {"seconds": read_seconds(path) + time.monotonic() - began})


def read_seconds(path: Path) -> float:
    """The seconds counted so far."""
    return json.loads(path.read_text("utf-8"))["seconds"] if path.is_file() else 0.0


def _work(config: DemoConfig, out: Path) -> int:
    """Everything between claiming the folder and writing down the result. Returns the exit code of training."""
    (out / LOGS).mkdir(exist_ok=True)
    with launch.reward_servers(config.reward, out / LOGS / "reward_server.log") as urls:
        _say("data and warm start", out)
        prepare.prepare(config)
        check_held_out(config)
        _evaluate(config, out / BASE, out / EVAL_BASE, urls)
        _say("training", out)
        code = EXIT_DONE if train.is_finished(config) else train.run_claimed(config, urls, launch.OwnServers())
        if code == EXIT_DONE:
            _evaluate(config, out, out / EVAL_FINAL, urls)
    return code


def check_held_out(config: TrainConfig) -> None:
    """Refuse to measure on what was trained on.

    Raises:
        UserError: a held-out question also stands in the training pool.
    """
    from data_prep.overlap import shared_questions
    from data_prep.pool import Pool

    shared = shared_questions(Pool.open(training_pool(config)), Pool.open(held_out_pool(config)))
    if shared:
        raise UserError(
            f"{len(shared)} held-out questions also stand in the training pool, such as '{shared[0].question}'. "
            "Nothing measured on them would mean anything."
        )


def summarise(out: Path, config: TrainConfig, seconds: float) -> dict[str, Any]:
    """The numbers of `report.json`, read back from the run folder.

    `base_reward` and `final_reward` are mean R (right and in the right form) of greedy answers to the held-out
    questions; the `answer_accuracy` pair counts right answers whatever their form. `seconds` is the wall time of the
    job over all of its starts (see `counting_seconds`).
    """
    before, after = evaluate.read_summary(out / EVAL_BASE), evaluate.read_summary(out / EVAL_FINAL)

    def pair(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return {
            "base_reward": one["reward"],
            "final_reward": other["reward"],
            "gain": other["reward"] - one["reward"],
            "base_answer_accuracy": one["answer_accuracy"],
            "final_answer_accuracy": other["answer_accuracy"],
            "questions": one["questions"],
        }

    return {
        **pair(before, after),
        "steps": config.steps,
        "seconds": seconds,
        "seed": config.seed,
        **{
            group: {name: pair(before[group][name], after[group][name]) for name in before[group]}
            for group in ("by_domain", "by_kind", "by_source")
        },
    }


def _evaluate(config: TrainConfig, checkpoint: Path, folder: Path, urls: list[str]) -> None:
    if folder.is_dir():
        return
    _say(f"evaluating {checkpoint.name}", folder)
    wanted = evaluate.demo_eval_config(checkpoint, held_out_pool(config), config, folder)
    questions = evaluate.read_questions(wanted)
    with (
        evaluate.answerer_of(wanted) as answerer,
        launch.reward_client(config.reward, urls) as client,
        StopRequest() as stop,
        atomic_dir(folder) as aside,
    ):
        summary = evaluate.evaluate_into(aside, wanted, questions, answerer, client, lambda: stop.requested)
    evaluate.print_summary(summary, folder)


def _set_finished_aside(out: Path) -> None:
    if not (out / REPORT_JSON).is_file():
        return
    number = 1
    while (kept := out.with_name(f"{out.name}.{number}")).exists():
        number += 1
    shutil.move(out, kept)
    _say(f"the finished demo in {out} is kept as", kept)


def _say(what: str, where: Path) -> None:
    print(f"demo: {what}: {where}", file=sys.stderr)
