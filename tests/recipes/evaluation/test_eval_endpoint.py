"""Answers of OpenAI-compatible endpoints: scripted ones in processes of their own, which fail in every way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import asked, counts, endpoint, row

from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_FAILED, EXIT_RESUMABLE, ConfigError, UserError
from recipes.evaluation.answers import Answer, draw_number
from recipes.evaluation.judging import judged
from recipes.evaluation.questions import Asked
from reward_server.local import LocalJudge

pytest.importorskip("openai")
from crossthink import endpoint as module
from crossthink.endpoint import joined
from recipes.evaluation.endpoint import EndpointAnswerer

WANTED = [(asked(row(number)), run) for number in range(6) for run in range(2)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)


def answerer(url: str, temperature: float = 0.0, **request: Any) -> EndpointAnswerer:
    config = EvalConfig(endpoint=url, temperature=temperature, max_response_tokens=50, out="o")
    for name, value in {"retries": 2, "deadline_s": 20.0, "concurrency": 4, **request}.items():
        setattr(config.request, name, value)
    return EndpointAnswerer(config)


def all_answers(one: EndpointAnswerer, wanted: list[tuple[Asked, int]] | None = None) -> dict[int, Answer]:
    one.facts()
    return dict(one.answers(WANTED if wanted is None else wanted))


def refused(url: str, **request: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        all_answers(answerer(url, **request))
    return caught.value


def test_every_question_is_asked_once(tmp_path: Path) -> None:
    replies = {one.row.question: one.row.id for one, _ in WANTED}
    with endpoint(tmp_path, replies=replies, delay_s=0.05) as url:
        one = answerer(url)
        assert one.facts() == {"engine": "endpoint", "endpoint": url, "model": "small"}
        found = all_answers(one)
        assert found == {n: Answer(asked.row.id, 7, "stop") for n, (asked, _) in enumerate(WANTED)}
        told = counts(url)
        assert all_answers(one, []) == {}
    assert told["requests"] == len(WANTED) and 1 < told["most"] <= 4
    for body in told["asked"]:
        assert body["messages"][0] == {"role": "system", "content": "Think."}
        assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"]) == ("small", 0, 50, 1)
        assert "seed" not in body


def test_draws_have_seeds_of_their_own(tmp_path: Path) -> None:
    with endpoint(tmp_path, default="x") as url:
        all_answers(answerer(url, temperature=0.7))
        first = {body["seed"] for body in counts(url)["asked"]}
        all_answers(answerer(url, temperature=0.7))
        both = [body["seed"] for body in counts(url)["asked"]]
    assert len(first) == len(WANTED) and set(both) == first
    assert draw_number(WANTED[0][0]) != draw_number(WANTED[0][0], 0) != draw_number(WANTED[0][0], 1)


@pytest.mark.parametrize("refusals", [[[429, 0.05]], [[503, None], [500, None]], [[408, None], [502, "Fri"]]])
def test_what_may_pass_is_asked_again(tmp_path: Path, refusals: list[Any]) -> None:
    with endpoint(tmp_path, default="x", refusals=refusals) as url:
        assert len(all_answers(answerer(url))) == len(WANTED)
        assert counts(url)["requests"] == len(WANTED) + len(refusals)


@pytest.mark.parametrize(
    ("status", "hint"), [(400, ""), (401, "request.token"), (403, "request.token"), (404, "mostly ends in /v1")]
)
def test_what_is_refused_for_good_ends_it_at_once(tmp_path: Path, status: int, hint: str) -> None:
    with endpoint(tmp_path, default="x", refusals=[[status, None]] * 100) as url:
        error = refused(url)
        assert counts(url)["requests"] <= 4
    assert error.exit_code == EXIT_FAILED
    assert f"endpoint={url} refused ({status}): refused with {status}." in str(error) and hint in str(error)


@pytest.mark.parametrize("script", [{"refusals": [[503, None]] * 100}, {"dies_after": 3}])
def test_an_endpoint_that_is_gone_ends_it_resumable(tmp_path: Path, script: dict[str, Any]) -> None:
    with endpoint(tmp_path, default="x", **script) as url:
        one, found = answerer(url), {}
        one.facts()
        with pytest.raises(UserError, match="did not answer in 3 tries. The last ended with: ") as caught:
            for index, answer in one.answers(WANTED):
                found[index] = answer
    assert caught.value.exit_code == EXIT_RESUMABLE
    assert len(found) <= script.get("dies_after", 0)


def test_a_deadline_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    with endpoint(tmp_path, default="x", delay_s=5) as url:
        error = refused(url, deadline_s=0.2, retries=1)
    assert "did not answer in 2 tries. The last ended with: no answer within request.deadline_s=0.2" in str(error)


def test_whoever_stops_gets_what_has_arrived(tmp_path: Path) -> None:
    stop = threading.Event()
    with endpoint(tmp_path, default="x", delay_s=0.2) as url:
        one = answerer(url, concurrency=1)
        one.facts()
        began, found = time.monotonic(), []
        for index, _ in one.answers(WANTED, stop.is_set):
            found.append(index)
            stop.set()
        assert 1 <= len(found) < len(WANTED) and time.monotonic() - began < 60


def test_reasoning_that_was_split_off_is_joined(tmp_path: Path) -> None:
    for name in ("reasoning_content", "reasoning"):
        with endpoint(tmp_path, default="\n\\boxed{A}", say={name: "so"}) as url:
            assert all_answers(answerer(url))[0].text == "<think>so</think>\n\\boxed{A}"
    with endpoint(tmp_path, say={"reasoning_content": "so", "content": None}, finish_reason="length") as url:
        assert all_answers(answerer(url))[0] == Answer("<think>so", 7, "length", reasoned=True)


def test_an_answer_whose_reasoning_was_joined_is_judged_without_a_prefilled_block(tmp_path: Path) -> None:
    """A server that splits reasoning off, and one that gives the text as it continues the prompt, get the same R."""
    rewards = []
    for script in ({"default": "\\boxed{A}", "say": {"reasoning": "so"}}, {"default": "so</think>\\boxed{A}"}):
        with endpoint(tmp_path, **script) as url, LocalJudge() as judge:
            answer = all_answers(answerer(url))[0]
            (line,) = judged(judge, [(*WANTED[0], answer)], think_prefilled=True)
        rewards.append((line["verdict"]["format"], line["verdict"]["reward"], line["answer_accuracy"]))
    assert rewards == [(1, 1.0, 1.0), (1, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("content", "reasoning", "cut_off", "text"),
    [
        ("a", "", False, "a"),
        ("a", "r", False, "<think>r</think>a"),
        ("a", "r", True, "<think>r</think>a"),
        ("", "r", True, "<think>r"),
        ("", "r", False, "<think>r</think>"),
        ("<think>r</think>a", "r", False, "<think>r</think>a"),
        ("", "", True, ""),
    ],
)
def test_joined(content: str, reasoning: str, cut_off: bool, text: str) -> None:
    assert joined(content, reasoning, cut_off) == text


def test_an_answer_without_usage_text_or_a_whole_character(tmp_path: Path) -> None:
    with endpoint(tmp_path, default="a\ud800b", usage=False, finish_reason="length") as url:
        assert all_answers(answerer(url))[0] == Answer("a\ufffdb", None, "length")
    with endpoint(tmp_path, say={"content": None}, finish_reason="content_filter") as url:
        assert all_answers(answerer(url))[0] == Answer("", 7, "stop")


def test_the_model_is_named_where_there_are_several(tmp_path: Path) -> None:
    with endpoint(tmp_path, default="x", models=["one", "two"]) as url:
        with pytest.raises(ConfigError, match=r"lists 2 models \(one, two\)\. Name one: request\.model="):
            answerer(url).facts()
        assert answerer(url, model="two").facts()["model"] == "two"


def test_a_server_without_a_list_of_models(tmp_path: Path) -> None:
    with endpoint(tmp_path, default="x", models=None, key=None) as url:
        assert answerer(url, model="m").facts()["model"] == "m"


def test_a_key_is_sent_and_asked_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    with endpoint(tmp_path, default="x", key="s3cret") as url:
        assert answerer(url, token=f"@{tmp_path / 'key'}").facts()["model"] == "small"
        with pytest.raises(UserError, match=r"refused \(401\): Incorrect API key.*request\.token=@FILE"):
            answerer(url).facts()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a/v1", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address. Give one such as"):
        answerer(url)


def test_nobody_there() -> None:
    with pytest.raises(UserError, match="endpoint=http://127.0.0.1:9/v1 cannot be reached") as caught:
        answerer("http://127.0.0.1:9/v1").facts()
    assert caught.value.exit_code == EXIT_FAILED
