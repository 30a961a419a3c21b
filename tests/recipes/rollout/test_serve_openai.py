"""OpenAI's endpoints, asked with OpenAI's own client, in front of a made-up engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_helpers import Served, in_background, made_up, offer, serving, wait_until
from tiny_helpers import small_tokenizer

from recipes.rollout.interface import Request, SamplingParams
from recipes.rollout.server.openai_api.words import pieces

openai = pytest.importorskip("openai")

QUESTION = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server with a token, which is the client's api_key."""
    with serving(token="secret", max_queue=64) as one:
        yield one


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's client; it asks no second time, so that refusals are seen."""
    with openai.OpenAI(base_url=served.url + "/v1", api_key="secret", max_retries=0, timeout=20) as one:
        yield one


def expected(prompt_ids: list[int], seed: int, max_tokens: int, sample: int = 0, prompt: int = 0) -> list[int]:
    """What the engine draws for a request with a seed."""
    tokenizer = small_tokenizer()
    params = SamplingParams(1.0, 1.0, max_tokens, (tokenizer.eos_token_id,), len(tokenizer), seed, 0)
    return made_up(Request(tuple(prompt_ids), prompt, sample), params, 0).token_ids


def text_of(ids: list[int]) -> str:
    return small_tokenizer().decode(ids, skip_special_tokens=True)


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["small"]
    assert client.models.retrieve("small").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("large")
    assert caught.value.code == "model_not_found" and "small" in str(caught.value)


def test_a_chat_is_written_out_by_the_models_own_template(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="small", messages=QUESTION, n=3, seed=11, max_completion_tokens=12)
    prompt = small_tokenizer().apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    ids = small_tokenizer()(prompt)["input_ids"]
    drawn = [expected(ids, 11, 12, sample) for sample in range(3)]
    assert [one.message.content for one in reply.choices] == [text_of(one) for one in drawn]
    assert [one.index for one in reply.choices] == [0, 1, 2]
    assert reply.choices[0].message.role == "assistant" and reply.choices[0].logprobs is None
    assert reply.usage.prompt_tokens == len(ids) and reply.usage.completion_tokens == sum(map(len, drawn))
    assert reply.usage.total_tokens == len(ids) + sum(map(len, drawn))
    assert reply.model == "small" and reply.system_fingerprint == "local-weights-0"
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "12 + 30?"}]}]
    again = client.chat.completions.create(model="small", messages=parts, n=3, seed=11, max_tokens=12)
    assert [one.message for one in again.choices] == [one.message for one in reply.choices]


def test_a_seed_fixes_the_draws_and_none_draws_anew(client: openai.OpenAI) -> None:
    def texts(**more) -> list[str]:
        reply = client.completions.create(model="small", prompt="Ben is", max_tokens=20, n=2, **more)
        return [one.text for one in reply.choices]

    assert texts(seed=1) == texts(seed=1) != texts(seed=2)
    assert texts() != texts()
    assert texts(temperature=0) == texts(temperature=0)


def test_prompts_are_texts_lists_and_token_ids(client: openai.OpenAI) -> None:
    ids = [small_tokenizer()(text)["input_ids"] for text in ("Ben", "Ana, 7")]
    by_text = client.completions.create(model="small", prompt=["Ben", "Ana, 7"], n=2, seed=5)
    by_ids = client.completions.create(model="small", prompt=ids, n=2, seed=5)
    assert [one.text for one in by_text.choices] == [one.text for one in by_ids.choices]
    drawn = [expected(ids[prompt], 5, 16, sample, prompt) for prompt in range(2) for sample in range(2)]
    assert [one.text for one in by_text.choices] == [text_of(one) for one in drawn]
    assert by_text.usage.prompt_tokens == sum(map(len, ids))
    one = client.completions.create(model="small", prompt=ids[0], seed=5)
    assert one.choices[0].text == by_text.choices[0].text


def test_a_stop_string_cuts_the_text(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="small", prompt="Ben", seed=8, max_tokens=40, logprobs=0).choices[0]
    assert plain.finish_reason == "length" and len(plain.text) > 12
    word = plain.text[9:12]
    before = plain.text[: plain.text.find(word)]
    cut = client.completions.create(model="small", prompt="Ben", seed=8, max_tokens=40, stop=["@@@@", word], logprobs=0)
    assert cut.choices[0].text == before and cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens == 40, "what was generated"
    kept = cut.choices[0].logprobs.tokens
    assert "".join(kept).startswith(before) and len("".join(kept[:-1])) < len(before)
    assert cut.choices[0].logprobs.token_logprobs == plain.logprobs.token_logprobs[: len(kept)]
    untouched = client.completions.create(model="small", prompt="Ben", seed=8, max_tokens=40, stop="@@@@")
    assert untouched.choices[0].text == plain.text and untouched.choices[0].finish_reason == "length"


