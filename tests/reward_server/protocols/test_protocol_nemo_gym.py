"""NeMo-Gym's resources server: shapes of its mcqa and math_with_judge, our own fields, sessions and metrics."""

import statistics

import httpx
import pytest
from protocol_helpers import boxed, post, serving_router


@pytest.fixture(scope="module")
def server():
    with serving_router("nemo_gym") as url:
        yield url


def message(text):
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def reasoning(*texts):
    return {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts]}


def rollout(*output, response=None, **row):
    """A request to /verify, complete as nemo-gym 0.7.0 makes it."""
    entries = [message(one) if isinstance(one, str) else one for one in output]
    return {
        "responses_create_params": {"input": [{"role": "user", "content": "How many?"}]},
        "response": {
            "id": "resp_1",
            "object": "response",
            "created_at": 0.0,
            "model": "policy",
            "status": "completed",
            "output": entries,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            **(response or {}),
        },
        **row,
    }


OPTIONS = [{"A": "Rome"}, {"B": "Paris"}, {"C": None}]
MCQ = {"options": OPTIONS, "expected_answer": "B", "grading_mode": "strict_single_letter_boxed", "uuid": "u-1"}
MATH = {"question": "How many?", "expected_answer": r"\(5\)"}
OWN = {"kind": "math", "ground_truth": ["5", "five"], "options": None}


def verify(url, *output, **fields):
    reply = post(url, "/verify", rollout(*output, **fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize(
    ("row", "answer", "reward"),
    [
        (MCQ, "B", 1.0),
        (MCQ, "B. Paris", 1.0),
        (MCQ, "A", 0.0),
        ({**MCQ, "expected_answer": " b "}, "B", 1.0),
        (MATH, "5", 1.0),
        (MATH, r"\frac{10}{2}", 1.0),
        (MATH, "6", 0.0),
        (OWN, "5.0", 1.0),
        ({"kind": "open", "ground_truth": "The Hague"}, "the hague", 1.0),
        ({"kind": "mcq", "ground_truth": ["B"], "options": {"A": "Rome", "B": "Paris"}}, "Paris", 1.0),
        ({"kind": "mcq", "ground_truth": ["B"], "options": [{"label": "B", "text": "Paris"}]}, "B", 1.0),
    ],
)
def test_rewards(server, row, answer, reward):
    assert verify(server, boxed(answer), **row)["reward"] == reward


def test_the_reply_repeats_the_request_and_adds(server):
    sent = rollout(boxed("B"), **MCQ, _ng_task_index=3, metadata={"anything": [1, None]})
    reply = post(server, "/verify", sent).json()
    added = {name: value for name, value in reply.items() if name not in sent}
    assert {name: reply[name] for name in sent} == sent
    assert added == {
        "reward": 1.0,
        "reward_components": {"accuracy": 1.0, "format": 1.0},
        "accuracy": 1,
        "format": 1,
        "extracted_answer": "B",
        "status": "correct",
    }
    assert verify(server, boxed("5"), **MATH).items() >= {"library_reward": 1.0, "judge_evaluations": None}.items()


def test_reasoning_that_a_parser_took_out(server):
    assert verify(server, reasoning("so"), r"\boxed{5}", **MATH)["reward"] == 1.0
    assert verify(server, reasoning("so"), r"\boxed{5}", **MATH, think_prefilled=True)["reward"] == 1.0
    content = {"id": "r", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]}
    assert verify(server, content, r"\boxed{5}", **MATH)["reward"] == 1.0
    twice = verify(server, reasoning("so", "or so"), r"\boxed{5}", **MATH)
    assert (twice["reward"], twice["accuracy"], twice["status"]) == (0.0, 1, "bad_format")
    assert verify(server, r"\boxed{5}", **MATH)["status"] == "bad_format"


def test_prefilled_thinking(server):
    assert verify(server, r"so</think>\boxed{5}", **OWN, think_prefilled=True)["reward"] == 1.0
    assert verify(server, r"so</think>\boxed{5}", **OWN)["reward"] == 0.0


def test_cut_off(server):
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert verify(server, "<think>so", response=cut, **OWN)["status"] == "truncated"
    assert verify(server, "<think>so", **OWN)["status"] == "no_box"
    assert verify(server, response=cut, **OWN)["status"] == "truncated"


def test_what_is_not_the_answer_is_passed_over(server):
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
    user = {"type": "message", "role": "user", "content": r"\boxed{5}"}
    refusal = {**message(""), "content": [{"type": "refusal", "refusal": "no"}]}
    assert verify(server, call, user, refusal, **OWN)["status"] == "no_box"
    assert verify(server, {**message(""), "content": boxed(5)}, **OWN)["reward"] == 1.0


GOOD = rollout(boxed(5), **OWN)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ([], ["body", "JSON object"]),
        ({**GOOD, "response": None}, ["response", "null", "output"]),
        ({**GOOD, "response": {"output": "x"}}, ["response", "list"]),
        ({**GOOD, "response": {"output": [5]}}, ["response.output[0]", "5"]),
        (rollout(boxed(5)), ["ground_truth", "expected_answer", "missing"]),
        ({**GOOD, "kind": "essay"}, ["kind", "essay", "mcq, open, math"]),
        ({**GOOD, "ground_truth": None}, ["ground_truth", "null"]),
        (rollout(boxed("B"), **{**MCQ, "options": [{"A": "x"}, {"A": "y"}]}), ["options", "A", "twice"]),
        (rollout(boxed("B"), **{**MCQ, "grading_mode": "lenient_answer_colon"}), ["grading_mode", "no box", "kind"]),
        (rollout(boxed("B"), **MCQ, template_metadata={"output_regex": "Answer: (.)"}), ["output_regex", "no box"]),
    ],
    ids=range(10),
)
def test_what_is_refused_and_why(server, body, parts):
    reply = post(server, "/verify", body)
    assert reply.status_code == 422
    assert all(part in reply.json()["detail"] for part in parts), reply.json()


