"""recipe=study: what its arms are made from. Data once; for each seed a base policy and a filtered pool; the weights of
`blend=score` from short single-source runs of the first seed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conf.sweep import SweepConfig
from crossthink.errors import StoppedEarly
from crossthink.files import write_json
from data_prep.pool import Pool
from recipes.difficulty import POOL as FILTERED_POOL
from recipes.reporting.over_seeds import BASE
from recipes.reporting.paper import SINGLE
from recipes.run_files import SUMMARY
from recipes.sweeping.arms import FILTERED, MIXED, OPEN, SINGLES, Arm
from recipes.sweeping.jobs import Chain, Command, run_chains
from recipes.sweeping.results import read_result
from recipes.sweeping.runs import Origin, PlannedRun, chain_of, eval_command, evaluated, log_of, plan_run
from recipes.sweeping.study_data import HELD_OUT, make_base, make_data

DATA, SCORES, MODEL, EVAL = "data", "scores.json", "model", "eval"
MARKED = "difficulty"
"""Folder of the marks and filtered pools: the arm `filtered` has its runs in one of its own."""
NOTE = (
    "Generated questions under six of the paper's source names and a policy of 0.6 million parameters: what this can "
    "tell is whether the same code shows the same directions, not what a 7B model would do. Every arm of a seed starts "
    "from that seed's base policy; all are asked the same held-out questions, none of which was trained on. The reward "
    "of training is the paper's exact match, which makes the answer template matter; evaluation takes label or text."
)
# As the demo, with the paper's reward; a checkpoint only at the end.
WORDS = ("recipe=tiny", "reward.match=exact", "checkpoint.every=100000", "checkpoint.keep=1")


@dataclass
class Study:
    """A study in its folder.

    Attributes:
        config: of the sweep.
        unfinished: what could not be made, and why.
    """

    config: SweepConfig
    unfinished: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The sweep's folder."""
        return Path(self.config.out)

    @property
    def held_out(self) -> Path:
        """What every arm is asked."""
        return self.out / DATA / HELD_OUT

    def check(self, arms: list[Arm]) -> None:
        """Refuse words that no run can have, before anything is made. Raises ConfigError naming the arm."""
        for arm in arms:
            plan_run(self.words(), arm, self.config.seeds[0], Origin(self.out / DATA / arm.pool, None))

    def make(self, arms: list[Arm], stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Make what the arms need, where it is missing; `unfinished` says what is missing after it.

        Raises:
            StoppedEarly: somebody wants to stop.
        """
        make_data(self.out / DATA, self.config.study)
        for seed in self.config.seeds:
            self._base(seed, stopped)
        names = {arm.name for arm in arms}
        singles = self._singles() if "score" in names else []
        chains = [self._base_chain(seed) for seed in self.config.seeds]
        chains += [chain_of(self.config, one, self.held_out) for one in singles]
        chains += [self._filter_chain(seed) for seed in self.config.seeds if FILTERED in names]
        codes = run_chains(chains, self.config.parallel, stopped, say)
        for name, code in codes.items():
            if code:
                self.unfinished[name] = f"ended with {code}; log: {log_of(self.out, name)}"
        _end_where(stopped)
        if singles:
            self._write_scores(singles)

    def runs(self, arms: list[Arm]) -> list[PlannedRun]:
        """The runs of the arms; what an arm lacks is in `unfinished`, and it is left out."""
        found = []
        for arm in arms:
            for seed in self.config.seeds:
                if arm.blend == "score" and not self.scores():
                    self.unfinished["score"] = "the accuracies of the single-source runs are not there (Table 3)"
                elif arm.pool == FILTERED and not self._filtered(seed).is_dir():
                    self.unfinished[f"{arm.name}/seed_{seed}"] = "its filtered pool is not there"
                else:
                    found.append(plan_run(self.words(), arm, seed, self._origin(arm, seed)))
        return found

    def base_evaluations(self) -> dict[int, Path]:
        """The finished evaluations of the base policies, by seed."""
        found = {seed: self.out / BASE / f"seed_{seed}" / EVAL for seed in self.config.seeds}
        return {seed: path for seed, path in found.items() if (path / SUMMARY).is_file()}

    def scores(self) -> dict[str, float]:
        """Mean accuracy after training on one source alone, by source; empty where they are not measured yet."""
        path = self.out / SCORES
        return json.loads(path.read_text("utf-8"))["scores"] if path.is_file() else {}

    def words(self, steps: int | None = None) -> SweepConfig:
        """The sweep's config with the words of the study before the user's."""
        own = [*WORDS, f"steps={steps or self.config.study.steps}"]
        return replace(self.config, words=[*own, *self.config.words])

    def _origin(self, arm: Arm, seed: int) -> Origin:
        more: tuple[str, ...] = ()
        if arm.blend == "score":
            more = tuple(f"blend.scores.{source}={score}" for source, score in self.scores().items())
        if arm.pool == OPEN:
            # Without options many questions become one: the counterpart's proportions, not those of what is left.
            more = (f"blend.weights={{{','.join(f'{s}:{n}' for s, n in self._mixed_counts().items())}}}",)
        data = self._filtered(seed) if arm.pool == FILTERED else self.out / DATA / arm.pool
        return Origin(data, str(self._model(seed)), more)

    def _mixed_counts(self) -> dict[str, int]:
        return Pool.open(self.out / DATA / MIXED, verify=False).counts

    def _model(self, seed: int) -> Path:
        return self.out / BASE / f"seed_{seed}" / MODEL

    def _filtered(self, seed: int) -> Path:
        return self.out / MARKED / f"seed_{seed}" / FILTERED_POOL

    def _base(self, seed: int, stopped: Callable[[], bool]) -> None:
        import torch

        torch.set_num_threads(max(1, self.config.parallel * (self.config.threads or 1)))

        def progress(step: int, loss: float) -> None:
            _end_where(stopped)
            if step % 100 == 0:
                print(f"sweep: warm start of seed {seed}: step {step}, loss {loss:.3f}", file=sys.stderr, flush=True)

        _end_where(stopped)
        make_base(self._model(seed), self.out / DATA, self.config.study, seed, progress)

    def _single(self, arm: Arm) -> PlannedRun:
        seed = self.config.seeds[0]
        return plan_run(self.words(self.config.study.single_steps), arm, seed, self._origin(arm, seed))

    def _singles(self) -> list[PlannedRun]:
        return [] if self.scores() else [self._single(arm) for arm in SINGLES]

    def _base_chain(self, seed: int) -> Chain:
        name = f"{BASE}/seed_{seed}"
        trained = self._single(SINGLES[0]).config
        out = self.out / BASE / f"seed_{seed}" / EVAL
        command = eval_command(self.config, self._model(seed), out, trained, self.held_out)
        return Chain(name, (command,), log_of(self.out, name))

    def _filter_chain(self, seed: int) -> Chain:
        """The difficulty filter with the seed's base as the smaller model (the paper's, for 32B)."""
        trained, out = self._single(SINGLES[0]).config, self._filtered(seed).parent
        words = [
            "difficulty",
            f"checkpoint={self._model(seed)}",
            f"data={self.out / DATA / MIXED}",
            f"out={out}",
            f"max_prompt_tokens={trained.max_prompt_tokens}",
            f"max_response_tokens={trained.max_response_tokens}",
            f"rollout.batch_size={trained.rollout.batch_size}",
            *([] if self.config.threads is None else [f"threads={self.config.threads}"]),
        ]
        name = f"{MARKED}/seed_{seed}"
        return Chain(name, (Command(words, out, self._filtered(seed).is_dir),), log_of(self.out, name))

    def _write_scores(self, singles: list[PlannedRun]) -> None:
        """The weights of `blend=score` with where they are from; not before all six are measured."""
        done = evaluated(singles)
        if len(done) < len(SINGLES):
            return
        scores: dict[str, float] = {}
        provenance: dict[str, Any] = {}
        for one in singles:
            result = read_result(one.evaluation)
            source = one.arm.name.removeprefix(SINGLE)
            scores[source] = result.value("mean") or 0.0
            provenance[source] = {
                "run": str(one.out),
                "evaluation": str(one.evaluation),
                "steps": one.config.steps,
                "seed": one.seed,
                "questions_sha256": result.questions_sha256,
            }
        what = "mean accuracy over the six sources after training on one of them alone"
        write_json(self.out / SCORES, {"what": what, "scores": scores, "provenance": provenance})


def _end_where(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise StoppedEarly("stopped; the same command with resume=true goes on.")
