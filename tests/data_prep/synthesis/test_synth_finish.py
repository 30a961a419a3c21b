"""The end of a run: duplicates and benchmark questions go; what the statistics of the stages say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")

from conf.prep import DedupConfig
from conf.synth import SynthConfig
from data_prep.decontaminate import Index
from data_prep.rows import Question
from data_prep.sources import SOURCES
from data_prep.synthesis import finish
from data_prep.synthesis.finish import CONTAMINATED, Rows, keep, letters
from data_prep.synthesis.stages import check_yield
from data_prep.synthesis.yields import barren, finished, read_yields

pytestmark = pytest.mark.timeout(60)

QUESTION = "Which of the rivers that flow through the old town of {} was the first to be bridged in stone?"
OPTIONS = ("the northern one", "the southern one", "the one in the middle", "the smallest one")


def row(question: str, options: Sequence[str] = OPTIONS, right: int = 0) -> dict[str, Any]:
    """In the schema of Syn-QA, as `items.syn_qa_row` makes it."""
    text = "\n".join([question, *(f"{label}: {one}" for label, one in zip("ABCD", options, strict=True))])
    truth = f"{'ABCD'[right]}: {options[right]}"
    return {
        "data_source": "x",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": truth},
        "meta_data": {"question": text},
    }


def problem(question: str, answer: str) -> dict[str, Any]:
    """In the schema of PersonaSkill-MATH."""
    return {
        "data_source": "x",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"ground_truth": answer},
        "meta_data": {"question": question},
    }


def reasons(
    rows: Sequence[dict[str, Any]], name: str = "syn_qa", index: Index | None = None, **dedup: Any
) -> list[str | None]:
    config = SynthConfig(out="x", dedup=DedupConfig(**dedup))
    return [reason for _, reason, _ in keep(iter(rows), name, index, config)]


@pytest.mark.parametrize("batch", [1, 2, 1024])
def test_the_first_of_equal_questions_stays(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "BATCH", batch)
    turned = row(QUESTION.format("Rome"), OPTIONS[::-1], right=3)
    other = row(QUESTION.format("Rome"), (*OPTIONS[:3], "none that is known"))
    rows = [row(QUESTION.format("Rome")), row(QUESTION.format("Bath")), turned, other, row(QUESTION.format("Rome"))]
    assert reasons(rows) == [None, None, "exact_duplicate", None, "exact_duplicate"]
    assert reasons(rows, exact=False) == [None] * 5


def test_problems_that_differ_in_a_number_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A baker packs {} loaves into each box and sells seven boxes. How many loaves does she sell in all?"
    rows = [problem(text.format(3), "21"), problem(text.format(4), "28"), problem(text.format(3), "21")]
    assert reasons(rows, "personaskill_math") == [None, None, "exact_duplicate"]


@pytest.mark.parametrize("batch", [1, 1024])
def test_near_duplicates_go_on_request(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "BATCH", batch)
    long = " ".join(f"The part numbered {number} is kept in box {number * 7}." for number in range(40))
    rows = [row(f"{long} Where is part nine?"), row(f"{long} Where is part ten?"), row(QUESTION.format("Rome"))]
    assert reasons(rows) == [None] * 3
    assert reasons(rows, near=True) == [None, "near_duplicate", None]


def benchmark(name: str, question: str) -> Index:
    item = Question("x", "gpr", "mcq", question, tuple(zip("ABCD", OPTIONS, strict=True)))
    return Index.build([(name, "file:1", item)], 0.5)


def test_questions_of_a_benchmark_go_and_are_told() -> None:
    config = SynthConfig(out="x")
    rows = [row(QUESTION.format("Bath")), row(QUESTION.format("Rome")), row(QUESTION.format("Rome"))]
    index = benchmark("mmlu_test", QUESTION.format("Rome"))
    found = list(keep(iter(rows), "syn_qa", index, config))
    assert [reason for _, reason, _ in found] == [None, "in_mmlu_test", "in_mmlu_test"]
    facts = found[1][2]
    assert facts is not None
    assert facts["benchmarks"] == ["mmlu_test"] and facts["item"] == "file:1"
    assert facts["question"] == rows[1]["meta_data"]["question"]


def test_a_private_benchmark_is_not_quoted() -> None:
    question = QUESTION.format("Rome")
    (found,) = keep(iter([row(question)]), "syn_qa", benchmark("gpqa_diamond", question), SynthConfig(out="x"))
    _, reason, facts = found
    assert reason == "in_gpqa_diamond"
    assert "Rome" not in json.dumps(facts) and "river" not in json.dumps(facts)


def test_rows_are_written_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    cities = ["Rome", "Bath", "Bonn", "Rome", "Oslo"]
    for task, names in ((1, cities[2:]), (0, cities[:2])):
        lines = [json.dumps({"text": "", "id": "0", "metadata": {"row": row(QUESTION.format(name))}}) for name in names]
        (work / f"{task:05d}.jsonl").write_text("\n".join(lines) + "\n")
    step = Rows(SynthConfig(out=str(out)), str(work))
    assert list(step.run(None, 0, 1)) == []
    written = [json.loads(line) for line in (out / "syn_qa.jsonl").read_text().splitlines()]
    assert written == [row(QUESTION.format(name)) for name in ("Rome", "Bath", "Bonn", "Oslo")]
    assert (out / CONTAMINATED).read_text() == "" and json.loads((out / "benchmarks.json").read_text()) == {}
    assert step.stats.stats["dropped_exact_duplicate"].total == 1
    assert all(SOURCES["syn_qa"].parse(one).gold_label == "A" for one in written)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "00000.jsonl").write_text(json.dumps({"metadata": {"row": row(QUESTION.format("Rome"))}}) + "\n{broken")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError):
        list(Rows(SynthConfig(out=str(out)), str(tmp_path)).run(None, 0, 1))
    assert not list(out.iterdir())


def test_labels_are_counted(tmp_path: Path) -> None:
    rows = [row(QUESTION.format(at), right=right) for at, right in enumerate([0, 2, 2, 3])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert letters(tmp_path / "rows.jsonl") == Counter({"C": 2, "A": 1, "D": 1})


def stats(logs: Path, task: int, *steps: tuple[str, dict[str, Any]]) -> None:
    """A task's statistics as datatrove writes them."""
    for folder in ("stats", "completions"):
        (logs / folder).mkdir(parents=True, exist_ok=True)
    found = [{"name": f"🔻 - FILTER: {name}", "time_stats": {}, "stats": counts} for name, counts in steps]
    (logs / "stats" / f"{task:05d}.json").write_text(json.dumps(found))
    (logs / "completions" / f"{task:05d}").touch()


