"""The stream of prompts: rendered by the tokenizer's template, resumable, never spinning for ever."""

import json

import pytest
from pool_helpers import write_pool
from rl_helpers import row
from tiny_helpers import small_tokenizer
from tokenizers.processors import TemplateProcessing

from crossthink.errors import UserError
from recipes.models.tiny import tiny_tokenizer
from recipes.rl import prompts
from recipes.rl.prompts import PromptStream, make_prompt

LONG = "very long " * 30


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Eight rows of two sources; the last of each is long."""
    texts = [LONG if number % 4 == 3 else f"question {number}" for number in range(8)]
    sources = ["math"] * 4 + ["numina_math"] * 4
    rows = [
        row(number, source=source, prompt=[{"role": "user", "content": text}])
        for number, (source, text) in enumerate(zip(sources, texts, strict=True))
    ]
    return write_pool(tmp_path_factory.mktemp("stream") / "pool", rows)


def stream(pool, limit=60, seed=0):
    return PromptStream(pool, pool.sampler({}, seed), small_tokenizer(), limit)


def test_a_prompt_ends_where_the_response_begins():
    tokenizer = small_tokenizer()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 + 30?"}]
    found = make_prompt(row(0, prompt=messages), tokenizer)
    assert found.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(list(found.token_ids)) == found.text
    assert all(type(token) is int for token in found.token_ids)


def test_no_token_is_added_to_the_template():
    """A tokenizer that puts a token before every text must not put one before the template's own."""
    tokenizer = tiny_tokenizer(["question 0"])
    first = ("<|endoftext|>", tokenizer.pad_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[first])
    assert tokenizer("x")["input_ids"][0] == tokenizer.pad_token_id  # so it does
    found = make_prompt(row(0), tokenizer)
    assert tokenizer.decode(list(found.token_ids)) == found.text
    assert tokenizer.pad_token_id not in found.token_ids


def test_long_prompts_are_passed_over_and_counted(pool):
    drawn = stream(pool)
    found = drawn.draw(12)
    assert {p.row.question for p in found} == {f"question {n}" for n in (0, 1, 2, 4, 5, 6)}
    assert all(len(p.token_ids) <= 60 for p in found)
    everything = stream(pool, limit=10_000)
    whole = everything.draw(12 + drawn.passed_over)
    assert [p.row.id for p in whole if len(p.token_ids) <= 60] == [p.row.id for p in found]
    assert drawn.passed_over > 0 and everything.passed_over == 0


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_resumed_stream_goes_on(pool, cut):
    whole = stream(pool)
    ids = [p.row.id for p in whole.draw(20)]
    first = stream(pool)
    assert [p.row.id for p in first.draw(cut)] == ids[:cut]
    state = json.loads(json.dumps(first.state_dict()))  # as it stands in trainer.json
    resumed = stream(pool)
    resumed.load_state_dict(state)
    assert resumed.passed_over == first.passed_over
    assert [p.row.id for p in resumed.draw(20 - cut)] == ids[cut:]
    assert resumed.state_dict() == whole.state_dict()


def test_drawing_in_pieces_is_drawing_at_once(pool):
    pieces = stream(pool)
    assert [p.row.id for n in (1, 2, 3, 4) for p in pieces.draw(n)] == [p.row.id for p in stream(pool).draw(10)]


def test_the_state_of_another_seed_is_refused(pool):
    state = stream(pool).state_dict()
    with pytest.raises(UserError, match="seed"):
        stream(pool, seed=1).load_state_dict(state)


def test_a_pool_of_overlong_prompts_is_told(pool, monkeypatch):
    monkeypatch.setattr(prompts, "PASSED_OVER_LIMIT", 40)
    drawn = stream(pool, limit=3)
    with pytest.raises(UserError, match=r"40 prompts in a row of .*pool are longer than max_prompt_tokens=3"):
        drawn.draw(1)
    assert drawn.passed_over == 40


def test_the_limit_counts_prompts_in_a_row(pool, monkeypatch):
    """A quarter of the prompts is too long, so that many are passed over in a long run, but never so many at once."""
    monkeypatch.setattr(prompts, "PASSED_OVER_LIMIT", 30)
    drawn = stream(pool)
    drawn.draw(300)
    assert drawn.passed_over > 30
