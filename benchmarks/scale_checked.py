"""The simulation of steps (`recipes/planning/simulation/`) against real runs on this machine's CPU.

    .venv/bin/python benchmarks/scale_checked.py [--only serial|servers|lag]

`serial`: what one Python process does for every sample of a batch, and what every rank does: the constants `intake_s`
and `spread_s` of the simulation.

`servers`: one client over 1, 2 and 4 rollout servers that sleep after every token, so that they do not share the cores.
The engine alone is timed first, without servers and without sleeping; the simulation predicts all the rest.

`lag`: steps of `crossthink train` at rollout.lag=0 and 1 with a server that sleeps for three different times a token.
One run at lag 0 without any sleep gives the constants; the simulation predicts the other six.

Nothing is fitted to what is predicted. Times that the machine is shared for are wrong: look at the load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

PARTS = ("serial", "servers", "lag")
TOKENS, SAMPLES = 700, 256  # of `serial`: responses as long as the paper's
SERVERS, SLOTS, SERVER_DELAY_S = (1, 2, 4), 64, 0.25
STEPS, WARM, DELAYS_S = 8, 2, (0.02, 0.04, 0.08)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    words = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `crossthink` does
    from recipes.machine import cpu_model

    print(f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before\n")
    for part in (words.only,) if words.only else PARTS:
        {"serial": serial, "servers": servers, "lag": lag}[part]()
    return 0


def serial() -> None:
    """Print seconds a sample of the trainer's client, and of bringing a batch to a rank."""
    import orjson
    from rollout_lag import crossthink

    from data_prep.pool import Pool
    from recipes.models.tokenizer import load_tokenizer
    from recipes.rl.evaluation import pool_prompts
    from recipes.rl.pending import decode, made_batch
    from recipes.rollout.client.answers import numbers, parse, response
    from recipes.rollout.interface import Request, Response, SamplingParams
    from reward_server.verdicts import Verdict

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        crossthink("train", "recipe=tiny", f"out={out}", "steps=1", "warm_start.steps=1")
        tokenizer = load_tokenizer(out / "base")
        prompts = pool_prompts(Pool.open(out / "demo/pool"), tokenizer, 512, limit=1)[0] * SAMPLES
        verdict = json.loads((out / "rollouts/step_000001.jsonl").read_text("utf-8").splitlines()[0])["verdict"]
    ids = [10 + n % (len(tokenizer) - 10) for n in range(TOKENS)]
    fields = {"prompt": 0, "sample": 0, **asdict(Response(ids, [-1 / (1 + n) for n in ids], "length", 1))}
    line = orjson.dumps(fields)
    params = SamplingParams(1.0, 1.0, TOKENS, (0,), len(tokenizer), seed=0, step=1)
    request = Request(prompts[0].token_ids, 0, 0)
    found = [[{"response": asdict(response(fields, request, params, 1)), "verdict": verdict}] for _ in range(SAMPLES)]
    Verdict.from_json(verdict)

    def take_in() -> None:
        for _ in range(SAMPLES):
            one = parse(line)
            numbers(one)
            decode(tokenizer, response(one, request, params, 1).token_ids)

    def spread() -> None:
        made_batch(tokenizer, prompts, json.loads(json.dumps(found).encode()))

    print(f"Python, {SAMPLES} responses of {TOKENS} tokens, {len(line)} bytes a line, medians of 5:\n")
    print("| | ms a sample |\n|---|---|")
    print(f"| the client takes a sample in: parsed, checked, decoded | {timed(take_in) / SAMPLES * 1e3:.2f} |")
    print(f"| a batch to every rank: to JSON, from JSON, decoded | {timed(spread) / SAMPLES * 1e3:.2f} |\n", flush=True)


