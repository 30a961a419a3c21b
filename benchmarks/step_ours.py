"""This trainer's side of `benchmarks/step.py`: the loop's own `collect` and `update`, the reward in the process.

.venv/bin/python benchmarks/step_ours.py '{"folder": …}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from step_turns import Turns, reward

sys.path.insert(0, str(Path(__file__).parents[1]))

PHASES = {"rollout": "generation", "log_probs": "log-probs", "train": "training"}  # the loop's words and the table's


def main() -> int:
    """Train until the turns end."""
    case, turns = json.loads(sys.argv[1]), Turns()
    import torch

    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.quiet import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(case["threads"])
    mesh = join_mesh(1, 1)
    try:
        run(case, turns, mesh)
    finally:
        leave_mesh()
    return 0


def run(case: dict[str, Any], turns: Turns, mesh: Any) -> None:
    """Steps of the training loop, as long as there are turns."""
    from recipes.rl.records import PhaseClock
    from recipes.rl.step import collect, refit, update

    config = train_config(case)
    parts = build_parts(case, config, mesh)
    parts.engine.refit(parts.actor.weights, version=0)
    step, seconds = 0, None
    while turns.go_on(seconds):
        step, clock = step + 1, PhaseClock()
        batch, _ = collect(config, parts, step, clock)
        lengths = [len(sample.response.token_ids) for sample in batch.samples]
        assert case["stop_ids"] or set(lengths) == {case["response_tokens"]}
        update(config, parts, step, batch, clock)
        refit(parts, step, clock)
        seconds = {PHASES.get(name, name): value for name, value in clock.seconds.items()} | {"total": clock.total}


def train_config(case: dict[str, Any]) -> Any:
    """The config of a run of this case."""
    from conf.actor import OptimizerConfig
    from conf.algorithm import AlgorithmConfig
    from conf.rollout import RolloutConfig
    from conf.train import TrainConfig

    return TrainConfig(
        prompts_per_step=case["prompts"],
        samples_per_prompt=case["group"],
        micro_batch_tokens=case["micro_batch"] * (case["prompt_tokens"] + case["response_tokens"]),
        max_response_tokens=case["response_tokens"],
        algorithm=AlgorithmConfig(kl=case["kl"]),
        optimizer=OptimizerConfig(lr=case["lr"]),
        rollout=RolloutConfig(batch_size=case["generation_batch"]),
    )


def build_parts(case: dict[str, Any], config: Any, mesh: Any) -> Any:
    """What the loop drives, without records and reward server."""
    from recipes.actors.megatron.actor import MegatronActor
    from recipes.models.tokenizer import load_tokenizer
    from recipes.rl.parts import Parts
    from recipes.rollout.interface import SamplingParams
    from recipes.rollout.local.engine import LocalEngine

    folder = Path(case["folder"])
    tokenizer = load_tokenizer(folder)
    actor = MegatronActor(
        folder,
        mesh,
        config.optimizer,
        vocabulary=len(tokenizer),
        pad_id=tokenizer.pad_token_id,
        temperature=config.sampling.temperature,
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        with_reference=config.algorithm.kl > 0,
        settings=config.actor,
    )
    params = SamplingParams(
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_tokens=config.max_response_tokens,
        stop_ids=tuple(case["stop_ids"]),
        vocabulary=actor.vocabulary,
        seed=config.seed,
        step=0,
    )
    return Parts(
        actor=actor,
        engine=LocalEngine(folder, mesh.device, config.rollout.batch_size),
        prompts=SamePrompts(case["texts"], tokenizer),
        tokenizer=tokenizer,
        params=params,
        client=TextReward(),
        records=None,
        progress=None,
        evaluate=None,
    )


class SamePrompts:
    """Stands where the loop's `PromptStream` stands; goes round the given texts, without a chat template."""

    passed_over = 0

    def __init__(self, texts: Sequence[str], tokenizer: Any) -> None:
        from data_prep.rows import PoolRow
        from recipes.rl.batch import Prompt

        self.place = 0
        self.prompts = []
        for number, text in enumerate(texts):
            row = PoolRow(id=str(number), source="digits", domain="math", kind="math", question=text, options=None,
                          ground_truth=[""], prompt=[{"role": "user", "content": text}])  # fmt: skip
            self.prompts.append(Prompt(row, text, tuple(tokenizer(text)["input_ids"])))

    def draw(self, count: int) -> list[Any]:
        """The next `count` prompts."""
        found = [self.prompts[(self.place + i) % len(self.prompts)] for i in range(count)]
        self.place += count
        return found


class TextReward:
    """Stands where the reward server's client stands."""

    def score(self, items: Sequence[Any]) -> list[Any]:
        """A verdict of each item."""
        from reward_server.verdicts import Verdict

        rewards = [reward(item.response) for item in items]
        return [
            Verdict(item.id, value, int(value), 1, None, "correct" if value else "wrong", 0.0)
            for item, value in zip(items, rewards, strict=True)
        ]


if __name__ == "__main__":
    sys.exit(main())