def test_yields_are_summed_over_tasks(tmp_path: Path) -> None:
    lengths = {"doc_len": {"total": 900, "mean": 300}}
    first = {"total": 5, "forwarded": 3, "dropped": 2, "dropped_short": 1, "dropped_odd": 1, **lengths}
    second = {"total": {"total": 4, "unit": "task"}, "forwarded": 4, "dropped_short": 0, "calls": {"total": 2.5}}
    stats(tmp_path, 0, ("Guard", {}), ("Some filter", first))
    stats(tmp_path, 1, ("Guard", {}), ("Some filter", second))
    (found,) = read_yields(tmp_path)
    assert (found.step, found.taken, found.given) == ("Some filter", 9, 7)
    assert found.dropped == {"short": 1, "odd": 1}
    assert found.other == {"calls": 2.5}
    assert finished(tmp_path, 2) and not finished(tmp_path, 3)
    assert barren([found]) is None and check_yield(tmp_path) is None


def test_the_first_step_that_lets_nothing_through_is_named(tmp_path: Path) -> None:
    logs = tmp_path / "pages"
    late = {"total": 6, "dropped": 6, "dropped_late": 5, "dropped_odd": 1}
    stats(logs, 0, ("Reader", {"total": 6, "forwarded": 6}), ("Late", late), ("Next", {}), ("Writer", {"total": 0}))
    assert check_yield(logs) == "Stage pages, step Late: none of 6 documents is left (late 5, odd 1)."
    stats(
        logs,
        1,
        ("Reader", {"total": 1, "forwarded": 1}),
        ("Late", {"total": 1, "forwarded": 1}),
        ("Writer", {"total": 1}),
    )
    assert check_yield(logs) is None


def test_a_stage_that_was_given_nothing_is_not_blamed(tmp_path: Path) -> None:
    stats(tmp_path, 0, ("Reader", {"input_files": 1}))
    assert read_yields(tmp_path) == [] and check_yield(tmp_path) is None
