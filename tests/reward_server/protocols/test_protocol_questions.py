"""What rows say of a question, and where a response begins and ends in a text."""

import json
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.exports import reward_item
from data_prep.rows import PoolRow
from reward_server.protocols.prompts import opens_thinking, response_after, without_end_tokens
from reward_server.protocols.questions import answered, read_options, read_question
from reward_server.protocols.rewards import InvalidItems, refused, score_of, to_numbers
from reward_server.verdicts import BAD_GOLD, CORRECT, ERROR, WRONG, Item, Verdict

OPTIONS = {"A": "Rome", "B": "Paris"}


def pool_row(kind, gold, options):
    return PoolRow("0" * 32, "s", "gpr", kind, "?", options, gold, [{"role": "user", "content": "?"}])


@given(st.sampled_from(["mcq", "open", "math"]), st.lists(st.text(), min_size=1), st.booleans())
def test_what_the_exports_write_is_read(kind, gold, with_options):
    written = reward_item(pool_row(kind, gold, OPTIONS if with_options else None))
    expected = Item("", kind, "", tuple(gold), tuple(OPTIONS.items()) if with_options else None)
    assert read_question(written) == read_question(json.loads(written)) == expected
    assert answered(expected, "a", "text").response == "text"


@pytest.mark.parametrize(
    "value",
    [
        OPTIONS,
        [{"label": "A", "text": "Rome"}, {"label": "B", "text": "Paris"}],
        [{"A": "Rome"}, {"B": "Paris"}],
        [{"A": "Rome", "B": "Paris", "C": None}],
        {"label": ["A", "B"], "text": ["Rome", "Paris"]},
    ],
)
def test_shapes_of_options(value):
    assert list(read_options(value).items()) == list(OPTIONS.items())


def test_no_options():
    assert read_options(None) is read_options([]) is read_options({"label": None, "text": None}) is None
    assert read_options({"label": "x", "text": "y"}) == {"label": "x", "text": "y"}


@pytest.mark.parametrize(
    "value",
    ["AB", 5, [5], [["A", "x"]], [{"A": "x"}, {"A": "y"}], [{"label": 5, "text": "x"}], {"label": ["A"], "text": []}],
)
def test_what_are_no_options(value):
    with pytest.raises(ValueError, match="options"):
        read_options(value)


@pytest.mark.parametrize("label", ["", "{", b"\xff", "5", None, [], "[" * 100_000, {"kind": "math", "response": "x"}])
def test_what_is_no_question(label):
    with pytest.raises(ValueError):
        read_question(label)


@given(st.text(), st.text())
def test_the_response_follows_its_prompt(prompt, response):
    assert response_after(prompt + response, prompt) == response
    normal = unicodedata.normalize("NFC", prompt)
    assert response_after(normal + response, prompt).endswith(response)


def test_a_query_with_another_prompt():
    with pytest.raises(ValueError, match='from character 3 on the query has "x" where the prompt has "d"'):
        response_after("abcx", "abcd")
    with pytest.raises(ValueError, match="from character 2"):
        response_after("ab", "abcd")


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{5}",
        "a < b",
        "x>",
        "<think></think>",
        "<b>",
        "|>",
        "<|>",
        "<|a b|>",
        "",
        "]",
        "[PAD",
        "<|" + "a" * 99 + "|>",
    ],
)
def test_ends_that_are_no_special_tokens(text):
    assert without_end_tokens(text) == text
    assert without_end_tokens(text + "<|im_end|></s><|endoftext|>") == text


def test_special_tokens_within_stay():
    assert without_end_tokens("a<|im_end|>b<|im_end|>") == "a<|im_end|>b"
    assert without_end_tokens("x" + "<pad>" * 200_000) == "x"


def test_prompts_that_open_the_thinking():
    assert opens_thinking("…assistant\n<think>\n") and not opens_thinking("<think></think>")


def verdict(status, reward=None):
    return Verdict("a", reward, None if reward is None else int(reward), 1, None, status, 0.0)


def item(n):
    return Item(f"row {n}", "math", "", ("",))


def test_invalid_items_are_named_and_not_numbered():
    verdicts = [verdict(WRONG, 0.0), *[verdict(BAD_GOLD)] * 4]
    with pytest.raises(InvalidItems) as error:
        to_numbers([item(n) for n in range(5)], verdicts, None)
    text = str(error.value)
    assert "4 of 5" in text and "row 1" in text and "row 3" in text and "1 more" in text and "row 0" not in text
    assert refused(error.value).status == 422
    with pytest.raises(InvalidItems) as error:
        to_numbers([item(0)], [verdict(ERROR)], None)
    assert error.value.transient and refused(error.value).status == 500
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and again.transient


def test_a_number_in_their_place():
    verdicts = [verdict(CORRECT, 1.5), verdict(BAD_GOLD), verdict(WRONG, -0.2)]
    assert to_numbers([item(n) for n in range(3)], verdicts, -2.0) == [1.5, -2.0, -0.2]
    assert [score_of(one, -2.0) for one in verdicts] == [1.0, 0.0, 0.0]  # whatever the shaping
    assert score_of(verdict(BAD_GOLD), 0.5) == 0.5
