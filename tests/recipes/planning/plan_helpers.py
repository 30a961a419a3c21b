"""Jobs for the tests of `crossthink plan`."""

from __future__ import annotations

from functools import lru_cache

from conf.compose import resolve
from conf.plan import PlanConfig
from recipes.planning.interface import Job
from recipes.planning.job import make_job

ON_THE_ACTOR = ("actor=megatron", "nodes.rollout=0", "rollout.servers=8", "rollout.colocated=true")
SEVEN = ("recipe=crossthink_7b", *ON_THE_ACTOR)
THIRTY_TWO = ("recipe=crossthink_32b", *ON_THE_ACTOR)
APART = ("rollout.servers=0", "rollout.colocated=false")
"""With nodes.rollout=N: servers that fill those nodes."""
URL = ("rollout.url=[http://a:8001,http://b:8001]",)
"""Servers of others, which count and not those of ON_THE_ACTOR."""


@lru_cache(maxsize=256)
def configured(*words: str) -> PlanConfig:
    """The command's configuration; the same object each time, because composing one takes long."""
    return resolve("plan", PlanConfig, list(words))


def job_of(*words: str) -> Job:
    """The job that these words come to; its config is the `PlanConfig`."""
    return make_job(configured(*words))
