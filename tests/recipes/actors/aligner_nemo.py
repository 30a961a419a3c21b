"""Makes what NeMo-Aligner's own scripts need: `python aligner_nemo.py FOLDER`, which holds `tokenizer/`.

Writes `rows.jsonl` (prompts, and the questions' labels), `policy.nemo` (knows the answers half of the time) and
`critic.nemo` (a reward model with a random head, of the same shape).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from aligner_job import actor_config, build, train_step

from recipes.actors.stack import prepare_stack

LENGTH = 64
QUESTIONS = {f"What is {a + 2} - {a}?": "2" for a in range(12)}
"""One gold for all: it is learned in a few steps."""
STEPS = 40
REWARD_MODEL = "nemo_aligner.models.nlp.gpt.megatron_gpt_reward_model.MegatronGPTRewardModel"


def prompt(tokenizer: Any, question: str) -> str:
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def answer(label: str) -> str:
    return f"<think></think>\\boxed{{{label}}}<|im_end|>"


def write_rows(folder: Path, tokenizer: Any) -> None:
    """The trainer's rows, with the labels that the reward's process reads in the same file."""
    items = {question: {"kind": "math", "ground_truth": [gold]} for question, gold in QUESTIONS.items()}
    rows = ({"text": prompt(tokenizer, question), "reward_item": json.dumps(item)} for question, item in items.items())
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def half_right(tokenizer: Any) -> dict[str, torch.Tensor]:
    """A batch with a right and a wrong answer to each question; its REINFORCE loss is their likelihood."""
    texts = []
    for question, gold in QUESTIONS.items():
        texts += [(prompt(tokenizer, question), answer(label)) for label in (gold, "0")]
    prompts = [tokenizer(text)["input_ids"] for text, _ in texts]
    rows = [ids + tokenizer(text)["input_ids"] for ids, (_, text) in zip(prompts, texts, strict=True)]
    tokens_bt = torch.tensor([row + [tokenizer.eos_token_id] * (LENGTH - len(row)) for row in rows])
    place_t = torch.arange(1, LENGTH)
    mask_bt = [(place_t >= len(ids)) & (place_t < len(row)) for ids, row in zip(prompts, rows, strict=True)]
    ones = torch.ones(len(rows))
    return {
        "response_tokens": tokens_bt, "mask": torch.stack(mask_bt).float(), "is_end": ones,
        "rewards_with_kl": ones, "baseline": torch.zeros(len(rows)),
    }  # fmt: skip


def main(folder: Path) -> None:
    from transformers import AutoTokenizer

    prepare_stack()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    write_rows(folder, tokenizer)
    batch = half_right(tokenizer)
    config = actor_config(folder / "tokenizer", tensor=1, world=1, optimizer="adamw")
    shape = {"encoder_seq_length": LENGTH, "max_position_embeddings": LENGTH}
    config["model"] |= shape | {"global_batch_size": len(batch["mask"]), "micro_batch_size": 8}
    config["model"]["optim"]["weight_decay"] = 0.0
    config["trainer"]["gradient_clip_val"] = 1.0
    reward_model = config | {"model": config["model"] | {"force_head_dtype": "float32", "output_sequence": False}}
    _, critic, _ = build(reward_model, REWARD_MODEL)
    critic.save_to(str(folder / "critic.nemo"))
    _, policy, adam = build(config)
    losses = [train_step(policy, adam, batch)[0] for _ in range(STEPS)]
    print("likelihood", losses[0], losses[-1])
    policy.save_to(str(folder / "policy.nemo"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    main(Path(sys.argv[1]))
