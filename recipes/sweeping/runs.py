"""The run of an arm and a seed: its folder, its command lines, its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.compose import resolve
from conf.sweep import SweepConfig
from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes.run_files import EVAL_FINAL, LOGS, SUMMARY, newest_step
from recipes.sweeping.arms import Arm
from recipes.sweeping.jobs import Chain, Command


@dataclass(frozen=True)
class Origin:
    """What a run is made from: `model` and `data` as train takes them; `more` overrides of its own."""

    data: Path
    model: str | None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        arm: what it trains on.
        seed: of the run.
        out: its run folder.
        train: words of `crossthink train`.
        config: what they come to.
    """

    arm: Arm
    seed: int
    out: Path
    train: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Of its chain and its log."""
        return f"{self.arm.name}/seed_{self.seed}"

    @property
    def evaluation(self) -> Path:
        """Where its evaluation goes: where the report of the run looks for it."""
        return self.out / EVAL_FINAL

    def is_trained(self) -> bool:
        """Whether its last step is saved."""
        return newest_step(self.out) >= self.config.steps


def plan_run(sweep: SweepConfig, arm: Arm, seed: int, origin: Origin) -> PlannedRun:
    """The run of an arm and a seed. Raises ConfigError naming the arm where its words cannot be."""
    out = Path(sweep.out) / arm.name / f"seed_{seed}"
    words = [
        *sweep.words,
        f"blend={arm.blend}",
        f"data={origin.data}",
        *([] if origin.model is None else [f"model={origin.model}"]),
        f"out={out}",
        f"seed={seed}",
        *([] if sweep.threads is None else [f"actor.threads={sweep.threads}"]),
        *origin.more,
        *(word.partition(":")[2] for word in sweep.arm_words if word.partition(":")[0] == arm.name),
    ]
    try:
        config = resolve("train", TrainConfig, words)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name}: {error}") from error
    return PlannedRun(arm, seed, out, ("train", *words), config)


def check_run(planned: PlannedRun) -> None:
    """Refuse what cannot be trained here. Raises ConfigError or UserError, naming the arm."""
    from recipes import train

    try:
        train.check(planned.config)
    except ConfigError as error:
        raise ConfigError(f"arm {planned.arm.name}: {error}") from error


def eval_command(sweep: SweepConfig, checkpoint: Path, out: Path, trained: TrainConfig, data: Path | None) -> Command:
    """The evaluation of a run or of a model, with the lengths of training.

    Args:
        sweep: what is asked, but for a pool.
        checkpoint: run folder or model folder.
        out: the evaluation's folder.
        trained: the run's config, or one of the runs that start from the model.
        data: pool of held-out questions.
    """
    benchmarks = sweep.eval.benchmarks
    words = [
        "eval",
        f"checkpoint={checkpoint}",
        f"out={out}",
        *([] if data is None else [f"data={data}"]),
        *([f"benchmarks=[{','.join(benchmarks)}]"] if benchmarks else []),
        "runs=1",  # the local engine's greedy answers never differ
        f"max_prompt_tokens={trained.max_prompt_tokens}",
        f"max_response_tokens={trained.max_response_tokens}",
        f"rollout.batch_size={trained.rollout.batch_size}",
        f"reward.think_prefilled={str(trained.reward.think_prefilled).lower()}",
        *([] if sweep.threads is None else [f"threads={sweep.threads}"]),
        *sweep.eval.words,
    ]
    return Command(words, out, lambda: (out / SUMMARY).is_file())


def chain_of(sweep: SweepConfig, planned: PlannedRun, data: Path | None, before: Sequence[Command] = ()) -> Chain:
    """Train and evaluate, behind other commands."""
    out = Path(sweep.out)
    train = Command(planned.train, planned.out, planned.is_trained)
    evaluate = eval_command(sweep, planned.out, planned.evaluation, planned.config, data)
    return Chain(planned.name, (*before, train, evaluate), log_of(out, planned.name))


def log_of(out: Path, name: str) -> Path:
    """The log of a chain."""
    return out / LOGS / f"{name.replace('/', '.')}.log"


def evaluated(runs: Sequence[PlannedRun]) -> Mapping[str, dict[int, Path]]:
    """The finished evaluations, by arm and seed."""
    found: dict[str, dict[int, Path]] = {}
    for one in runs:
        if (one.evaluation / SUMMARY).is_file():
            found.setdefault(one.arm.name, {})[one.seed] = one.evaluation
    return found