def test_an_invalid_item_is_no_number(server):
    reply = post(server, "/verify", rollout(boxed(5), kind="math", ground_truth="", uuid="u-7"))
    assert reply.status_code == 422
    assert all(part in reply.json()["detail"] for part in ("u-7", "bad_gold", "invalid_as"))


def test_invalid_as_marks_the_sample():
    with serving_router("nemo_gym", invalid_as=0.5) as url:
        reply = verify(url, boxed(5), kind="math", ground_truth="")
        assert "mask_sample" not in verify(url, boxed(5), **OWN)
    assert reply["reward"] == 0.5 and reply["accuracy"] is None and reply["mask_sample"] is True
    assert reply["reward_components"] == {"accuracy": 0.5, "format": 1.0}
    assert reply["failure_kind"] == "crossthink:bad_gold" and "ground_truth" in reply["failure_reason"]


def test_sessions_and_modes(server):
    assert post(server, "/seed_session", {"responses_create_params": {}}).json() == {}
    new = {"resources_session_id": "s-1", "episode_id": "e", "task_id": "t", "task_data": {}}
    assert post(server, "/seed_session", new).json() == {"resources_session_id": "s-1"}
    assert post(server, "/close_session", new).json() == {"resources_session_id": "s-1"}
    assert httpx.get(server + "/reverify_mode").json() == "stateless"


def test_with_observability_the_rollout_stands_before_the_path(server):
    assert post(server, "/ng-rollout/3-1/verify", GOOD).json()["reward"] == 1.0
    assert post(server, "/ng-rollout/3-1/seed_session", {}).json() == {}


def replies():
    """Three rollouts of one task, one of another, one that does not count."""
    rows = [(0, 1.0, 1), (0, 0.0, 1), (0, 0.0, 0), (7, 1.0, 1)]
    usage = {"usage": {"output_tokens": 10}}
    found = [
        {"_ng_task_index": task, "_ng_rollout_index": n, "reward": reward, "accuracy": bit, "status": "x"}
        for n, (task, reward, bit) in enumerate(rows)
    ]
    found[0]["response"] = usage
    return [*found, {"_ng_task_index": 8, "_ng_rollout_index": 0, "reward": 9.0, "mask_sample": True}]


def test_aggregate_metrics(server):
    body = post(server, "/aggregate_metrics", {"verify_responses": replies()}).json()
    assert set(body) == {"group_level_metrics", "agent_metrics", "key_metrics"}
    rewards = [1.0, 0.0, 0.0, 1.0]
    expected = {
        "mean/reward": 0.5,
        "max/reward": 1.0,
        "min/reward": 0.0,
        "median/reward": 0.5,
        "std/reward": statistics.stdev(rewards),
        "mean/accuracy": 0.75,
        "mean/output_tokens": 10.0,
        "coverage/masked_rollouts": 1,
        "coverage/fully_masked_tasks": 1,
    }
    assert {name: body["agent_metrics"][name] for name in expected} == pytest.approx(expected)
    assert body["key_metrics"].keys() == {
        "mean/reward",
        "mean/accuracy",
        "mean/output_tokens",
        "coverage/measured_rollouts",
        "coverage/masked_rollouts",
        "coverage/measured_tasks",
        "coverage/fully_masked_tasks",
    }
    assert [(one["_ng_task_index"], one["num_rollouts"]) for one in body["group_level_metrics"]] == [(0, 3), (7, 1)]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "verify_responses"),
        ({"verify_responses": [5]}, "verify_responses[0]"),
        ({"verify_responses": [{"_ng_task_index": "a"}]}, "_ng_task_index"),
    ],
)
def test_metrics_of_nonsense(server, body, part):
    reply = post(server, "/aggregate_metrics", body)
    assert reply.status_code == 422 and part in reply.json()["detail"]


def test_no_metrics_of_nothing(server):
    body = post(server, "/aggregate_metrics", {"verify_responses": []}).json()
    assert body == {"group_level_metrics": [], "agent_metrics": {}, "key_metrics": {}}
