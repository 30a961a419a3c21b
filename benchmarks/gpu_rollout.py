"""TensorRT-LLM's engine as it is served, on one GPU: the part of gpu_check.py that needs the rollout image."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conf.rollout import ServeRolloutConfig
from recipes.rollout.interface import Request, Response, SamplingParams
from recipes.rollout.refit.checksums import XXH3, checksum
from recipes.rollout.refit.files import FilesWriter
from recipes.rollout.refit.offer import FILES, Offer
from recipes.rollout.trtllm.engine import TrtllmServed

BUCKET_BYTES = 2**26
SCALE = 0.5  # of every weight in the refit: log-probs of a model that kept its old ones are far off


def measure(folder: Path, prompts: Sequence[tuple[int, ...]], response: int, vocabulary: int) -> dict[str, float]:
    """tokens/s, seconds of a refit through files, and mean |log-prob − transformers'| before and after it.

    Args:
        folder: a Hugging Face model, served from its own weights first.
        response: tokens of every response.
    """
    requests = [Request(ids, number, 0) for number, ids in enumerate(prompts)]
    params = SamplingParams(1.0, 1.0, response, (), vocabulary, seed=0, step=0)
    before, after, seconds, refit_s = asyncio.run(generate_and_refit(folder, requests, params))
    return {
        "tokens_per_second": sum(len(one.token_ids) for one in before) / seconds,
        "refit_s": refit_s,
        "log_prob_difference": mean_difference(folder, requests, before, 1.0),
        "log_prob_difference_after_refit": mean_difference(folder, requests, after, SCALE),
    }


async def generate_and_refit(
    folder: Path, requests: Sequence[Request], params: SamplingParams
) -> tuple[list[Response], list[Response], float, float]:
    """Responses with the folder's weights and with scaled ones, and seconds of the first and of the refit between."""
    engine = TrtllmServed(
        ServeRolloutConfig(
            model=str(folder),
            engine="trtllm",
            max_prompt_tokens=max(len(one.prompt_ids) for one in requests),
            max_total_tokens=max(len(one.prompt_ids) for one in requests) + params.max_tokens,
        )
    )

    async def generate() -> list[Response]:
        found = {index: one async for index, one in engine.generate(requests, params)}
        return [found[index] for index in range(len(requests))]

    await engine.start()
    try:
        await generate()  # warms up
        started = time.perf_counter()
        before = await generate()
        seconds = time.perf_counter() - started
        scaled = {name: value * SCALE for name, value in load_file(folder / "model.safetensors").items()}
        writer = FilesWriter(Path("/dev/shm"), BUCKET_BYTES, XXH3)
        try:
            for name, value in scaled.items():
                writer.send(name, value)
            writer.finish({name: checksum(value, XXH3) for name, value in scaled.items()})
            offer = Offer(1, FILES, BUCKET_BYTES, XXH3, None, 600.0, folder=str(writer.folder))
            report = await engine.refit(offer.to_json())
        finally:
            writer.remove()
        return before, await generate(), seconds, report["seconds"]
    finally:
        await engine.stop()


def mean_difference(folder: Path, requests: Sequence[Request], responses: Sequence[Response], scale: float) -> float:
    """Mean |log-prob of a rollout − of transformers| over all tokens, with all weights times `scale`, in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    gaps = []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
        for request, response in zip(requests, responses, strict=True):
            ids_t = torch.tensor([*request.prompt_ids, *response.token_ids], device=device)
            logits_tv = model(ids_t[None]).logits[0, len(request.prompt_ids) - 1 : -1].float()
            labels_t1 = torch.tensor(response.token_ids, device=device)[:, None]
            own_t = logits_tv.log_softmax(-1).gather(1, labels_t1)[:, 0].cpu()
            gaps.append((own_t - torch.tensor(response.log_probs)).abs())
    return float(torch.cat(gaps).mean())
