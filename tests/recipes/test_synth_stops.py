"""`crossthink synth` that is refused, fails or stops: it says why and where, and goes on where it can."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")
from synth_brain import BRAIN, SHARES
from synth_endpoint import DOWN, synth_endpoint
from synth_helpers import MATH_FILE, foretold, heard, math_words, qa_words, rows_of, words
from synth_world import articles, foreign, warc
from train_helpers import crossthink, succeed

from crossthink.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE
from crossthink.procs import free_port
from data_prep.synthesis.prompts import PROMPTS_FOLDER
from recipes import cli

pytestmark = pytest.mark.timeout(600)

NOWHERE = "http://127.0.0.1:9/v1"
PROBLEMS = 24


def crawl_of(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.warc.gz").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["kind=qa"], "crawl.path= is required"),
        (["kind=code"], "kind=code is not allowed. Allowed: qa, math."),
        (["kind=maht"], "Did you mean 'math'?"),
        (["kind=math", "writer.endpoint=null"], "writer.endpoint= is required"),
        (["kind=math", "solver.endpoint=ftp://here"], "solver.endpoint=ftp://here is no address"),
        (["kind=math", "writer.token=@{folder}/no-key"], "writer.token"),
        (["kind=math", "vote.threshold=0"], "vote.threshold=0.0 is not allowed"),
        (["kind=math", "solver.budget.tokens=-1"], "solver.budget.tokens=-1 must be 0 or more"),
        (["kind=math", "vote.least_valid=6"], "vote.least_valid=6 is not allowed. Allowed: 1 to 5."),
        (["kind=math", "tasks=0"], "tasks=0 is not allowed"),
        (["kind=math", "problems=100000"], "100000 problems are asked for"),
        (["kind=math", "personas={folder}/nobody.txt"], "personas={folder}/nobody.txt cannot be read"),
        (["kind=math", "prompts={folder}/prompts"], "Prompt file {folder}/prompts/solution_math.txt is missing"),
        (["kind=math", "prompts={folder}/none"], "prompts={folder}/none is not a folder"),
        (["kind=qa", "crawl.path={folder}", "subjects.file={folder}/none.yaml"], "subjects.file={folder}/none.yaml"),
        (["kind=qa", "crawl.path={folder}", "subjects.router=embedding"], "needs embeddings.endpoint="),
        (["kind=qa", "crawl.path=http://x", "crawl.paths_file={folder}/none"], "crawl.paths_file={folder}/none is not"),
        (["kind=qa", "crawl.path={folder}", "decontaminate.path={folder}/none"], "none"),
        (["kind=math", "writer.budget.cost=1"], "writer.budget.cost=1.0 needs the prices"),
        (["kind=math", "votes.solutions=3"], "votes"),
    ],
)
def test_an_impossible_configuration_is_refused_before_anything_starts(
    given: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PROMPTS_FOLDER, tmp_path / "prompts")
    (tmp_path / "prompts" / "solution_math.txt").unlink()
    given = [word.replace("{folder}", str(tmp_path)) for word in given]
    out = tmp_path / "out"
    assert cli.main(words(out, NOWHERE, *given)) == EXIT_USAGE
    assert said.replace("{folder}", str(tmp_path)) in capfd.readouterr().err
    assert not out.exists()


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "notes.txt").write_text("no archive")
    done = crossthink(*qa_words(tmp_path / "out", NOWHERE, tmp_path / "crawl"))
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "No files found" in done.stderr and str(tmp_path / "crawl") in done.stderr
    assert "Stage pages failed" in done.stderr and "Traceback" not in done.stderr


def test_a_step_that_lets_nothing_through_stops_the_run(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path / "crawl", a=warc(foreign(4)), b=warc(foreign(6)))
    done = crossthink(*qa_words(tmp_path / "out", NOWHERE, crawl))
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "Stage pages, step Language: none of 10 documents is left (other_language 10)." in done.stderr
    assert not (tmp_path / "out" / "logs" / "signatures").exists()
    again = crossthink(*qa_words(tmp_path / "out", NOWHERE, crawl, "resume=true"))
    assert again.returncode == EXIT_FAILED and "step Language" in again.stderr


@pytest.mark.slow
def test_pages_without_a_single_question_stop_the_run(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path / "crawl", a=warc(articles(4)))
    with synth_endpoint(tmp_path, brain=BRAIN, shares={"draft_mcq": {"prose": 1.0}, "*": {}}) as server:
        done = crossthink(*qa_words(tmp_path / "out", server.url, crawl))
        assert done.returncode == EXIT_FAILED, done.stderr
        said = "Stage questions, step Questions and votes: none of 4 documents is left (written_prose 4)."
        assert said in done.stderr
        assert len(server.lines()) == 2 * 4
    assert not (tmp_path / "out" / "syn_qa.jsonl").exists()


def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    done = crossthink(*math_words(tmp_path / "out", url, 3))
    assert done.returncode == EXIT_FAILED, done.stderr
    assert f"writer.endpoint={url} cannot be reached" in done.stderr and "Traceback" not in done.stderr


def test_an_endpoint_that_refuses_everybody(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, brain=BRAIN, key="secret-key") as server:
        named = ["writer.model=small", "solver.model=small"]
        done = crossthink(*math_words(tmp_path / "out", server.url, 3, *named, "writer.token=secret-kye"))
        assert done.returncode == EXIT_FAILED, done.stderr
        assert "refused (401)" in done.stderr and "writer.token=@FILE" in done.stderr
        given = ["writer.token=secret-key", "solver.token=secret-key", "resume=true"]
        succeed(*math_words(tmp_path / "out", server.url, 3, *named, *given))
    assert "secret-key" not in (tmp_path / "out" / "card.html").read_text()


@pytest.mark.slow
def test_an_endpoint_that_is_down_for_good(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, brain=BRAIN, shares={DOWN: 1.0}) as server:
        done = crossthink(*math_words(tmp_path / "out", server.url, 3))
        assert done.returncode == EXIT_RESUMABLE, done.stderr
        assert "did not answer in 2 tries" in done.stderr and "resume=true" in done.stderr


@pytest.mark.slow
def test_an_endpoint_that_dies_is_waited_for_elsewhere(tmp_path: Path) -> None:
    """Its successor may stand at another address: it is asked for what was not answered, and the rows are the same."""
    out = tmp_path / "out"
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES, dies_after=60) as first:
        done = crossthink(*math_words(out, first.url, PROBLEMS))
        assert done.returncode == EXIT_RESUMABLE, done.stderr
        assert (
            ".endpoint=" in done.stderr and "did not answer in 2 tries" in done.stderr and "resume=true" in done.stderr
        )
        assert not (out / MATH_FILE).exists()
        asked = heard(first)
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES) as second:
        succeed(*math_words(out, second.url, PROBLEMS, "resume=true"))
        again = heard(second)
        expected = foretold(out, SHARES)
        assert [row["meta_data"]["question"] for row in rows_of(out / MATH_FILE)] == [
            row.stem for row in expected.rows.values()
        ]
    assert set(asked) | set(again) == set(expected.lines)
    # What was asked twice was under way when the first one died: two tasks, each with 16 calls of either sort.
    assert len(set(asked) & set(again)) <= 2 * 2 * 16


@pytest.mark.slow
def test_a_budget_is_never_passed_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    whole, limited = tmp_path / "whole", tmp_path / "limited"
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES) as server:
        succeed(*math_words(whole, server.url, PROBLEMS))
        calls = heard(server)
        small = math_words(limited, server.url, PROBLEMS, "solver.budget.tokens=4000")
        done = crossthink(*small)
        assert done.returncode == EXIT_RESUMABLE, done.stderr
        assert "solver.budget.tokens=2000: " in done.stderr and "resume=true" in done.stderr
        assert "(each of 2 tasks has its even share of what you gave)" in done.stderr
        again = crossthink(*small, "resume=true")
        assert again.returncode == EXIT_RESUMABLE, again.stderr
        tokens = [spent(limited / "answers" / f"0000{task}.sqlite", "solution") for task in (0, 1)]
        assert all(0 < one <= 2000 for one in tokens)
        before = len(server.lines())
        succeed(*math_words(limited, server.url, PROBLEMS, "solver.budget.tokens=4000000", "resume=true"))
        assert len(server.lines()) > before
        twice = heard(server)
    assert (limited / MATH_FILE).read_bytes() == (whole / MATH_FILE).read_bytes()
    # The second run asked for everything once; an endpoint that is busy with a request is so only the first time.
    assert set(twice) == set(calls)
    assert not {key: count for key, count in twice.items() if count - calls[key] != 1}


def spent(store: Path, purpose: str) -> int:
    """Tokens that the calls of a purpose took."""
    from data_prep.synthesis.calls.store import AnswerStore

    with AnswerStore(store) as answers:
        return answers.spent()[purpose].tokens


def test_an_estimate_before_the_first_call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prices = ["solver.budget.price_prompt=1", "solver.budget.price_completion=2"]
    assert cli.main([*math_words(out, NOWHERE, 100, *prices), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "100 problems" in said and "500" in said and "100,000" in said  # solutions, and their tokens at most
    assert not out.exists()
