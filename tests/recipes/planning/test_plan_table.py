"""The plan as text, JSON and picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_helpers import APART, SEVEN, THIRTY_TWO, URL, configured, job_of

from crossthink.errors import ConfigError
from recipes.planning import table
from recipes.planning.communication import traffic
from recipes.planning.interface import KNOWN, Item, PhaseMemory
from recipes.planning.memory import memory
from recipes.planning.picture import check_picture, draw
from recipes.planning.search import Layout, Ranking
from recipes.planning.timing import estimate


def test_stages_that_are_alike_stand_together() -> None:
    job = job_of(*THIRTY_TWO)
    phases = [PhaseMemory("train", stage, (Item("weights", 4e9 + (stage in (0, 3)) * 1e9),)) for stage in range(4)]
    text = table.memory_table(job, phases)
    assert "stages 0, 3 of 4" in text and "stages 1, 2 of 4" in text
    assert "5.00" in text and "4.00" in text
    assert "79.83" in text and "80.83" in text  # left of 79 GiB


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollout=local", "rollout.servers=0", "rollout.colocated=false"), "rollout=local on the actor's ranks;"),
        ((), "rollout=trtllm on 8 servers on the actor's GPUs;"),
        ((*URL, "rollout.colocated=false"), "rollout=trtllm on 2 servers of rollout.url;"),
        ((*APART, "nodes.rollout=1"), "rollout=trtllm on 8 GPUs of their own;"),
    ],
)
def test_the_first_lines_say_who_generates(words: tuple[str, ...], said: str) -> None:
    assert said in table.layout_line(job_of(*SEVEN, *words))


def test_a_sum_is_as_well_known_as_its_least_known_part() -> None:
    phases = [PhaseMemory("train", 0, (Item("weights", 1e9), Item("reserve", 2e9, "assumed")))]
    lines = table.memory_table(job_of(*SEVEN), phases).splitlines()
    assert next(line for line in lines if line.startswith("weights")).endswith("formula")
    assert next(line for line in lines if line.startswith("reserve")).endswith("assumed")


def test_every_number_says_where_it_is_from() -> None:
    job, config = job_of(*THIRTY_TWO), configured(*THIRTY_TWO)
    found = estimate(job, config.efficiency)
    moved = traffic(job)
    for text in (
        table.memory_table(job, memory(job)),
        table.time_table(found),
        table.traffic_table(job, moved, config.efficiency),
        table.totals_table(job, found),
    ):
        for line in text.splitlines():
            if any(character.isdigit() for character in line) and not line.startswith(("memory", "total  ", " " * 12)):
                assert any(known in line for known in KNOWN), line


def test_the_table_adds_up() -> None:
    found = estimate(job_of(*SEVEN), configured(*SEVEN).efficiency)
    text = table.time_table(found)
    for phase in found.phases:
        assert f"{phase.total:.2f}" in text
    assert sum(phase.total for phase in found.phases) == pytest.approx(found.step_s)


def test_the_ranking_names_the_words_of_a_layout() -> None:
    layout = Layout(4, 2, 4, "full", 8192, 12.34, 50e9, is_current=True)
    text = table.ranking_table(Ranking((layout,), 9, None), show=3)
    assert "1 of 9 layouts fit" in text and "12.3" in text and "as configured" in text
    behind = Ranking((Layout(1, 1, 8, "none", 4096, 9.9, 40e9, is_current=False), layout), 9, None)
    assert "as configured" in table.ranking_table(behind, show=1)
    assert table.layout_words(layout) == (
        "actor.tensor_parallel=4 actor.pipeline_parallel=2 actor.sequence_parallel=true actor.recompute=full "
        "micro_batch_tokens=8192"
    )


@pytest.mark.parametrize("name", ["plan.png", "plan.svg"])
def test_the_picture_is_written(name: str, tmp_path: Path) -> None:
    job = job_of(*THIRTY_TWO)
    path = tmp_path / name
    check_picture(str(path))
    draw(path, job, memory(job), estimate(job, configured(*THIRTY_TWO).efficiency))
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml") and len(content) > 5000
    if name.endswith("svg"):
        for part in ("h100: 84.8 GB", "weights", "decode: KV cache", "pipeline bubble"):
            assert part in content.decode()
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_the_picture_of_cpus_has_memory_alone(tmp_path: Path) -> None:
    job = job_of("model=tiny", "gpu=cpu", "nodes.gpus_per_node=2")
    draw(tmp_path / "plan.svg", job, memory(job), None)
    assert "seconds by phase" not in (tmp_path / "plan.svg").read_text("utf-8")


def test_another_kind_of_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"picture=plan\.pdf is not allowed: the name ends in \.png or \.svg"):
        check_picture("plan.pdf")
