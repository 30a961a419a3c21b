"""`crossthink eval`: greedy accuracy of a checkpoint on a pool."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from conf.evaluate import EvalConfig
from conf.reward import RewardConfig
from conf.rollout import LocalRolloutConfig
from conf.train import TrainConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import atomic_dir, write_json
from recipes.launch import reward_client, reward_servers, rules_facts
from recipes.run_files import SAMPLES, SUMMARY
from recipes.run_folder import model_folder, training_pool
from recipes.stored_weights import find_checkpoint, stored_weights


def run(config: EvalConfig) -> None:
    """Evaluate a checkpoint and write `samples.jsonl` and `summary.json`.

    Raises:
        ConfigError: out exists, or there is no such checkpoint or pool.
        UserError: the reward server cannot be reached.
    """
    out = Path(config.out)
    if out.exists():
        raise ConfigError(f"out={out} already exists, and an evaluation is written once. Choose another out=.")
    find_checkpoint(Path(config.checkpoint))
    with atomic_dir(out) as aside, reward_servers(config.reward, aside / "reward_server.log") as urls:
        with reward_client(config.reward, urls) as client:
            summary, rows = evaluate_checkpoint(config, client)
        write_evaluation(aside, summary, rows)
    print_summary(summary, out)


def write_evaluation(folder: Path, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the two files of an evaluation into an existing folder."""
    with open(folder / SAMPLES, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_json(folder / SUMMARY, summary)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished evaluation."""
    return json.loads((folder / SUMMARY).read_text("utf-8"))


def evaluate_checkpoint(config: EvalConfig, client: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer the pool's questions with the checkpoint's weights on the local engine.

    Args:
        config: what to evaluate; `config.out` is not touched.
        client: the reward server's client.

    Returns:
        The summary, with checkpoint, pool and rules; and a row a question.
    """
    import torch

    from recipes.actors.stack import prepare_stack

    prepare_stack()
    from data_prep.overlap import shared_questions
    from data_prep.pool import Pool
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.models.hf_config import load_config
    from recipes.models.tokenizer import load_tokenizer, stop_ids
    from recipes.quiet import quiet_libraries
    from recipes.rl.evaluation import evaluate, pool_prompts
    from recipes.rollout.interface import SamplingParams
    from recipes.rollout.local.engine import LocalEngine

    quiet_libraries()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    checkpoint, trained_with = find_checkpoint(Path(config.checkpoint))
    folder = checkpoint if trained_with is None else model_folder(trained_with)
    pool = Pool.open(config.data)
    tokenizer = load_tokenizer(folder)
    prompts, too_long = pool_prompts(pool, tokenizer, config.max_prompt_tokens, config.limit)
    if not prompts:
        raise UserError(f"No prompt of {config.data} is within max_prompt_tokens={config.max_prompt_tokens}.")
    mesh = join_mesh(1, 1)
    try:
        engine = LocalEngine(folder, mesh.device, config.rollout.batch_size)
        engine.refit(lambda: stored_weights(checkpoint, mesh), version=0)
        params = SamplingParams(
            temperature=0.0,
            top_p=1.0,
            max_tokens=config.max_response_tokens,
            stop_ids=stop_ids(tokenizer, folder),
            vocabulary=min(len(tokenizer), load_config(folder).vocab_size),
            seed=0,
            step=0,
        )
        summary, rows = evaluate(engine, client, tokenizer, prompts, params, config.reward.think_prefilled)
    finally:
        leave_mesh()
    shared = None
    if trained_with is not None:
        shared = len(shared_questions(Pool.open(training_pool(trained_with)), pool))
    facts = {
        "checkpoint": str(checkpoint),
        "data": str(config.data),
        "pool_sha256": pool.sha256,
        **rules_facts(client.rules_info()),
        "too_long": too_long,
        "also_in_training": shared,
    }
    return {**facts, **summary}, rows


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """A table of an evaluation on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "questions", "mean R", "accuracy", "answer accuracy", "format", "tokens", title=f"Evaluation {out}"
    )
    groups = [("all", summary), *summary["by_domain"].items(), *summary["by_source"].items()]
    for name, values in groups:
        cells = [values[k] for k in ("reward", "accuracy", "answer_accuracy", "format")]
        shares = ["–" if value is None else f"{value:.3f}" for value in cells]
        table.add_row(name, str(values["questions"]), *shares, f"{values['tokens']:.1f}")
    Console().print(table)
    if summary["also_in_training"]:
        Console().print(f"[yellow]{summary['also_in_training']} of these questions also stand in the training pool.")


def demo_eval_config(checkpoint: Path, data: Path, config: TrainConfig) -> EvalConfig:
    """The evaluation that goes with a training config."""
    return EvalConfig(
        checkpoint=str(checkpoint),
        data=str(data),
        out="",
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
        threads=config.actor.threads,
        rollout=LocalRolloutConfig(batch_size=config.rollout.batch_size),
        reward=RewardConfig(think_prefilled=config.reward.think_prefilled),
    )
