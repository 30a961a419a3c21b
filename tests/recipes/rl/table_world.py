"""A whole training job of a table: a policy, a critic and an engine with real gradients, in milliseconds."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rl_helpers import added, prompt
from torch import Tensor

from conf.algorithm import AlgorithmConfig, CriticConfig
from conf.train import TrainConfig
from crossthink.errors import StoppedEarly
from recipes.actors.interface import LossFunction, Staged, StepResult, TokenizedSample
from recipes.actors.packing import micro_batches
from recipes.rl import checkpoints
from recipes.rl.loop import train
from recipes.rl.parts import Parts
from recipes.rl.records import Records
from recipes.rollout.interface import Request, Response, SamplingParams
from reward_server.verdicts import Item, Verdict

VOCABULARY = 8
STOP = 7
LONGEST = 4


def log_probs_of(table: Tensor, batch: Any) -> Tensor:
    """The next token depends on the last one only: row `token` of the table are its logits."""
    found = table.log_softmax(-1)[batch.token_ids_bt].gather(-1, batch.labels_bt[..., None])[..., 0]
    return torch.where(batch.mask_bt, found, 0.0)


class TableEngine:
    """What a policy and a critic of a table share."""

    def __init__(self, table: Tensor, budget: int) -> None:
        self.table = table.clone().requires_grad_()
        self.adam = torch.optim.Adam([self.table])
        self.budget = budget
        self.steps = 0
        self.away = False
        self.absences = 0

    def offload(self) -> None:
        assert not self.away
        self.away = True
        self.absences += 1

    def onload(self) -> None:
        assert self.away
        self.away = False

    def predict(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def per_token(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        assert not self.away
        found = {}
        for indices, batch in micro_batches(samples, self.budget, pad_id=0):
            for row, index in enumerate(indices):
                found[index] = self.predict(batch)[row][batch.mask_bt[row]].detach()
        return [found[i] for i in range(len(samples))]

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        assert not self.away
        self.adam.zero_grad()
        sums: dict[str, float] = {}
        for _, batch in micro_batches(samples, self.budget, pad_id=0):
            value, found = loss(self.predict(batch), batch)
            value.backward()
            sums = added(sums, {"loss": value.detach(), **found})
        result = StepResult(float(self.table.grad.norm()), sums)
        if result.is_finite:
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
            self.steps += 1
        return result

    def state_file(self, folder: Path) -> Path:
        return folder / f"{type(self).__name__}.pt"

    def stage(self, folder: Path) -> Staged:
        assert not self.away
        return StagedTable(
            self.state_file(folder),
            copy.deepcopy({"table": self.table.detach(), "adam": self.adam.state_dict()}),
        )

    def load(self, folder: Path) -> None:
        state = torch.load(self.state_file(folder))
        self.table.data.copy_(state["table"])
        self.adam.load_state_dict(state["adam"])


@dataclass
class StagedTable:
    """Implements `recipes.actors.interface.Staged`."""

    file: Path
    state: dict[str, Any]

    def write(self) -> None:
        torch.save(self.state, self.file)

    def finish(self) -> None:
        assert self.file.is_file()


class TableActor(TableEngine):
    """Implements `recipes.actors.interface.Actor`. In the `bad_steps`-th reference passes (from 1) it gives NaN."""

    vocabulary = VOCABULARY

    def __init__(self, budget: int = 10**9, bad_steps: Sequence[int] = ()) -> None:
        super().__init__(torch.zeros(VOCABULARY, VOCABULARY), budget)
        self.reference = self.table.detach().clone()
        self.bad_steps = bad_steps
        self.passes = 0

    def predict(self, batch: Any) -> Tensor:
        return log_probs_of(self.table, batch)

    def log_probs(self, samples: Sequence[TokenizedSample], reference: bool = False) -> list[Tensor]:
        if not reference:
            return self.per_token(samples)
        self.passes += 1
        found = [torch.full((s.response_length,), -torch.tensor(float(VOCABULARY)).log()) for s in samples]
        return [x * torch.nan for x in found] if self.passes in self.bad_steps else found

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "table", self.table.detach().clone()


class TableCritic(TableEngine):
    """Implements `recipes.actors.interface.Critic`: a value for each last token."""

    def __init__(self, budget: int = 10**9) -> None:
        super().__init__(torch.zeros(VOCABULARY), budget)

    def predict(self, batch: Any) -> Tensor:
        return torch.where(batch.mask_bt, self.table[batch.token_ids_bt], 0.0)

    def values(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        return self.per_token(samples)


class TableRollouts:
    """Implements `recipes.rollout.interface.RolloutEngine`."""

    def refit(self, weights: Any, version: int) -> None:
        ((_, self.table),) = weights()
        self.version = version

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[Response]:
        return [self.one(request, params) for request in requests]

    def one(self, request: Request, params: SamplingParams) -> Response:
        numbers = (params.seed, params.step, request.prompt, request.sample)
        random = torch.Generator().manual_seed(sum(n * 10_007**i for i, n in enumerate(numbers)))
        ids, log_probs = [request.prompt_ids[-1]], []
        while len(log_probs) < params.max_tokens and (ids[-1] != STOP or not log_probs):
            scores = self.table[ids[-1]].log_softmax(-1)
            ids.append(int(torch.multinomial(scores.exp(), 1, generator=random)))
            log_probs.append(float(scores[ids[-1]]))
        return Response(ids[1:], log_probs, "stop" if ids[-1] == STOP else "length", self.version)


class RemoteTable(TableRollouts):
    """Implements `recipes.rollout.interface.RemoteEngine`: the same responses, in another order.

    Attributes:
        fails: steps whose rollouts fail, and steps whose refits do; each once.
        shift: added to every log-prob.
    """

    version: int | None = None

    def __init__(self, fails: Sequence[int] = (), refit_fails: Sequence[int] = (), shift: float = 0.0) -> None:
        self.fails, self.refit_fails, self.shift = set(fails), set(refit_fails), shift
        self.asked: list[tuple[int, int]] = []
        self.under_way = 0

    def refit(self, weights: Any, version: int) -> None:
        assert not self.under_way, "weights change under a rollout"
        if version in self.refit_fails:
            self.refit_fails.discard(version)
            raise StoppedEarly("no server took the weights")
        super().refit(weights, version)

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[tuple[int, Response]]:
        self.asked.append((params.step, self.version))
        self.under_way += 1
        try:
            places = list(range(len(requests)))
            random.Random(params.step).shuffle(places)
            for number, place in enumerate(places):
                if params.step in self.fails and number == 7:
                    self.fails.discard(params.step)
                    raise StoppedEarly("no server is left")
                made = self.one(requests[place], params)
                yield place, replace(made, log_probs=[one + self.shift for one in made.log_probs])
        finally:
            self.under_way -= 1

    def rest(self) -> None:
        assert not self.under_way

    def metrics(self) -> dict[str, float]:
        return {"rollout_redealt": 0.0}

    def close(self) -> None:
        pass


class Words:
    """A tokenizer as far as a rollout needs one."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(map(str, ids))