def test_log_probs_are_those_of_the_texts_tokens(client: openai.OpenAI) -> None:
    choice = client.completions.create(model="small", prompt="Ben", seed=4, max_tokens=30, logprobs=0).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    chat = client.chat.completions.create(model="small", messages=QUESTION, seed=4, max_tokens=30, logprobs=True)
    content = chat.choices[0].logprobs.content
    assert "".join(one.token for one in content) == chat.choices[0].message.content
    assert all(one.logprob <= 0 and one.top_logprobs == [] for one in content)


def test_a_stream_holds_each_choice_and_then_the_usage(client: openai.OpenAI) -> None:
    wanted = {"model": "small", "messages": QUESTION, "n": 3, "seed": 2, "max_tokens": 10, "logprobs": True}
    whole = client.chat.completions.create(**wanted)
    chunks = list(client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({one.id for one in chunks}) == 1
    for choice in whole.choices:
        mine = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert mine[0].delta.role == "assistant" and mine[0].logprobs.content == choice.logprobs.content
        assert [part.finish_reason for part in mine] == [None, choice.finish_reason]
    texts = list(client.completions.create(model="small", prompt="Ben", seed=2, stream=True))
    plain = client.completions.create(model="small", prompt="Ben", seed=2)
    assert "".join(one.choices[0].text for one in texts) == plain.choices[0].text


@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"model": "large"}, openai.NotFoundError, "model"),
        ({"top_logprobs": 2, "logprobs": True}, openai.BadRequestError, "top_logprobs"),
        ({"presence_penalty": 0.5}, openai.BadRequestError, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, openai.BadRequestError, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"extra_body": {"best": 1}}, openai.BadRequestError, "best"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"top_p": 2}, openai.BadRequestError, "top_p"),
        ({"n": 0}, openai.BadRequestError, "n"),
        ({"n": 100}, openai.BadRequestError, None),
        ({"seed": -3}, openai.BadRequestError, "seed"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "x " * 200}]}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, openai.BadRequestError, "messages[0].content"),
    ],
    ids=range(17),
)
def test_what_is_refused_by_name(client: openai.OpenAI, more: dict, error: type, param: str | None) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "small", "messages": QUESTION, **more})
    assert caught.value.param == param and caught.value.type == "invalid_request_error"
    assert param is None or param in str(caught.value)


@pytest.mark.parametrize(
    "more", [{"logprobs": 3}, {"echo": True}, {"suffix": "x"}, {"best_of": 4}, {"prompt": []}, {"prompt": [[]]},
             {"prompt": [1, "a"]}, {"prompt": ""}, {"prompt": [99_999]}]
)  # fmt: skip
def test_completions_refuse_by_name_too(client: openai.OpenAI, more: dict) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "small", "prompt": "Ben", **more})
    assert caught.value.param == next(iter(more))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"\ud800": 1}, "\ud800"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"model": "\ud800"}, "model"),
        ({"temperature": float("nan")}, "temperature"),
    ],
    ids=range(4),
)
def test_what_the_client_itself_would_never_send(served: Served, more: dict, param: str) -> None:
    reply = served.post("/v1/completions", {"prompt": "Ben", **more})
    assert reply.status_code == (404 if param == "model" else 400)
    assert reply.json()["error"]["param"] == param


def test_the_states_of_the_server_are_the_clients_errors(served: Served, client: openai.OpenAI) -> None:
    def ask(**more) -> object:
        return client.completions.create(model="small", prompt="Ben", **more)

    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").completions.create(model="small", prompt="Ben")
    served.engine.held.set()
    busy = in_background(lambda: ask(n=60))
    wait_until(lambda: served.service.under_way == 60)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(n=5)
    assert caught.value.response.headers["retry-after"]
    served.engine.held.clear()
    assert len(busy().choices) == 60
    served.engine.fail_after = 1
    with pytest.raises(openai.InternalServerError, match="the engine broke"):
        ask(n=2)
    with pytest.raises(openai.APIError, match="the engine broke"):
        list(ask(n=2, stream=True))
    served.engine.fail_after = None
    assert served.post("/v1/sleep", {}).status_code == 200
    with pytest.raises(openai.InternalServerError, match="asleep"):
        ask()
    assert served.post("/v1/wake", {}).status_code == 200
    assert served.post("/v1/refit", offer(0)).status_code == 200
    assert ask().choices


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(small_tokenizer()) - 1), max_size=12) | st.text(max_size=6))
def test_pieces_make_up_the_text(ids: list[int] | str) -> None:
    tokenizer = small_tokenizer()
    if isinstance(ids, str):
        ids = tokenizer(ids.encode("utf-8", "ignore").decode())["input_ids"]

    def decode(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=True)

    found = pieces(decode, ids)
    assert len(found) == len(ids)
    if "�" not in decode(ids):
        assert "".join(found) == decode(ids)
