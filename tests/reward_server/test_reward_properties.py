"""Laws for any text: no exception, order and count kept, one verdict whatever the batch, extraction by the book."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.local import LocalJudge
from reward_server.scoring import math
from reward_server.scoring.extract import check_format, extract_answer
from reward_server.scoring.judge import settle
from reward_server.verdicts import KINDS, STATUSES, Item, Verdict
from reward_server.wire import parse_json

PIECES = ["<think>", "</think>", "\\boxed{", "\\boxed {", "}", "{", "\\{", "\\}", "\\", "\\fbox{", "5", "A", "A. x"]
PIECES += ["\\frac{1}{2}", "x^2", "\\text{", "$", "(", ")", "[", "]", ",", " and ", "\\pm", "%", "\\sqrt", "^", "_"]
PIECES += ["\ud800", "\x00", "é", "−", "1,000", "\\infty", "\\cup", "=", "<", "\\begin{pmatrix}", "&", "\\\\", "cm"]
PIECES += ["!", "\n"]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
numbers = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(-1000, 1000, allow_nan=False, places=4).map(str),
    st.sampled_from(["007", "-0", "0.0", "00.50", "1.", ".5", "+3", "1e3", "٣"]),
)
options = st.none() | st.dictionaries(st.sampled_from("ABCD"), texts, min_size=1).map(lambda d: tuple(d.items()))
items = st.builds(
    Item,
    id=texts,
    kind=st.sampled_from(KINDS),
    response=texts,
    ground_truth=st.lists(texts, max_size=3).map(tuple),
    options=options,
    finish_reason=st.sampled_from([None, "stop", "length"]),
    think_prefilled=st.booleans(),
)


@pytest.fixture(scope="module")
def judge():
    with LocalJudge(workers=2, deadline_s=5.0) as judge:
        yield judge


def bare(verdict):
    return {**verdict.to_json(), "elapsed_ms": None}


@given(items)
def test_any_item_survives_the_wire(one):
    assert Item.from_json(parse_json(json.dumps(one.to_json()).encode())) == one


@given(items, st.sampled_from(["equivalent", "exact"]))
@settings(max_examples=400)
def test_no_text_raises(one, match):
    found = settle(one, match)
    if isinstance(found, Verdict):
        assert found.status in STATUSES and Verdict.from_json(found.to_json()) == found


@given(st.lists(items, max_size=8))
@settings(max_examples=60, deadline=None)
def test_order_and_count_are_kept_and_a_verdict_does_not_depend_on_its_batch(judge, batch):
    together = judge.score(batch)
    assert [one.id for one in together] == [one.id for one in batch]
    alone = [judge.score([one])[0] for one in reversed(batch)]
    assert list(map(bare, together)) == list(map(bare, reversed(alone)))


@given(numbers, numbers)
def test_the_shortcut_for_plain_numbers_agrees_with_the_rule(gold, answer):
    heard = math.compare(gold, answer, told=lambda *_: None)  # with somebody listening there is no shortcut
    assert math.compare(gold, answer) == heard
    assert math.compare(gold, gold) in (True, None)


def slow_answer(response):
    """The box that counts, by the book: every `\\boxed{` in turn, every character in turn."""
    start = 0
    for match in re.finditer("</think>", response):
        start = match.end()
    content = None
    for match in re.finditer(r"\\boxed\s*\{", response[start:]):
        depth, content, index = 1, None, start + match.end()
        begin = index
        while index < len(response):
            if response[index] == "\\":
                index += 2
                continue
            depth += {"{": 1, "}": -1}.get(response[index], 0)
            if not depth:
                content = response[begin:index]
                break
            index += 1
    return content.strip() or None if content is not None else None


def slow_format(response, prefilled):
    """The format, by the book."""
    text = "<think>" + response if prefilled else response.lstrip()
    match = re.fullmatch(r"<think>((?:(?!</?think>).)*)</think>((?:(?!</?think>).)*)", text, re.DOTALL)
    return int(bool(match) and slow_answer(match[2]) is not None)


@given(texts)
@settings(max_examples=500)
def test_extraction_equals_the_slow_reference(response):
    assert extract_answer(response) == slow_answer(response)


@given(texts, st.booleans())
@settings(max_examples=500)
def test_format_equals_the_slow_reference(response, prefilled):
    assert check_format(response, prefilled) == slow_format(response, prefilled)
