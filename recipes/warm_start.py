"""The tiny recipe's base policy: a supervised warm start that stands in for pretraining.

Like a pretrained model, the result half-knows the tasks and mixes answer styles and procedures, so that there is
something for reinforcement learning to prefer. Runs once, in one process.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from conf.train import WarmStartConfig
from crossthink.files import atomic_dir
from data_prep.pool import Pool
from data_prep.rows import PoolRow
from recipes.models.tiny import TURN_END, tiny_config, tiny_tokenizer

# Share of each answer style: (thinks, boxes).
STYLES = {(True, True): 0.55, (False, True): 0.15, (True, False): 0.20, (False, False): 0.10}
LABEL_IGNORED = -100


@dataclass(frozen=True)
class Worked:
    """A training question with its right procedure and its slip (see data_prep/demo/tasks.py)."""

    row: PoolRow
    steps: str
    answer: str
    slip_steps: str
    slip_answer: str


def make_base(
    out: Path, pool: Pool, worked_file: Path, config: WarmStartConfig, seed: int, progress: Callable[[int, float], None]
) -> None:
    """Train the tiny base policy and write it as a Hugging Face folder, atomically.

    Args:
        out: the folder; must not exist.
        pool: the demo's training pool.
        worked_file: `worked.jsonl` of the demo's sources.
        config: the warm start's settings.
        seed: seeds weights and examples.
        progress: called after every step with its number and loss.
    """
    worked = read_worked(pool, worked_file)
    corpus = [text for one in worked for text in (one.row.prompt[-1]["content"], one.steps)]
    tokenizer = tiny_tokenizer(corpus)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(tiny_config(tokenizer))
    _supervise(model, tokenizer, worked, config, random.Random(f"crossthink-warm-start/{seed}"), progress)
    with atomic_dir(out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def read_worked(pool: Pool, worked_file: Path) -> list[Worked]:
    """The worked examples whose questions stand in the pool, with the prompts that the pool gives them."""
    rows = {(row.source, row.question, tuple((row.options or {}).values())): row for row in pool.rows()}
    found = []
    for line in worked_file.read_text("utf-8").splitlines():
        fields = json.loads(line)
        row = rows.get((fields["source"], fields["question"], tuple(fields["options"] or ())))
        if row:
            found.append(Worked(row, fields["steps"], fields["answer"], fields["slip_steps"], fields["slip_answer"]))
    return found


def write_response(worked: Worked, *, right: bool, thinks: bool, boxes: bool) -> str:
    """One worked answer in one of the styles."""
    steps, answer = (worked.steps, worked.answer) if right else (worked.slip_steps, worked.slip_answer)
    boxed = f"\\boxed{{{answer}}}" if boxes else answer
    return (f"<think>{steps}</think>" if thinks else "") + boxed + TURN_END


def _supervise(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    worked: Sequence[Worked],
    config: WarmStartConfig,
    rng: random.Random,
    progress: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01)
    prompts = {one.row.id: _prompt_ids(tokenizer, one.row) for one in worked}
    model.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config.steps)
        pairs = []
        for one in rng.choices(worked, k=config.batch_size):
            (thinks, boxes) = rng.choices(list(STYLES), list(STYLES.values()))[0]
            text = write_response(one, right=rng.random() < config.right_share, thinks=thinks, boxes=boxes)
            pairs.append((prompts[one.row.id], tokenizer(text, add_special_tokens=False)["input_ids"]))
        optimizer.zero_grad()
        loss = _backward(model, pairs, tokenizer.pad_token_id)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss)


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, row: PoolRow) -> list[int]:
    text = tokenizer.apply_chat_template(row.prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 20 steps, cosine to a tenth."""
    return min(1.0, (step + 1) / 20) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _backward(model: Qwen2ForCausalLM, pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> float:
    """Gradients of the mean cross-entropy of the response tokens, stop token included. Returns the loss."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    half = (len(ordered) + 1) // 2
    tokens = sum(len(response) for _, response in pairs)
    # Short and long examples apart: together, a third of the positions would be padding.
    total = 0.0
    for part in (ordered[:half], ordered[half:]):
        if part:
            loss = _cross_entropy(model, part, pad_id) / tokens
            loss.backward()
            total += float(loss.detach())
    return total


def _cross_entropy(model: Qwen2ForCausalLM, pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> torch.Tensor:
    """Summed cross-entropy of the response tokens."""
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    ids_bt = torch.full((len(pairs), width), pad_id)
    labels_bt = torch.full((len(pairs), width), LABEL_IGNORED)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        ids_bt[row, :end] = torch.tensor(prompt + response)
        labels_bt[row, len(prompt) : end] = torch.tensor(response)
    logits_btv = model(ids_bt[:, :-1]).logits
    labels_n = labels_bt[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(
        logits_btv.flatten(0, 1), labels_n, ignore_index=LABEL_IGNORED, reduction="sum"
    )
