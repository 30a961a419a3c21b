"""`crossthink sweep`: several training runs, their evaluations, and the table of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.cluster import ClusterConfig


@dataclass
class SweepEvalConfig:
    """What every finished run is asked."""

    data: str | None = None
    """Pool of held-out questions; recipe=study makes its own."""
    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks, as eval takes them."""
    words: list[str] = field(default_factory=list)
    """More overrides for every eval, such as "eval.words=['limit=200']"."""


@dataclass
class StudyConfig:
    """recipe=study: the paper's comparisons on generated questions and a tiny policy."""

    steps: int = 70
    """Training steps of every arm. [ours: 650 in the paper]"""
    single_steps: int = 27
    """Steps of the single-source runs whose accuracies weigh blend=score. [ours: 250 in the paper]"""
    train_rows: int = 900
    """Questions of the largest source to train on, others have fewer; the smallest task has 1,260 distinct ones."""
    held_out_rows: int = 120
    """Questions of each source that all runs are asked; none of them is trained on."""
    warm_start_steps: int = 400
    """Supervised steps that make the base policy of a seed."""
    data_seed: int = 0
    """Of the questions, which are the same for all seeds of the runs."""


@dataclass
class SweepConfig:
    """Train several arms, each in a run folder of its own, evaluate each, and write one table. A recipe names the arms.

    The arms of ablation_blends are trained on data= from model=; study makes its own data and base policies.
    """

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"cluster": None}, {"recipe": None}])

    recipe: str | None = None
    """Which arms: ablation_blends (the blends of Table 4) or study (those, Tables 5, 6, 7 and 9, at demo scale)."""
    out: str = MISSING
    """The sweep's folder: out/ARM/seed_K is a run folder."""
    arms: list[str] = field(default_factory=list)
    """Some of the recipe's arms; empty: all."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Every arm is trained once with each."""
    data: str | None = None
    """Pool folder that every arm is trained on. recipe=study makes its own."""
    model: str | None = None
    """Model that every arm starts from, as train takes it. recipe=study makes its own."""
    words: list[str] = field(default_factory=list)
    """Overrides for every training run, such as "words=['recipe=crossthink_7b','steps=300']"."""
    arm_words: list[str] = field(default_factory=list)
    """Overrides for the runs of one arm, ARM:KEY=VALUE, such as "arm_words=['score:blend.scores.math=47.1']"."""
    parallel: int = 1
    """Runs at a time on this machine."""
    threads: int | None = None
    """CPU threads of each run (actor.threads) and of its evaluation; null: as they decide themselves."""
    eval: SweepEvalConfig = field(default_factory=SweepEvalConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(name=""))
    """Submit every run as a job instead of starting it here, then evaluate here what is finished (resume=true)."""
    resume: bool = False
    """Go on with the sweep in out."""
