"""The questions of a data set by their prompts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_helpers import write_pool

from crossthink.errors import UserError
from data_prep.exports import reward_item, to_openrlhf
from data_prep.rows import PoolRow
from reward_server.protocols.gold_book import GoldBook, UnknownPrompt
from reward_server.protocols.questions import read_question

FIVE = {"kind": "math", "ground_truth": ["5"]}


def question(gold="5", **fields):
    return read_question({"kind": "math", "ground_truth": [gold], **fields})


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Chat:
    """A tokenizer that upper-cases what it is given, as others normalise."""

    def render(self, messages):
        return "".join(f"<{one['role']}>{one['content']}</>" for one in messages)

    def round_trip(self, texts):
        return [text.upper() for text in texts]


@given(st.lists(st.text("ab", max_size=4).filter(bool), unique=True, min_size=1), st.text("abc", max_size=8))
def test_the_longest_prompt_is_found(prompts, text):
    book = GoldBook()
    for prompt in prompts:
        book.add(prompt, question(prompt), prompt)
    known = [prompt for prompt in prompts if text.startswith(prompt)]
    if known:
        longest = max(known, key=len)
        assert book.find(text) == (longest, question(longest))
    else:
        with pytest.raises(UnknownPrompt):
            book.find(text)


def test_many_prompts_with_a_common_beginning():
    book = GoldBook()
    for n in range(20_000):
        book.add(f"{'Question ' * 20}{n}?\n", question(str(n)), str(n))
    for n in (0, 7, 19_999):
        assert book.find(f"{'Question ' * 20}{n}?\nThe answer")[1].ground_truth == (str(n),)
    with pytest.raises(UnknownPrompt, match="20000 known"):
        book.find("Question 20000?\n")


def test_an_unknown_prompt_is_named():
    book = GoldBook()
    book.add("one", question(), "a")
    with pytest.raises(UnknownPrompt, match="two\\\\u00e9"):
        book.find("twoé")
    with pytest.raises(UnknownPrompt):
        GoldBook().find("x")


def test_rows_may_repeat_but_not_contradict():
    book = GoldBook()
    book.add("p", question(source="a"), "file:1")
    book.add("p", question(source="b"), "file:2")
    assert book.questions == 2
    with pytest.raises(UserError) as error:
        book.add("p", question("6"), "file:3")
    assert all(part in str(error.value) for part in ("file:3", "file:1", '["6"]', '["5"]', '"p"'))
    with pytest.raises(UserError, match="empty"):
        book.add("", question(), "file:4")


@pytest.mark.parametrize(
    "row",
    [
        {"text": "p", "reward_item": json.dumps(FIVE)},
        {"text": "p", "reward_item": FIVE},
        {"prompt": "p", "label": json.dumps(FIVE)},
        {"input": "p", "output": json.dumps(FIVE), "id": 7},
        {"text": "p", **FIVE, "options": None, "extra": [1]},
    ],
    ids=range(5),
)
def test_rows_of_jsonl(tmp_path, row):
    book = GoldBook.open(jsonl(tmp_path / "rows.jsonl", row), None)
    assert book.find("p and more") == ("p", question())


def test_messages_are_rendered(tmp_path):
    messages = [{"role": "user", "content": "how?"}]
    path = jsonl(tmp_path / "rows.jsonl", {"input": messages, "label": FIVE})
    book = GoldBook.open(path, Chat())
    assert book.find("<user>how?</>5")[0] == "<user>how?</>"
    assert book.find("<USER>HOW?</>5")[0] == "<USER>HOW?</>"  # as its tokens decode
    with pytest.raises(UserError, match=r"rows.jsonl:1.*tokenizer"):
        GoldBook.open(path, None)


def rows():
    for n, options in ((1, None), (2, {"A": "x", "B": "y"})):
        yield PoolRow(
            id=f"{n:032x}",
            source="s",
            domain="gpr",
            kind="mcq" if options else "open",
            question="?",
            options=options,
            ground_truth=["B"],
            prompt=[{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question {n}"}],
        )


def test_a_pool(tmp_path):
    write_pool(tmp_path / "pool", rows())
    book = GoldBook.open(tmp_path / "pool", Chat())
    prompt, found = book.find("<system>be brief</><user>question 2</>answer")
    assert prompt.endswith("question 2</>") and book.questions == 2
    assert (found.kind, found.ground_truth, found.options, found.source) == (
        "mcq",
        ("B",),
        (("A", "x"), ("B", "y")),
        "s",
    )


def test_our_openrlhf_export(tmp_path):
    first, second = (to_openrlhf(row, n) for n, row in enumerate(rows()))
    book = GoldBook.open(jsonl(tmp_path / "rows.jsonl", first, second), Chat())
    assert book.find("<system>be brief</><user>question 2</>")[1] == read_question(reward_item(list(rows())[1]))


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ["not JSON"]),
        ("[]", ["JSON object"]),
        ('{"text": 5, "kind": "math", "ground_truth": "5"}', ["prompt", "5", "text, prompt, input"]),
        ('{"input": ["p"], "label": {"kind": "math", "ground_truth": "5"}}', ["prompt", "messages"]),
        ('{"text": "p"}', ["kind", "missing", "reward_item, label, output"]),
        ('{"text": "p", "label": "72"}', ["72", "JSON object"]),
        ('{"text": "p", "kind": "essay", "ground_truth": "5"}', ["essay", "mcq, open, math"]),
        ('{"text": "", "kind": "math", "ground_truth": "5"}', ["prompt is empty"]),
    ],
    ids=range(8),
)
def test_a_damaged_row_is_named(tmp_path, line, parts):
    path = jsonl(tmp_path / "rows.jsonl", {"text": "first", **FIVE})
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(UserError) as error:
        GoldBook.open(path, None)
    assert all(part in str(error.value) for part in ["rows.jsonl:3", *parts]), error.value


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        GoldBook.open(tmp_path / "none", None)
    with pytest.raises(UserError, match="manifest.json"):
        GoldBook.open(tmp_path, None)
    with pytest.raises(UserError, match="no rows"):
        GoldBook.open(jsonl(tmp_path / "empty.jsonl"), None)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read"):
        GoldBook.open(tmp_path, None)


def test_a_template_that_refuses_a_prompt(tmp_path):
    class Strict(Chat):
        def render(self, messages):
            raise RuntimeError("no system role")

    write_pool(tmp_path / "pool", rows())
    with pytest.raises(UserError) as error:
        GoldBook.open(tmp_path / "pool", Strict())
    assert "s.parquet: row" in str(error.value) and "no system role" in str(error.value)
