"""`benchmarks/step.py` in miniature: our worker runs the loop, and turns are taken."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import step
import step_turns
import step_workers
from step_workers import Case, Model, WorkerError, model_folder, started, take_turns

HERE = Path(step.__file__).parent
SMALL = Model("small", hidden=32, mlp=64, layers=1)


@pytest.fixture(scope="module")
def folder():
    with model_folder(SMALL) as made:
        yield made


def case(**changes) -> Case:
    """Two prompts, two samples each, six tokens a response."""
    fields = {"prompts": 2, "group": 2, "response_tokens": 6, "prompt_tokens": 5, "micro_batch": 2}
    return Case(SMALL, **(fields | {"generation_batch": 4, "threads": 1} | changes))


def test_a_worker_runs_the_loop(folder):
    """The worker itself insists that every response has its full length."""
    with started("ours", case(kl=0.001), folder) as worker:
        (found,) = take_turns([worker], turns=1, steps=2)
        (first, second), peak = worker.turn(2)
    assert worker.process.returncode == 0
    assert all(found[phase] > 0 for phase in (*step.PHASES, "total"))
    for one in (first, second):
        phases = sum(seconds for phase, seconds in one.items() if phase != "total")
        assert phases == pytest.approx(one["total"], rel=1e-6)
    assert 50 < found["peak_mb"] <= peak


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from step_turns import Turns
turns, number = Turns(), 0
print("not an answer")
while turns.go_on({{"total": float(number)}} if number else None):
    number += 1
    if number == 8:
        raise RuntimeError("tired")
"""


def test_workers_take_turns_until_one_dies(tmp_path, monkeypatch):
    """The first step warms up, the medians are of the others; a dead worker's last words are shown."""
    (tmp_path / "step_ours.py").write_text(SCRIPT.format(here=str(HERE)))
    monkeypatch.setattr(step_workers, "HERE", tmp_path)
    with started("ours", case(), tmp_path) as one, started("ours", case(), tmp_path) as other:
        found = take_turns([one, other], turns=2, steps=2)
        assert [result["total"] for result in found] == [3.5, 3.5]
        assert one.turn(1)[0] == [{"total": 6.0}]
        with pytest.raises(WorkerError, match=r"(?s)step_ours.py ended.*tired"):
            one.turn(2)
    assert (one.process.returncode, other.process.returncode) == (1, 0)


STEADY = """
import json, sys
sys.path.insert(0, {here!r})
from step_turns import Turns
case, turns, seconds = json.loads(sys.argv[1]), Turns(), None
while turns.go_on(seconds):
    seconds = {{"training": 1.0, "total": float(case["prompts"]) ** {power}}}
"""


@pytest.mark.parametrize(("power", "kept"), [(1.0, True), (0.95, True), (1.2, False), (0.8, False)])
def test_growth_is_the_slope_of_the_logarithms(power, kept, tmp_path, monkeypatch, capsys):
    (tmp_path / "step_ours.py").write_text(STEADY.format(here=str(HERE), power=power))
    monkeypatch.setattr(step_workers, "HERE", tmp_path)
    assert step.growth([case(prompts=prompts) for prompts in (2, 4, 8)], turns=1) == kept
    out = capsys.readouterr().out
    assert f"Slope {power:.2f};" in out
    assert f"| 88 | 1.000 | {4**power:.3f} | {88 / 4**power:.0f} |" in out


def test_prompts_are_of_one_length():
    from transformers import AutoTokenizer

    with model_folder(SMALL) as made:
        tokenizer = AutoTokenizer.from_pretrained(made)
    lengths = {len(ids) for ids in tokenizer(case().texts())["input_ids"]}
    assert lengths == {5}
    assert case().tokens == 2 * 2 * (5 + 6)


def test_a_stopwatch_gives_the_rest_its_name():
    watch = step_turns.Stopwatch()
    for _ in range(2):
        with watch.phase("generation"):
            pass
    seconds = watch.finish("training")
    assert list(seconds) == ["generation", "training", "total"]
    assert seconds["generation"] + seconds["training"] == pytest.approx(seconds["total"])


def test_rows(capsys):
    ours = {"generation": 1.0, "training": 2.0, "log-probs": 0.0, "refit": 0.5, "total": 3.5, "peak_mb": 100.0}
    trl = {"generation": 1.5, "training": 1.0, "total": 2.8, "peak_mb": 150.0}
    step.print_case(case(prompts=7), "ours", ours)
    step.print_ratios(ours, trl)
    assert capsys.readouterr().out.splitlines() == [
        "| small | 7 × 2 | 6 | – | CrossThink | 2 | 4.0 | 1.000 | – | 2.000 | 0.500 | 3.500 | 100 |",
        "| | | | | TRL / CrossThink | | 0.80 | 1.50 | – | 0.50 | – | 0.80 | 1.50 |",
    ]


def test_padding_reaches_its_target(capsys):
    assert step.padding()
    assert "16384" in capsys.readouterr().out
