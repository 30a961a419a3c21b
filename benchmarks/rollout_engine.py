"""Part `engine` of `benchmarks/rollout.py`: the local engine against transformers' `generate`."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from step_workers import Case, Model, model_folder

MODEL = Model("0.57 M", 128, 312, 3)
PROMPTS, GROUP, PROMPT_TOKENS = 128, 8, 32
MEDIAN_TOKENS, SPREAD, LONGEST = 32, 0.9, 384
BATCHES = (64, 256)  # of generate
TARGET = 3.0


def run(turns: int) -> bool:
    """Print the table. True where the target is reached."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from recipes.rollout.interface import Request, SamplingParams
    from recipes.rollout.local.engine import LocalEngine

    torch.manual_seed(0)
    case = Case(MODEL, PROMPTS, LONGEST, 1, 1, prompt_tokens=PROMPT_TOKENS)
    with model_folder(MODEL) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        texts = (case.texts() * PROMPTS)[:PROMPTS]
        prompts = [tuple(tokenizer(text)["input_ids"]) for text in texts]
        lengths = budgets(PROMPTS * GROUP)
        engine = LocalEngine(Path(folder), torch.device("cpu"), 512)
        engine.refit(model.named_parameters, version=0)
        params = SamplingParams(1.0, 1.0, LONGEST, (), len(tokenizer), seed=0, step=0)
        requests = [Request(prompts[i // GROUP], i // GROUP, i % GROUP, lengths[i]) for i in range(len(lengths))]

        def ours() -> None:
            found = engine.generate(requests, params)
            assert [len(response.token_ids) for response in found] == lengths

        sides: dict[str, Callable[[], None]] = {"CrossThink": ours}
        for batch in BATCHES:
            sides[f"generate, {batch}"] = lambda batch=batch: theirs(model, prompts, lengths, batch)
        seconds = in_turns(sides, turns)
    tokens = sum(lengths)
    quartiles = [round(q) for q in statistics.quantiles(lengths, n=20)]
    print(
        f"{PROMPTS} prompts × {GROUP} samples, {tokens} tokens: median {statistics.median(lengths):.0f}, 95 % below "
        f"{quartiles[-1]}, longest {max(lengths)}. {torch.get_num_threads()} threads.\n"
    )
    print("| engine, samples side by side | seconds | tokens/s |\n|---|---|---|")
    for name, one in seconds.items():
        print(f"| {name} | {one:.2f} | {tokens / one:.0f} |")
    ratio = min(one for name, one in seconds.items() if name != "CrossThink") / seconds["CrossThink"]
    print(f"\n{ratio:.2f} times generate's fastest; {TARGET} is the target.\n", flush=True)
    return ratio >= TARGET


def budgets(count: int) -> list[int]:
    """Response lengths with a long tail: log-normal, cut off at `LONGEST`."""
    draw = random.Random(0)
    return [max(1, min(LONGEST, round(draw.lognormvariate(math.log(MEDIAN_TOKENS), SPREAD)))) for _ in range(count)]


def theirs(model: Any, prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch: int) -> None:
    """The same samples by `generate`, which stops when the last of a batch has its budget."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Budgets(StoppingCriteria):
        def __init__(self, budgets_b: torch.Tensor) -> None:
            self.budgets_b = budgets_b

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return input_ids.shape[1] - PROMPT_TOKENS >= self.budgets_b

    for start in range(0, len(lengths), batch):
        mine = list(lengths[start : start + batch])
        ids_bt = torch.tensor([prompts[(start + i) // GROUP] for i in range(len(mine))])
        with torch.no_grad():
            found = model.generate(
                ids_bt,
                attention_mask=torch.ones_like(ids_bt),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=None,
                pad_token_id=0,
                max_new_tokens=max(mine),
                stopping_criteria=StoppingCriteriaList([Budgets(torch.tensor(mine))]),
            )
        assert found.shape[1] == PROMPT_TOKENS + max(mine)


def in_turns(sides: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median seconds of each side, which take turns after one run of each to warm up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}
