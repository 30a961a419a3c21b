"""Greedy evaluation: answers to a pool's questions, judged, counted by source, domain and kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_prep.pool import Pool
from recipes.rl.batch import Prompt, RolloutBatch
from recipes.rl.loose_answer import in_right_form, loose_answer
from recipes.rl.prompts import make_prompt
from recipes.rl.records import PhaseClock
from recipes.rl.rollouts import judge, rollout
from recipes.rl.scoring import Judge
from recipes.rollout.interface import RolloutEngine, SamplingParams
from reward_server.verdicts import CORRECT


def evaluate(
    engine: RolloutEngine,
    client: Judge | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    think_prefilled: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer every prompt once and greedily. Collective.

    Returns:
        The summary (see `summarise`), and a row a question with prompt, response, verdict and `answer_accuracy`.
    """
    clock = PhaseClock()
    batch: RolloutBatch = rollout(
        engine, client, tokenizer, prompts, 1, replace(params, temperature=0.0), think_prefilled, clock
    )
    # The same rules judge the bare answer: it is put into the form that they ask for.
    wrapped = [[in_right_form(loose_answer(s.text, s.prompt.row.kind))] for s in batch.samples]
    loose = judge(client, prompts, [[s.response] for s in batch.samples], wrapped, False)
    rows = []
    for sample, (answer,) in zip(batch.samples, loose, strict=True):
        row = sample.to_json(step=0)
        del row["step"], row["lag"], row["log_probs"], row["sample"]
        row["answer_accuracy"] = answer.accuracy
        row["question"] = sample.prompt.row.question
        rows.append(row)
    return summarise(rows), rows


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts and means over the valid verdicts: overall and by domain, kind and source.

    `reward` is mean R, `accuracy` the judged box whatever the format, `format` the format bit, `answer_accuracy` the
    last box, else the last number or label; `right` and `wrong` count answers by the verdict's status, since a shaped
    reward of a wrong one need not be 0, and `tokens_right` and `tokens_wrong` are their mean response tokens.
    """
    groups = {
        key: {name: _means([r for r in rows if r[field] == name]) for name in sorted({r[field] for r in rows})}
        for key, field in (("by_domain", "domain"), ("by_kind", "kind"), ("by_source", "source"))
    }
    return {**_means(rows), **groups}


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    valid = [r for r in rows if r["verdict"]["reward"] is not None]
    right = [r for r in valid if r["verdict"]["status"] == CORRECT]
    wrong = [r for r in valid if r["verdict"]["status"] != CORRECT]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "questions": len(rows),
        "invalid": len(rows) - len(valid),
        "right": len(right),
        "wrong": len(wrong),
        "reward": mean([r["verdict"]["reward"] for r in valid]),
        "accuracy": mean([r["verdict"]["accuracy"] for r in valid]),
        "format": mean([r["verdict"]["format"] for r in valid]),
        "answer_accuracy": mean([r["answer_accuracy"] or 0 for r in valid]),
        "truncated": mean([float(r["finish_reason"] == "length") for r in rows]),
        "tokens": mean([len(r["token_ids"]) for r in rows]),
        "tokens_right": mean([len(r["token_ids"]) for r in right]),
        "tokens_wrong": mean([len(r["token_ids"]) for r in wrong]),
    }


def pool_prompts(
    pool: Pool, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int, limit: int | None = None
) -> tuple[list[Prompt], int]:
    """All prompts of a pool in its order, and how many were too long and left out."""
    prompts: list[Prompt] = []
    too_long = 0
    for row in pool.rows():
        if limit is not None and len(prompts) == limit:
            break
        prompt = make_prompt(row, tokenizer)
        if len(prompt.token_ids) <= max_prompt_tokens:
            prompts.append(prompt)
        else:
            too_long += 1
    return prompts, too_long
