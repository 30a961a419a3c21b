"""After training, the rollout server continues greedily as transformers does with the exported checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch
from train_helpers import TinyWorld, rollout_server, succeed
from transformers import AutoModelForCausalLM

from data_prep.pool import Pool
from recipes.models.tokenizer import load_tokenizer, stop_ids
from recipes.rl.evaluation import pool_prompts

LAYOUTS = {"tp1": (), "tp2_pp2": ("actor.tensor_parallel=2", "actor.pipeline_parallel=2")}
TOKENS = 24


def case(transport: str, layout: str, slow: bool) -> object:
    return pytest.param(transport, layout, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(
    ("transport", "layout"),
    [
        case("collective", "tp2_pp2", slow=False),
        case("collective", "tp1", slow=True),
        case("files", "tp2_pp2", slow=True),
        case("files", "tp1", slow=True),
    ],
)
def test_greedy_is_that_of_the_exported_checkpoint(
    transport: str, layout: str, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    """The server was refitted after the run's only step, which moved the weights, and keeps them after the run."""
    out, exported = tmp_path / "run", tmp_path / "exported"
    with rollout_server(tiny_world, tmp_path) as (_, url):
        words = tiny_world.train_words(out, "steps=1", "optimizer.lr=1e-3", f"rollout.url=[{url}]", *LAYOUTS[layout])
        words.append(tiny_world.judged)
        done = succeed(*words, f"rollout.transport={transport}")
        assert "files" not in done.stderr, "no other transport was taken"
        succeed("convert", f"checkpoint={out}", f"out={exported}")
        tokenizer = load_tokenizer(exported)
        prompts, _ = pool_prompts(Pool.open(tiny_world.held_out), tokenizer, 200, limit=12)
        model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
        stops = stop_ids(tokenizer, exported)
        body = {
            "version": 1,
            "sampling": {
                "temperature": 0.0, "top_p": 1.0, "max_tokens": TOKENS, "stop_ids": list(stops),
                "vocabulary": len(tokenizer), "seed": 0, "step": 0,
            },
            "groups": [
                {"prompt": number, "prompt_ids": list(prompt.token_ids), "samples": [0]}
                for number, prompt in enumerate(prompts)
            ],
        }  # fmt: skip
        lines = httpx.post(f"{url}/v1/generate", json=body, timeout=60, trust_env=False).text.splitlines()
    found = [json.loads(line) for line in lines]
    assert found.pop() == {"done": len(prompts)}
    assert {one["weight_version"] for one in found} == {1}
    beyond = list(range(len(tokenizer), model.vocab_size)) or None
    served = {one["prompt"]: one["token_ids"] for one in found}
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt.token_ids])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS,
            eos_token_id=list(stops), pad_token_id=0, suppress_tokens=beyond,
        )  # fmt: skip
        assert served[number] == whole[0, ids.shape[1] :].tolist()
    assert len({tuple(ids) for ids in served.values()}) > 1
