"""One rollout: every rank generates its share, rank 0 has the answers judged, every rank ends up with all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from crossthink.errors import UserError
from recipes.rl.batch import Prompt, RolloutBatch, Sample
from recipes.rl.spmd import broadcast_json, gather_json, is_first_rank
from recipes.rollout.interface import Request, Response, RolloutEngine, SamplingParams
from reward_server.verdicts import Item, Verdict


class Judge(Protocol):
    """What scores responses: the reward server's client."""

    def score(self, items: list[Item]) -> list[Verdict]: ...


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


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """A response as the judge reads it: special tokens removed, everything else untouched."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


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
    answer: dict[str, object] = {}
    failure: UserError | None = None
    if is_first_rank():
        assert client is not None
        items = [
            Item(
                id=f"{p}.{g}",
                kind=prompt.row.kind,
                response=texts[p][g],
                ground_truth=tuple(prompt.row.ground_truth),
                options=tuple(prompt.row.options.items()) if prompt.row.options else None,
                finish_reason=response.finish_reason,
                think_prefilled=think_prefilled,
                source=prompt.row.source,
                response_tokens=len(response.token_ids),
            )
            for p, prompt in enumerate(prompts)
            for g, response in enumerate(responses[p])
        ]
        try:
            answer = {"verdicts": [verdict.to_json() for verdict in client.score(items)]}
        except UserError as error:
            failure, answer = error, {"failure": str(error)}
    answer = broadcast_json(answer)
    if "failure" in answer:
        raise failure or UserError(str(answer["failure"]))
    flat = iter(Verdict.from_json(fields) for fields in answer["verdicts"])
    return [[next(flat) for _ in group] for group in responses]


def rollout(
    engine: RolloutEngine,
    client: Judge | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    group: int,
    params: SamplingParams,
    think_prefilled: bool,
    clock: object,
    first: int = 0,
) -> RolloutBatch:
    """Generate and judge. `clock` is the loop's phase clock, `first` the first prompt's number within the step."""
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
