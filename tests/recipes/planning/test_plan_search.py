"""search=true: which layouts are tried, refused and ranked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_helpers import SEVEN, THIRTY_TWO, configured

from crossthink.errors import ConfigError
from recipes.planning import search as module
from recipes.planning.interface import Item, Job, PhaseMemory
from recipes.planning.job import make_job
from recipes.planning.memory import fit, memory
from recipes.planning.search import layouts, search
from recipes.planning.table import layout_words
from recipes.planning.timing import estimate

FITS = ("rollout.trtllm.kv_cache_fraction=0.35",)


def test_layouts_are_those_that_divide() -> None:
    config = configured(*SEVEN, "nodes.actor=2")
    tried = list(layouts(config, make_job(config)))
    sizes = {(one.actor.tensor_parallel, one.actor.pipeline_parallel) for one in tried}
    # 28 heads, 4 key-value heads, 28 layers, 16 ranks on nodes of 8: TP 8 has too few heads, PP 7 no whole ranks.
    assert sizes == {(tensor, pipeline) for tensor in (1, 2, 4) for pipeline in (1, 2, 4)}
    assert len(tried) == 9 * 3 * 4
    assert {one.actor.sequence_parallel for one in tried if one.actor.tensor_parallel == 1} == {False}


def test_tensor_parallel_ranks_share_a_node() -> None:
    config = configured(*THIRTY_TWO, "nodes.actor=8", "nodes.gpus_per_node=4", *FITS)
    tried = layouts(config, make_job(config))
    assert max(one.actor.tensor_parallel for one in tried) == 4


def test_the_32b_ranking_is_sorted_fits_and_can_be_planned_again() -> None:
    config = configured(*THIRTY_TWO, *FITS)
    found = search(config)
    steps = [one.step_s for one in found.layouts]
    assert found.layouts and steps == sorted(steps) and found.nearest is None
    assert len(found.layouts) < found.tried
    assert {one.tensor * one.pipeline * one.data for one in found.layouts} == {32}
    best = configured(*THIRTY_TWO, *FITS, *layout_words(found.layouts[0]).split())
    job = make_job(best)
    assert not fit(job, memory(job))
    assert estimate(job, best.efficiency).step_s == pytest.approx(steps[0])
    current = [one for one in found.layouts if one.is_current]
    assert [(one.tensor, one.pipeline, one.recompute, one.micro_batch_tokens) for one in current] == [
        (4, 4, "full", 16384)
    ]
    assert current[0].step_s == pytest.approx(estimate(make_job(config), config.efficiency).step_s)


def test_where_nothing_fits_the_nearest_is_named() -> None:
    found = search(configured("recipe=crossthink_32b", "actor=megatron", "rollout=local", "nodes.rollout=0"))
    assert found.layouts == () and found.tried > 100
    assert found.nearest is not None and found.nearest.startswith("TP ") and "gpu=h100" in found.nearest


def test_layouts_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_two_stages(job: Job, _: object) -> list[str]:
        return [] if job.pipeline == 2 else ["too much"]

    monkeypatch.setattr(module, "memory", lambda job: [PhaseMemory("train", 0, (Item("weights", 1.0),))])
    monkeypatch.setattr(module, "fit", only_two_stages)
    found = search(configured(*SEVEN))
    assert {one.pipeline for one in found.layouts} == {2}


def test_cpus_cannot_be_ranked_and_an_impossible_config_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"search=true ranks layouts by their time, which gpu=cpu has none of"):
        search(configured("model=tiny", "gpu=cpu"))
    with pytest.raises(ConfigError, match=r"nodes\.actor=1 × nodes\.gpus_per_node=8 = 8 ranks, which"):
        search(replace(configured(*THIRTY_TWO), nodes=configured(*SEVEN).nodes))
