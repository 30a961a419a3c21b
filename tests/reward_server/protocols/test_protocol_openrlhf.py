"""OpenRLHF's remote reward: what it sends, what it needs back, and what is refused."""

import asyncio
import unicodedata

import pytest
from protocol_helpers import boxed, label, post, serving_router

PROMPT = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@pytest.fixture(scope="module")
def server():
    with serving_router("openrlhf") as url:
        yield url


def ask(url, *samples):
    """The reply for samples (prompt, response, label)."""
    query = [prompt + response for prompt, response, _ in samples]
    body = {"query": query, "prompts": [one[0] for one in samples], "labels": [one[2] for one in samples]}
    return post(url, "/get_reward", body)


def test_rewards_scores_and_logs(server):
    mcq = label("mcq", ("B",), {"A": "Rome", "B": "Paris"})
    reply = ask(
        server,
        (PROMPT, boxed(5), label()),
        (PROMPT, boxed(6), label()),
        (PROMPT, r"\boxed{Paris}", mcq),
        (PROMPT, boxed("Paris"), mcq),
        (PROMPT, boxed(r"\sqrt{25}"), label()),
    )
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "rewards": [1.0, 0.0, 0.0, 1.0, 1.0],
        "scores": [1.0, 0.0, 0.0, 1.0, 1.0],
        "extra_logs": {
            "accuracy": [1.0, 0.0, 1.0, 1.0, 1.0],
            "format": [1.0, 1.0, 0.0, 1.0, 1.0],
            "invalid": [0.0] * 5,
        },
    }


def test_empty_lists(server):
    """Versions up to 0.11.1 send them to every server but the first."""
    reply = post(server, "/get_reward", {"query": [], "prompts": [], "labels": []})
    assert reply.status_code == 200
    assert reply.json() == {"rewards": [], "scores": [], "extra_logs": {"accuracy": [], "format": [], "invalid": []}}


@pytest.mark.parametrize("end", ["", END, "<|endoftext|>", END + "<|endoftext|>" * 5, "</s>", "<｜end▁of▁sentence｜>"])
def test_what_ends_a_sequence_does_not_matter(server, end):
    assert ask(server, (PROMPT, boxed(5) + end, label())).json()["rewards"] == [1.0]


def test_a_prompt_that_opens_the_thinking(server):
    opened = PROMPT + "<think>\n"
    reply = ask(server, (opened, r"so</think>\boxed{5}", label()), (opened, r"<think>so</think>\boxed{5}", label()))
    assert reply.json()["rewards"] == [1.0, 0.0]


def test_a_tokenizer_that_normalises(server):
    prompt = unicodedata.normalize("NFD", "<|im_start|>user\nÉté à Zürich?<|im_end|>\n<|im_start|>assistant\n")
    body = {
        "query": [unicodedata.normalize("NFC", prompt) + boxed(5)],
        "prompts": [prompt],
        "labels": [label()],
    }
    assert post(server, "/get_reward", body).json()["rewards"] == [1.0]


def test_a_box_in_the_prompt_is_not_an_answer(server):
    prompt = "Give \\boxed{5}, please.\n"
    assert ask(server, (prompt, "<think></think> no", label())).json()["rewards"] == [0.0]


def test_a_label_that_is_an_object(server):
    reply = ask(server, (PROMPT, boxed(5), {"kind": "math", "ground_truth": "5"}))
    assert reply.json()["rewards"] == [1.0]


ONE = {"query": ["p" + boxed(5)], "prompts": ["p"], "labels": [label()]}


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ([], ["body", "JSON object"]),
        ({**ONE, "prompts": None}, ["prompts", "null", "list"]),
        ({**ONE, "labels": []}, ["1 query", "1 prompts", "0 labels"]),
        ({**ONE, "query": [5]}, ["query[0]", "5", "string"]),
        ({**ONE, "prompts": ["q"]}, ["query[0]", "does not begin with its prompt", "character 0"]),
        ({**ONE, "labels": ["72"]}, ["labels[0]", "72", "JSON object", "reward_item"]),
        ({**ONE, "labels": ["not json"]}, ["labels[0]", "not json", "JSON"]),
        ({**ONE, "labels": [None]}, ["labels[0]", "null"]),
        ({**ONE, "labels": ['{"ground_truth": ["5"]}']}, ["labels[0]", "kind", "missing"]),
        ({**ONE, "labels": [label("maths")]}, ["labels[0]", "kind", "maths", "mcq, open, math"]),
        ({**ONE, "labels": [label(grade=1)]}, ["labels[0]", "grade", "unknown field"]),
        ({**ONE, "labels": [label("mcq", ("B",), "AB")]}, ["labels[0]", "options", "AB"]),
    ],
    ids=range(12),
)
def test_what_is_refused_and_why(server, body, parts):
    reply = post(server, "/get_reward", body)
    assert reply.status_code == 422
    assert all(part in reply.json()["detail"] for part in parts), reply.json()


def test_the_second_of_two_is_named(server):
    body = {"query": ["p" + boxed(5), "other"], "prompts": ["p", "p"], "labels": [label()] * 2}
    assert "query[1]" in post(server, "/get_reward", body).json()["detail"]


def test_an_invalid_item_is_no_number(server):
    reply = ask(server, (PROMPT, boxed(5), label()), (PROMPT, boxed(5), label(gold=("",))))
    assert reply.status_code == 422
    detail = reply.json()["detail"]
    assert all(part in detail for part in ("1 of 2", "query[1]", "bad_gold", "invalid_as")) and "query[0]" not in detail


def test_invalid_as():
    with serving_router("openrlhf", invalid_as=-1.0) as url:
        body = ask(url, (PROMPT, boxed(5), label(gold=("",))), (PROMPT, boxed(5), label())).json()
    assert body == {
        "rewards": [-1.0, 1.0],
        "scores": [0.0, 1.0],
        "extra_logs": {"accuracy": [0.0, 1.0], "format": [1.0, 1.0], "invalid": [1.0, 0.0]},
    }


class Word:
    """A tokenizer of characters that spells its end token, as OpenRLHF's executor uses one."""

    def __call__(self, text, **_):
        import torch

        return {"input_ids": torch.tensor([[ord(character) for character in text]])}

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens is False
        return "".join(END if token == 0 else chr(token) for token in ids)


@pytest.mark.parametrize("servers", [1, 2])
def test_openrlhf_itself(server, servers):
    """Its own executor generates (from a script), asks, and takes the reply apart."""
    agent = pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF is not installed", exc_type=ImportError)
    from types import SimpleNamespace

    class Engine:
        async def generate(self, prompt, sampling, multi_modal_data=None):
            ids = [ord(character) for character in boxed(5)] + [0]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)])

    executor = agent.SingleTurnAgentExecutor([f"{server}/get_reward"] * servers)
    sampling = SimpleNamespace(max_tokens=200, logprobs=None)

    async def run(gold):
        return await executor.execute(PROMPT, label(gold=gold), sampling, 1000, Word(), Engine())

    found = asyncio.run(run(("5",)))
    assert found["reward"] == [1.0] and found["scores"] == [1.0]
    assert found["extra_logs"] == {"accuracy": [1.0], "format": [1.0], "invalid": [0.0]}
    assert asyncio.run(run(("6",)))["reward"] == [0.0]