class NextNumber:
    """A judge: right is a response that begins with the prompt's number plus one and has stopped."""

    def score(self, items: list[Item]) -> list[Verdict]:
        return [self.one(item) for item in items]

    def one(self, item: Item) -> Verdict:
        right = item.response.split()[0] == item.ground_truth[0]
        good = right and item.finish_reason == "stop"
        return Verdict(item.id, float(good), int(right), int(item.finish_reason == "stop"), None, "correct", 0.0)


class Numbers:
    """A stream of prompts 0, 1, 2, 3, 4, 0, …"""

    passed_over = 0

    def __init__(self) -> None:
        self.position = 0

    def draw(self, count: int) -> list[Any]:
        places = range(self.position, self.position + count)
        self.position += count
        return [prompt(n, token_ids=(n % 5,), ground_truth=[str(n % 5 + 1)]) for n in places]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}


def table_config(out: Path, steps: int, **options: Any) -> TrainConfig:
    """A run of 10 prompts × 8 samples; `options` are `algorithm.*`, or keys of the run with __ for the dot."""
    config = TrainConfig(
        out=str(out), steps=steps, prompts_per_step=10, samples_per_prompt=8, max_response_tokens=LONGEST
    )
    config.optimizer.lr, config.critic = 0.3, CriticConfig(lr=0.05)
    config.checkpoint.every = 1000
    for key, value in options.items():
        if "__" in key:
            section, _, name = key.partition("__")
            setattr(getattr(config, section), name, value)
        elif key in AlgorithmConfig.__dataclass_fields__:
            setattr(config.algorithm, key, value)
        else:
            setattr(config, key, value)
    return config


def table_run(
    config: TrainConfig,
    actor: TableActor | None = None,
    budget: int = 10**9,
    judge: Any = None,
    engine: TableRollouts | None = None,
    **more: Any,
) -> Parts:
    """Train from the newest checkpoint in `config.out`, or from nothing; returns the parts. `more`: further parts."""
    out = Path(config.out)
    actor, prompts = actor or TableActor(budget), Numbers()
    critic = TableCritic(budget) if config.algorithm.name == "ppo" else None
    start, state = 0, None
    newest = checkpoints.latest(out)
    if newest:
        state = newest.trainer_state()
        start, prompts.position = state["step"], state["prompts"]["position"]
        for trained in filter(None, (actor, critic)):
            trained.load(newest.folder)
    params = SamplingParams(1.0, 1.0, LONGEST, (STOP,), VOCABULARY, config.seed, start)
    records = Records(out, start)
    more = {"evaluate": None, "critic": critic} | more
    engine = engine or TableRollouts()
    parts = Parts(actor, engine, prompts, Words(), params, judge or NextNumber(), records, None, **more)
    try:
        train(config, parts, start, state)
    finally:
        records.close()
    return parts
