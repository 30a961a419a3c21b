"""Requests: the same key for what has the same reply, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.synthesis.calls.request import Request, draw_seed

BASE = Request("question", [{"role": "user", "content": "a"}], 10, 0.5, 1.0, 1, schema={"b": 1, "a": 2})


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": [{"role": "user", "content": "b"}]},
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}] * 2},
        {"max_tokens": 11},
        {"temperature": 0.6},
        {"top_p": 0.9},
        {"seed": 2},
        {"seed": None},
        {"draw": 1},
        {"attempt": 1},
        {"schema": None},
        {"schema": {"a": 2}},
        {"schema_name": "other"},
    ],
)
def test_what_may_change_the_reply_changes_the_key(changed) -> None:
    assert replace(BASE, **changed).key("m") != BASE.key("m")


def test_what_does_not_change_the_reply_does_not_change_the_key() -> None:
    assert BASE.key("m") != BASE.key("n")
    same = replace(BASE, purpose="other", schema={"a": 2, "b": 1}, messages=({"content": "a", "role": "user"},))
    assert same.key("m") == BASE.key("m")
    assert replace(BASE, temperature=1).key("m") == replace(BASE, temperature=1.0).key("m")


def test_the_key_is_the_same_for_ever() -> None:
    """A release that changed it would have every stored answer paid for again."""
    assert BASE.key("m") == "0bb9996ef03e8592d22419114ff86c4c7974e7370fed0903cfa6820215dd0bbe"


@given(st.integers(), st.integers(0, 64), st.integers(0, 8))
def test_draws_and_attempts_have_seeds_of_their_own(seed, draw, attempt) -> None:
    sent = replace(BASE, seed=seed, draw=draw, attempt=attempt).options(False)["seed"]
    assert sent == draw_seed(seed, draw, attempt) and 0 <= sent < 1 << 31
    assert draw_seed(seed, draw + 1, attempt) != sent != draw_seed(seed, draw, attempt + 1)


def test_what_is_sent() -> None:
    assert replace(BASE, seed=None).options(False) == {"max_tokens": 10, "temperature": 0.5, "top_p": 1.0}
    sent = BASE.options(True)["response_format"]
    assert sent["type"] == "json_schema" and sent["json_schema"]["schema"] == {"b": 1, "a": 2}


@given(st.text())
def test_no_prompt_has_more_tokens_than_are_reserved(text) -> None:
    one = replace(BASE, messages=[{"role": "user", "content": text}])
    assert one.most().prompt_tokens >= len(text.encode("utf-8", "replace")) and one.most().completion_tokens == 10
