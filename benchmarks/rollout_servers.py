"""Part `servers` of `benchmarks/rollout.py`: tokens/s of one client over 1, 2 and 4 servers."""

from __future__ import annotations

import contextlib
import os
import statistics
import time

from rollout_engine import GROUP, MODEL, PROMPT_TOKENS, PROMPTS, budgets
from rollout_processes import rollout_server
from step_workers import Case, model_folder

COUNTS = (1, 2, 4)
BATCH = 256  # samples side by side in one server


def run(turns: int) -> bool:
    """Print the table. There is no target: more servers than cores cannot be faster."""
    from transformers import AutoTokenizer

    from recipes.rollout.client.client import RolloutClient
    from recipes.rollout.interface import Request, SamplingParams

    lengths = budgets(PROMPTS * GROUP)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(model_folder(MODEL))
        texts = (Case(MODEL, PROMPTS, 1, 1, 1, prompt_tokens=PROMPT_TOKENS).texts() * PROMPTS)[:PROMPTS]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompts = [tuple(tokenizer(text)["input_ids"]) for text in texts]
        requests = [Request(prompts[i // GROUP], i // GROUP, i % GROUP, lengths[i]) for i in range(len(lengths))]
        params = SamplingParams(1.0, 1.0, max(lengths), (), len(tokenizer), seed=0, step=0)
        words = ("threads=1", f"batch_size={BATCH}")
        urls = [stack.enter_context(rollout_server(folder, *words)) for _ in range(max(COUNTS))]
        clients = [
            stack.enter_context(RolloutClient(urls[:count], deadline_s=60.0, outage_limit_s=60.0)) for count in COUNTS
        ]
        seconds: list[list[float]] = [[] for _ in COUNTS]
        drawn: list[set[tuple[int, ...]]] = [set() for _ in requests]
        for turn in range(turns + 1):
            for number, client in enumerate(clients):
                began = time.perf_counter()
                found = dict(client.stream(requests, params, 0))
                if turn:
                    seconds[number].append(time.perf_counter() - began)
                for index, one in enumerate(drawn):
                    one.add(tuple(found[index].token_ids))
    tokens = sum(lengths)
    print(f"{len(requests)} samples, {tokens} tokens; {os.cpu_count()} cores, a thread a server, medians of {turns}.\n")
    print("| servers | seconds | tokens/s | of one server | of the ideal for the cores |\n|---|---|---|---|---|")
    medians = [statistics.median(one) for one in seconds]
    for count, one in zip(COUNTS, medians, strict=True):
        speedup, ideal = medians[0] / one, min(count, os.cpu_count() or 1)
        print(f"| {count} | {one:.2f} | {tokens / one:.0f} | {speedup:.2f} | {speedup / ideal:.2f} |")
    differ = sum(len(one) > 1 for one in drawn)
    print(
        f"\n{differ} of {len(requests)} samples were not the same tokens in all runs: with random weights a token has "
        "about 1e-3 of the distribution, and a draw may fall within rounding of its border.\n",
        flush=True,
    )
    return True
