"""`crossthink synth` from end to end: a crawl, a real HTTP endpoint, and rows that `crossthink prep` takes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")
from synth_brain import BRAIN, FLAWS, LATER, SHARES, person_of, question_of
from synth_endpoint import LATE, RIGHT, Running, synth_endpoint
from synth_foretold import Expected
from synth_helpers import MATH_FILE, QA_FILE, foretold, heard, math_words, qa_words, rows_of, yields_of
from synth_world import DUPLICATE, KEPT, World, crawl, record_id
from train_helpers import crossthink, succeed

from data_prep.sources.syn_qa import SOURCE as SYN_QA
from data_prep.synthesis.prompts import load_prompts

pytestmark = pytest.mark.timeout(600)

PROBLEMS = 40
PAGES = {"not_found", "not_html", "empty", "too_large", "broken_record"}
"""Fates of records by the step that decides them: these by the reader, the others as below."""
BY_STEP = {
    "WARC and WET": PAGES,
    "Trafilatura": {"no_text"},
    "Language": {"other_language"},
    "👯 Gopher Repetition": {"top_2_gram"},
    "🥇 Gopher Quality": {"gopher_short_doc", "gopher_too_many_bullets"},
}


@dataclass(frozen=True)
class Finished:
    """A finished run, its words but for `out`, the endpoint that it asked and what was to be expected of it."""

    out: Path
    words: list[str]
    server: Running
    expected: Expected
    planted: frozenset[str] = frozenset()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return rows_of(self.out / name)

    def again(self, out: Path, *more: str) -> list[str]:
        return [f"out={out}" if word.startswith("out=") else word for word in self.words] + list(more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return crawl(tmp_path_factory.mktemp("synth") / "crawl")


@pytest.fixture(scope="module")
def qa(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Pages to questions; a benchmark holds the questions about every tenth article."""
    root = tmp_path_factory.mktemp("qa")
    planted = [record.thing for record in world.records if record.thing][::10]
    (root / "benchmarks").mkdir()
    with (root / "benchmarks" / "mmlu_test.jsonl").open("w") as file:
        for question in (question_of(thing, RIGHT) for thing in planted):
            row = {"question": question["question"], "choices": question["options"], "answer": 0, "subject": "x"}
            file.write(json.dumps(row) + "\n")
    with synth_endpoint(root, brain=BRAIN, shares=LATER, late_s=14.0) as server:
        patience = ["writer.deadline_s=12", "solver.deadline_s=12"]
        checked = f"decontaminate.path={root / 'benchmarks'}"
        words = qa_words(root / "out", server.url, world.folder, *patience, checked)
        succeed(*words, limit_s=500)
        yield Finished(root / "out", words, server, foretold(root / "out", LATER, world), frozenset(planted))


