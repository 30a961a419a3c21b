"""What an evaluation keeps while it is under way, and who may go on with it; in this process, without servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import Oracle, PlainJudge, asked, row
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_RESUMABLE, ConfigError, StoppedEarly, UserError
from recipes import evaluate as command
from recipes.evaluation import record
from recipes.evaluation.answers import Answer, never
from recipes.evaluation.folder import ANSWERS, IDENTITY
from recipes.evaluation.judging import sample
from recipes.evaluation.questions import QuestionSet
from recipes.evaluation.record import Record, key_of
from recipes.evaluation.run import fitting
from reward_server.client import RewardUnavailable
from reward_server.verdicts import Verdict

FACTS = {"quiz": {"absent": None, "pool_sha256": "p"}}
VERDICT = Verdict("0", 1.0, 1, 1, "A", "correct", 0.5)


def questions(count: int = 5, *more: Any) -> QuestionSet:
    return QuestionSet((*(asked(row(number, gold="ABCD"[number % 4])) for number in range(count)), *more), FACTS)


def config(out: Path, **values: Any) -> EvalConfig:
    return EvalConfig(**{"checkpoint": "c", "data": "d", "out": str(out), "runs": 2, **values})


def evaluated(
    out: Path, oracle: Oracle, asked_set: QuestionSet | None = None, judge: PlainJudge | None = None, **values: Any
) -> dict[str, Any]:
    """One start of an evaluation, as the command makes it but for its processes."""
    out.mkdir(exist_ok=True)
    wanted = config(out, **values)
    record.check_folder(out, wanted)
    return command.evaluate_into(out, wanted, asked_set or questions(), oracle, judge or PlainJudge(), never)


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("samples.jsonl", "summary.json", IDENTITY)}


def line(number: int, run: int = 0, text: str = "x") -> dict[str, Any]:
    return sample(asked(row(number)), run, Answer(text, 3, "stop"), VERDICT, VERDICT)


@given(st.lists(st.text(), min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=40)
def test_a_torn_record_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str], data) -> None:
    folder = tmp_path_factory.mktemp("record")
    lines = [line(number, text=text) for number, text in enumerate(texts)]
    with Record(folder) as one:
        one.add(lines[:1])
        one.add(lines[1:])
    whole = (folder / ANSWERS).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / ANSWERS).write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    with Record(folder) as one:
        assert list(one.done) == [key_of(each) for each in lines[:kept]]
        one.add(lines[kept:])
        order = [key_of(each) for each in reversed(lines)]
        assert list(one.samples(order)) == lines[::-1]
    assert (folder / ANSWERS).read_bytes() == whole


@pytest.mark.parametrize("stop_after", [0, 1, 4, 9])
def test_a_stopped_evaluation_goes_on_to_the_same_files(tmp_path: Path, stop_after: int) -> None:
    straight = evaluated(tmp_path / "straight", Oracle(["quiz-2"]))
    assert straight["accuracy"] == pytest.approx(0.8) and straight["accuracy_by_run"] == [0.8, 0.8]
    first, second = Oracle(["quiz-2"], stop_after), Oracle(["quiz-2"])
    out = tmp_path / "stopped"
    with pytest.raises(StoppedEarly, match=rf"{stop_after} of 10 answers are kept in .*resume=true"):
        evaluated(out, first)
    assert evaluated(out, second, resume=True) == straight
    assert len(first.asked_for) == stop_after and not set(first.asked_for) & set(second.asked_for)
    assert files(out) == files(tmp_path / "straight")
    assert not (out / ANSWERS).exists()


@pytest.mark.parametrize(("failure", "code"), [(StoppedEarly("gone."), EXIT_RESUMABLE), (UserError("refused."), 1)])
def test_answers_given_before_a_failure_are_kept(tmp_path: Path, failure: UserError, code: int) -> None:
    with pytest.raises(UserError, match=str(failure)) as caught:
        evaluated(tmp_path / "e", Oracle(stop_after=3, failure=failure))
    assert caught.value.exit_code == code
    second = Oracle()
    evaluated(tmp_path / "e", second, resume=True)
    assert len(second.asked_for) == 7


def test_a_judge_that_is_gone_stops_it_resumable(tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly, match="nobody there. 0 of 10 answers are kept") as caught:
        evaluated(tmp_path / "e", Oracle(), judge=PlainJudge(RewardUnavailable("nobody there.")))
    assert caught.value.exit_code == EXIT_RESUMABLE
    evaluated(tmp_path / "e", Oracle(), resume=True)


def test_what_cannot_be_judged_is_in_no_mean(tmp_path: Path) -> None:
    summary = evaluated(tmp_path / "e", Oracle(["quiz-0"]), questions(4, asked(row(9, gold="?"))))
    assert (summary["questions"], summary["invalid"], summary["bad_gold"]) == (5, 2, ["quiz-9"])
    assert summary["accuracy"] == summary["answer_accuracy"] == 0.75
    line = json.loads((tmp_path / "e" / "samples.jsonl").read_text().splitlines()[-1])
    assert line["verdict"]["reward"] is line["verdict"]["accuracy"] is line["answer_accuracy"] is None


def test_overlong_questions_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longest = row(10, source="a quiz with a long name")
    summary = evaluated(tmp_path / "e", Oracle(), questions(3, asked(longest)), max_prompt_tokens=20)
    assert summary["questions"] == 3
    assert summary["facts"]["too_long"] == 1 and summary["facts"]["too_long_by_benchmark"] == {longest.source: 1}
    assert f"1 of 1 questions of {longest.source} are longer than max_prompt_tokens=20" in capsys.readouterr().err
    with pytest.raises(UserError, match="max_prompt_tokens=3"):
        fitting(questions().asked, Oracle(), 3)


def test_a_private_question_is_not_written_down(tmp_path: Path) -> None:
    secret = asked(row(1, source="private"), private=True)
    evaluated(tmp_path / "e", Oracle(), questions(1, secret), runs=1)
    shown, hidden = map(json.loads, (tmp_path / "e" / "samples.jsonl").read_text().splitlines())
    assert shown["question"] == "Question 0 of quiz?" and shown["options"] and shown["ground_truth"] == ["A"]
    assert hidden["private"] and hidden["id"] == "private-1"
    assert hidden["question"] is hidden["options"] is hidden["ground_truth"] is None
    assert "Question 1 of private" not in "".join(path.read_text() for path in (tmp_path / "e").iterdir())


def test_the_lines_hold_no_times(tmp_path: Path) -> None:
    evaluated(tmp_path / "e", Oracle())
    text = "".join((tmp_path / "e" / name).read_text() for name in ("samples.jsonl", "summary.json"))
    assert "elapsed" not in text and "seconds" not in text


def test_a_finished_evaluation_is_not_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "e"
    evaluated(out, Oracle())
    assert record.is_finished(out)
    with pytest.raises(ConfigError, match=r"already holds this evaluation\. Add resume=true"):
        record.check_folder(out, config(out))
    record.check_folder(out, config(out, resume=True))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not an evaluation .it holds thesis.tex"):
        record.check_folder(tmp_path, config(tmp_path))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"data": "other"}, "data was d, now other"),
        ({"runs": 3}, "runs was 2, now 3"),
        ({"temperature": 1.0}, "temperature was 0.0, now 1.0"),
        ({"limit": 3}, "limit was null, now 3"),
    ],
)
def test_another_config_is_refused(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    with pytest.raises(StoppedEarly):
        evaluated(tmp_path / "e", Oracle(stop_after=2))
    with pytest.raises(ConfigError, match=says):
        record.check_folder(tmp_path / "e", config(tmp_path / "e", resume=True, **values))
    moved = config(tmp_path / "e", resume=True, threads=3)
    moved.request.concurrency, moved.reward.url = 5, ["http://elsewhere:1"]
    record.check_folder(tmp_path / "e", moved)


def test_other_questions_model_or_rules_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "e"
    with pytest.raises(StoppedEarly):
        evaluated(out, Oracle(stop_after=2))
    before = questions().sha256
    after = questions(6)
    with pytest.raises(ConfigError, match=f"questions of .* was {before}, now it is {after.sha256}"):
        evaluated(out, Oracle(), after, resume=True)
    other = Oracle()
    other.name = "another"
    with pytest.raises(ConfigError, match=r"answerer\.name of .* was oracle, now it is another"):
        evaluated(out, other, resume=True)
    judge = PlainJudge()
    judge.rules_info = lambda patience_s=None: {"rules_hash": "new", "match": "equivalent", "shaping": None}
    with pytest.raises(ConfigError, match="rules_hash of .* was plain, now it is new"):
        evaluated(out, Oracle(), judge=judge, resume=True)
    evaluated(out, Oracle(), resume=True)


def test_the_same_model_may_be_served_elsewhere(tmp_path: Path) -> None:
    wanted = config(tmp_path, checkpoint=None, endpoint="http://a:1/v1")
    record.claim(tmp_path, wanted, {"answerer": {"endpoint": "http://a:1/v1", "model": "m"}})
    moved = config(tmp_path, checkpoint=None, endpoint="http://b:1/v1", resume=True)
    record.check_folder(tmp_path, moved)
    record.check_identity(tmp_path, {"answerer": {"endpoint": "http://b:1/v1", "model": "m"}})
    with pytest.raises(ConfigError, match=r"answerer\.model of .* was m, now it is n"):
        record.check_identity(tmp_path, {"answerer": {"endpoint": "http://a:1/v1", "model": "n"}})


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    wanted = config(tmp_path)
    wanted.request.token, wanted.reward.token = "s3cret", "@/keys/reward"
    record.claim(tmp_path, wanted, {})
    text = (tmp_path / record.CONFIG).read_text()
    assert "s3cret" not in text and "@/keys/reward" in text
    assert wanted.request.token == "s3cret"