def timed(work: Callable[[], object], turns: int = 5) -> float:
    """Median seconds, after one turn to warm up."""
    seconds = []
    for _ in range(turns + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def servers() -> None:
    """Print predicted and measured seconds of a batch over 1, 2 and 4 servers."""
    import numpy as np
    import torch
    from rollout_engine import GROUP, LONGEST, MODEL, PROMPT_TOKENS, PROMPTS, budgets
    from rollout_processes import rollout_server
    from step_workers import Case, model_folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from recipes.planning.simulation.events import Batch, ServerSpeed, generate
    from recipes.rollout.client.client import RolloutClient
    from recipes.rollout.interface import Request, SamplingParams
    from recipes.rollout.local.engine import LocalEngine

    torch.set_num_threads(1)
    lengths = budgets(PROMPTS * GROUP)
    table = np.array(lengths).reshape(PROMPTS, GROUP)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(model_folder(MODEL))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = (Case(MODEL, PROMPTS, LONGEST, 1, 1, prompt_tokens=PROMPT_TOKENS).texts() * PROMPTS)[:PROMPTS]
        prompts = [tuple(tokenizer(text)["input_ids"]) for text in texts]
        params = SamplingParams(1.0, 1.0, LONGEST, (), len(tokenizer), seed=0, step=0)
        engine = LocalEngine(Path(folder), torch.device("cpu"), SLOTS)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        engine.refit(model.named_parameters, version=0)

        def alone(samples: int, tokens: int) -> float:
            asked = [Request(prompts[i // GROUP], i // GROUP, i % GROUP, tokens) for i in range(samples)]
            return timed(lambda: engine.generate(asked, params))

        few, many, span = SLOTS // 4, SLOTS, 128
        first = {n: alone(n, 1) for n in (few, many)}
        a_step = {n: (alone(n, 1 + span) - first[n]) / span for n in (few, many)}
        sample_s = (a_step[many] - a_step[few]) / (many - few)
        step_s = a_step[few] - few * sample_s
        prefill_s = max(0.0, (first[many] - a_step[many]) / (many // GROUP))
        speed = ServerSpeed(SLOTS, prefill_s, step_s + SERVER_DELAY_S, sample_s, 0.0)
        print(
            f"{len(lengths)} samples, {sum(lengths)} tokens; {SLOTS} slots a server, which sleeps {SERVER_DELAY_S} s a "
            f"token. The engine alone: a decode step takes {step_s * 1e3:.2f} ms + {sample_s * 1e6:.0f} µs a sample, a "
            f"prompt {prefill_s * 1e3:.2f} ms.\n"
        )
        requests = [Request(prompts[i // GROUP], i // GROUP, i % GROUP, lengths[i]) for i in range(len(lengths))]
        words = ("threads=1", f"batch_size={SLOTS}", f"token_delay_s={SERVER_DELAY_S}")
        urls = [stack.enter_context(rollout_server(folder, *words)) for _ in range(max(SERVERS))]
        print("| servers | simulated, s | measured, s | error |\n|---|---|---|---|")
        for count in SERVERS:
            predicted = generate(Batch(table, PROMPT_TOKENS, table), speed, [1.0] * count).end
            with RolloutClient(urls[:count], deadline_s=60.0, outage_limit_s=60.0) as client:
                began = time.perf_counter()
                assert len(list(client.stream(requests, params, 0))) == len(requests)
                spent = time.perf_counter() - began
            print(f"| {count} | {predicted:.2f} | {spent:.2f} | {predicted / spent - 1:+.1%} |", flush=True)
    print(flush=True)


def lag() -> None:
    """Print predicted and measured seconds of a step at both lags, by how long the server sleeps."""
    from rollout_lag import crossthink
    from rollout_processes import rollout_server

    from recipes.run_files import read_lines

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        crossthink("train", "recipe=tiny", f"out={out / 'first'}", "steps=1", "warm_start.steps=100")
        base, pool = out / "first/base", out / "first/demo/pool"

        def run(name: str, delay_s: float, lag: int) -> Path:
            folder = out / name
            with rollout_server(base, "weights=refit", "threads=1", f"token_delay_s={delay_s}") as url:
                crossthink(
                    "train", "recipe=tiny", f"model={base}", f"data={pool}", f"out={folder}", f"steps={STEPS}",
                    f"rollout.url=[{url}]", f"rollout.lag={lag}", "algorithm.importance_cap=2.0", "actor.threads=1",
                    "prompts_per_step=64",
                )  # fmt: skip
            return folder

        known = run("known", 0.0, 0)
        setup, batches = calibrated(known)
        print(
            f"The run without sleeping: {setup.server.sample_s * 1e6:.0f} µs a token, {setup.refit_s:.3f} s a refit, "
            f"log-probs and training {statistics.median(trained(known)):.2f} s.\n"
        )
        print("| sleep a token, s | lag | simulated step, s | measured step, s | error |\n|---|---|---|---|---|")
        for delay_s in DELAYS_S:
            totals: dict[int, tuple[float, float]] = {}
            for number in (0, 1):
                predicted = simulated(setup, batches, delay_s, number)
                lines = read_lines(run(f"lag_{number}_{delay_s}", delay_s, number) / "metrics.jsonl")[WARM:]
                totals[number] = predicted, statistics.median(line["seconds"]["total"] for line in lines)
                one, other = totals[number]
                print(f"| {delay_s} | {number} | {one:.2f} | {other:.2f} | {one / other - 1:+.1%} |", flush=True)
            ratios = [totals[0][side] / totals[1][side] for side in (0, 1)]
            error = ratios[0] / ratios[1] - 1
            print(f"| {delay_s} | lag 0 / lag 1 | {ratios[0]:.2f} times | {ratios[1]:.2f} times | {error:+.1%} |")
    print(flush=True)


def calibrated(folder: Path):
    """A setup with the constants of a run at lag 0 whose server did not sleep, and the batches that it drew."""
    import numpy as np

    from recipes.planning.simulation.events import Batch, ServerSpeed
    from recipes.planning.simulation.steps import ActorSpeed, SamplePass, Setup
    from recipes.run_files import read_lines, rollout_file

    seconds = [line["seconds"] for line in read_lines(folder / "metrics.jsonl")]
    batches = []
    for step in range(1, STEPS + 1):
        lengths = [len(line["token_ids"]) for line in read_lines(rollout_file(folder, step))]
        table = np.array(lengths).reshape(-1, 8)
        batches.append(Batch(table, 32, np.full_like(table, 40)))
    samples = batches[0].lengths.size

    def median(*phases: str) -> float:
        return statistics.median(sum(one.get(phase, 0.0) for phase in phases) for one in seconds[WARM:])

    rest = statistics.median(
        one["total"] - sum(one.get(phase, 0.0) for phase in ("rollout", "reward", "log_probs", "train", "refit"))
        for one in seconds[WARM:]
    )
    a_token = statistics.median(one["rollout"] / batch.tokens for one, batch in zip(seconds, batches, strict=True))
    log_probs, train = SamplePass(median("log_probs") / samples), SamplePass(median("train") / samples)
    setup = Setup(
        lag=0,
        colocated=False,
        servers=1,
        server=ServerSpeed(512, 0.0, 0.0, a_token, 0.0),
        actor=ActorSpeed(1, 1, 1, 2048, 0.0, log_probs, train, rest),
        refit_s=median("refit"),
        spread_s=median("reward") / samples,
    )
    return setup, batches


def trained(folder: Path) -> list[float]:
    """Seconds of log-probs and training of a run's steps."""
    from recipes.run_files import read_lines

    lines = [line["seconds"] for line in read_lines(folder / "metrics.jsonl")[WARM:]]
    return [one["log_probs"] + one["train"] for one in lines]


def simulated(setup, batches, delay_s: float, number: int) -> float:
    """The median step at this lag, with a server that sleeps."""
    from recipes.planning.simulation.steps import simulate

    slowed = replace(setup, lag=number, server=replace(setup.server, step_s=delay_s))
    return statistics.median(one.total for one in simulate(slowed, batches, 0)[WARM:])


if __name__ == "__main__":
    sys.exit(main())
