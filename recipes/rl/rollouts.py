"""One rollout: generated, judged by way of rank 0, and known to every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from crossthink.errors import UserError
from recipes.rl.batch import Prompt, RolloutBatch, Sample
from recipes.rl.pending import PendingRollout, decode
from recipes.rl.records import PhaseClock
from recipes.rl.scoring import Judge, item
from recipes.rollout.interface import RemoteEngine, Request, Response, RolloutEngine, SamplingParams
from recipes.spmd import from_first_rank, gather_json
from reward_server.verdicts import Verdict


class InvalidVerdictsError(UserError):
    """More verdicts of a step were invalid than `reward.max_invalid` allows."""


def generate(
    engine: RolloutEngine, prompts: Sequence[Prompt], group: int, params: SamplingParams, first: int = 0
) -> list[list[Response]]:
    """`group` responses to each prompt, on every rank. Collective: prompts are dealt out to the ranks.

    `first` is the number of the first prompt within the step: no two prompts of a step share their random numbers.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    requests = [
        Request(prompts[p].token_ids, first + p, g) for p in range(rank, len(prompts), world) for g in range(group)
    ]
    mine = engine.generate(requests, params) if requests else []
    shares = gather_json([asdict(response) for response in mine])
    found: list[list[Response]] = []
    for p in range(len(prompts)):
        share, place = shares[p % world], (p // world) * group
        found.append([Response(**fields) for fields in share[place : place + group]])
    return found


def judge(
    client: Judge | None,
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[Response]],
    texts: Sequence[Sequence[str]],
    think_prefilled: bool,
) -> list[list[Verdict]]:
    """Verdicts of all responses, on every rank; rank 0 alone asks. A failure there is raised on every rank.

    Raises:
        UserError: the reward server could not be asked; says which and why.
    """

    def ask() -> list[dict[str, object]]:
        assert client is not None
        items = [
            item(prompt, p, g, response, texts[p][g], think_prefilled)
            for p, prompt in enumerate(prompts)
            for g, response in enumerate(responses[p])
        ]
        return [verdict.to_json() for verdict in client.score(items)]

    flat = iter(Verdict.from_json(fields) for fields in from_first_rank(ask))
    return [[next(flat) for _ in group] for group in responses]


def rollout(
    engine: RolloutEngine,
    client: Judge | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    group: int,
    params: SamplingParams,
    think_prefilled: bool,
    clock: PhaseClock,
    first: int = 0,
) -> RolloutBatch:
    """Generate and judge. `clock` is the loop's phase clock, `first` the first prompt's number within the step.

    In the actor's processes every rank generates its share; rank 0 asks an engine elsewhere for all of it, and has
    whole groups judged while the rest is generated.
    """
    if isinstance(engine, RemoteEngine):
        pending = PendingRollout(engine, client, tokenizer, prompts, group, params, think_prefilled, first)
        return pending.finish(clock.phase)
    with clock.phase("rollout"):
        responses = generate(engine, prompts, group, params, first)
        texts = [[decode(tokenizer, r.token_ids) for r in one] for one in responses]
    with clock.phase("reward"):
        verdicts = judge(client, prompts, responses, texts, think_prefilled)
    samples = [
        Sample(prompt, g, responses[p][g], texts[p][g], verdicts[p][g])
        for p, prompt in enumerate(prompts)
        for g in range(group)
    ]
    return RolloutBatch(samples, group)


def check_invalid(batch: RolloutBatch, limit: float) -> None:
    """Stop loudly when too much of a step could not be judged.

    Raises:
        InvalidVerdictsError: the share of invalid verdicts is above `limit`; shows one of them.
    """
    invalid = [s for s in batch.samples if not s.verdict.is_valid]
    share = len(invalid) / len(batch.samples)
    if share > limit:
        first = invalid[0]
        raise InvalidVerdictsError(
            f"{len(invalid)} of {len(batch.samples)} verdicts ({share:.1%}) are invalid, above reward.max_invalid="
            f"{limit}. The first: {first.verdict.status} on prompt {first.prompt.row.id} ({first.prompt.row.kind}), "
            f"ground truth {first.prompt.row.ground_truth}. Mend the data, or raise the limit."
        )