@pytest.fixture(scope="module")
def math(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Problems for personas."""
    root = tmp_path_factory.mktemp("math")
    with synth_endpoint(root, brain=BRAIN, shares=SHARES) as server:
        words = math_words(root / "out", server.url, PROBLEMS)
        succeed(*words, limit_s=300)
        yield Finished(root / "out", words, server, foretold(root / "out", SHARES))


def kept_rows(run: Finished) -> tuple[dict[str, Any], Counter[str]]:
    """What must be left of the expected rows after deduplication and decontamination, and what is dropped of them."""
    kept, dropped, seen = {}, Counter[str](), set[str]()
    for name, row in run.expected.rows.items():
        if row.stem in seen:
            dropped["exact_duplicate"] += 1
        elif any(thing in row.stem for thing in run.planted):
            dropped["in_mmlu_test"] += 1
        else:
            kept[name] = row
            seen.add(row.stem)
    return kept, dropped


def test_pages_are_dropped_where_and_why_they_must_be(qa: Finished, world: World) -> None:
    fates, left = world.fates(), len(world.records)
    steps = yields_of(qa.out, "pages")
    assert list(steps) == list(BY_STEP)
    for name, reasons in BY_STEP.items():
        step, dropped = steps[name], {reason: fates[reason] for reason in reasons}
        assert (step.taken, step.dropped) == (left, dropped), name
        left -= sum(dropped.values())
        assert step.given == left
    assert left == fates[KEPT] + fates[DUPLICATE] + fates["no_subject"]


def test_duplicates_and_pages_without_a_subject_are_dropped(qa: Finished, world: World) -> None:
    fates, steps = world.fates(), yields_of(qa.out, "questions")
    assert list(steps) == ["Duplicates", "Subject", "Questions and votes"]
    assert steps["Duplicates"].dropped == {"near_duplicate": fates[DUPLICATE]}
    assert steps["Subject"].dropped == {"no_subject": fates["no_subject"]}
    assert steps["Subject"].given == steps["Questions and votes"].taken == fates[KEPT]


@pytest.mark.parametrize("kind", ["qa", "math"])
def test_questions_and_votes_are_what_the_shares_imply(kind: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(kind)
    step = yields_of(run.out, "questions")["Questions and votes"]
    assert step.dropped == run.expected.dropped
    assert step.given == len(run.expected.rows) == step.taken - run.expected.dropped.total()
    # The shares are such that this says something.
    assert len(run.expected.rows) >= 15
    assert len([reason for reason in step.dropped if reason.startswith("voted_")]) >= 2
    assert len([reason for reason in step.dropped if reason.startswith("written_")]) >= 3
    assert len([reason for reason in step.dropped if reason.startswith("checked_")]) >= (4 if kind == "qa" else 2)
    assert kind == "math" or (run.expected.outcomes[LATE] and all(run.expected.outcomes[flaw] for flaw in FLAWS))


@pytest.mark.parametrize("kind", ["qa", "math"])
def test_nothing_is_asked_but_what_must_be(kind: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(kind)
    assert heard(run.server) == run.expected.lines
    counted = yields_of(run.out, "questions")["Questions and votes"].other
    calls = counted["question_calls"] + counted["solution_calls"]
    assert calls == run.expected.outcomes.total()
    assert calls + counted["question_tries_again"] + counted["solution_tries_again"] == run.expected.lines.total()


def test_rows_of_pages(qa: Finished, world: World) -> None:
    expected, dropped = kept_rows(qa)
    step = yields_of(qa.out, "rows")["Rows"]
    assert step.dropped == dropped and dropped["in_mmlu_test"]
    rows, records = qa.rows(QA_FILE), {record_id(record.url): record for record in world.records}
    assert [row["meta_data"]["warc_record"] for row in rows] == list(expected)
    prompts = load_prompts(None)
    for row in rows:
        meta = row["meta_data"]
        record, wanted = records[meta["warc_record"]], expected[meta["warc_record"]]
        question = SYN_QA.parse(row)
        assert question.question == wanted.stem and record.thing in wanted.stem
        assert question.gold_text == dict(question.options)[question.gold_label] == wanted.answer
        asked, valid, winning = wanted.votes
        assert meta["votes"] == {"asked": asked, "valid": valid, "winning": winning}
        assert meta["difficulty"] == wanted.difficulty
        assert meta["subject"] == record.subject and meta["subtopic"]
        assert meta["url"] == record.url and record in world.files[meta["crawl_file"]]
        assert meta["prompts"] == {name: getattr(prompts, name).hash for name in ("question_mcq", "solution_mcq")}
        assert meta["models"] == {"question": "small", "solution": "small"}


def test_most_answers_are_right(qa: Finished, world: World) -> None:
    """The vote does what it is for: three of ten solutions are wrong, few rows are."""
    things = {record_id(record.url): record.thing for record in world.records}
    found = [(row["reward_model"]["ground_truth"], things[row["meta_data"]["warc_record"]]) for row in qa.rows(QA_FILE)]
    wrong = [truth for truth, thing in found if not truth.endswith(person_of(thing))]
    assert len(wrong) <= len(found) / 5


def test_benchmark_questions_are_told(qa: Finished) -> None:
    told = rows_of(qa.out / "contaminated.jsonl")
    _, dropped = kept_rows(qa)
    assert len(told) == dropped["in_mmlu_test"]
    assert all(one["benchmarks"] == ["mmlu_test"] for one in told)
    assert all(any(thing in one["question"] for thing in qa.planted) for one in told)


def test_rows_of_pairs(math: Finished) -> None:
    expected, _ = kept_rows(math)
    rows = math.rows(MATH_FILE)
    assert [f"{row['meta_data']['persona']}\n{row['meta_data']['skill']}" for row in rows] == list(expected)
    for row, wanted in zip(rows, expected.values(), strict=True):
        asked, valid, winning = wanted.votes
        assert row["meta_data"]["question"] == row["prompt"][0]["content"] == wanted.stem
        assert row["meta_data"]["votes"] == {"asked": asked, "valid": valid, "winning": winning}
        truth = row["reward_model"]["ground_truth"]
        assert truth in (wanted.answer, rf"\frac{{{2 * int(wanted.answer)}}}{{2}}")
        assert set(row["meta_data"]["prompts"]) == {"problem", "solution_math"}


@pytest.mark.parametrize(("kind", "source"), [("qa", "syn_qa"), ("math", "personaskill_math")])
def test_prep_takes_every_row(kind: str, source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run: Finished = request.getfixturevalue(kind)
    rows = run.out / f"{source}.jsonl"
    succeed("prep", f"out={tmp_path / 'pool'}", f"sources=[{source}]", f"sources.{source}.path={rows}", "workers=1")
    facts = json.loads((tmp_path / "pool" / "manifest.json").read_text())["sources"][source]
    assert not [step for step in facts["steps"] if step["dropped"]]
    assert facts["rows_in"] == facts["rows_out"] == len(rows_of(rows)) > 0


def test_a_summary_tells_of_it(qa: Finished) -> None:
    manifest = json.loads((qa.out / "manifest.json").read_text())
    assert manifest["rows"] == len(qa.rows(QA_FILE)) == sum(manifest["answers_right"].values())
    assert manifest["models"] == {"question": ["small"], "solution": ["small"]}
    assert [step["step"] for step in manifest["stages"]["pages"]] == list(BY_STEP)
    assert manifest["decontaminated_against"]["mmlu_test"]
    card = (qa.out / "card.html").read_text()
    assert all(reason in card for reason in yields_of(qa.out, "questions")["Questions and votes"].dropped)
    assert sum(row["meta_data"]["url"] in card for row in qa.rows(QA_FILE)) >= 5


@pytest.mark.parametrize(("kind", "file"), [("qa", QA_FILE), ("math", MATH_FILE)])
def test_a_finished_run_started_again_does_nothing(kind: str, file: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(kind)
    before, calls = (run.out / file).read_bytes(), len(run.server.lines())
    refused = crossthink(*run.words)
    assert refused.returncode == 2 and "resume=true" in refused.stderr
    done = succeed(*run.words, "resume=true")
    assert "stage " not in done.stderr
    assert (run.out / file).read_bytes() == before and len(run.server.lines()) == calls


def test_what_is_stored_costs_nothing(qa: Finished, tmp_path: Path) -> None:
    """All that comes after the pages is gone but the answers: the same rows come out, and nobody is asked."""
    out = tmp_path / "out"
    shutil.copytree(qa.out, out)
    for gone in ("logs/questions", "logs/rows", "work/questions"):
        shutil.rmtree(out / gone)
    (out / QA_FILE).unlink()
    calls = len(qa.server.lines())
    succeed(*qa.again(out, "resume=true", "workers=1", "documents=3"))
    assert (out / QA_FILE).read_bytes() == (qa.out / QA_FILE).read_bytes()
    assert len(qa.server.lines()) == calls
    counted = yields_of(out, "questions")["Questions and votes"].other
    assert counted["question_calls"] == counted["solution_calls"] == 0


def test_another_config_is_refused(qa: Finished) -> None:
    done = crossthink(*qa.words, "resume=true", "vote.threshold=0.9")
    assert done.returncode == 2 and "vote.threshold was 0.5, now 0.9" in done.stderr
