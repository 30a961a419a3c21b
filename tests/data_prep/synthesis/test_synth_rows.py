import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import filters
from data_prep.sources import get_source
from data_prep.synthesis.checks import bad_characters, not_readable
from data_prep.synthesis.items import (
    Candidate,
    Draft,
    Page,
    math_draft,
    mcq_draft,
    personaskill_row,
    syn_qa_row,
)
from data_prep.synthesis.personas import Pair, Skill
from data_prep.synthesis.votes import Vote
from reward_server.scoring.judge import check_ground_truth

pytestmark = pytest.mark.timeout(60)

PAGE = Page("https://example.org/a?b=1", "<urn:uuid:1>", "crawl/segment/file.warc.gz")
PAIR = Pair("A baker", Skill("ratios", "arithmetic"))
PROMPTS = {"question_mcq": "0123456789ab", "solution_mcq": "ba9876543210"}
MODELS = {"question": "writer", "solution": "solver"}


def kept(winner, asked=8, valid=7, winning=6):
    return Vote(asked, valid, winner, winning, ((winner, winning), ("other", valid - winning)), None)


def mcq(question, options, winner="A", claimed=""):
    draft = Draft("mcq", question, tuple(options), claimed, "chess", "endgames", "hard")
    return Candidate(draft, kept(winner), PAGE, PROMPTS, MODELS)


def read(name, row):
    """The row as a file would give it back, through the source's reader."""
    source = get_source(name)
    raw = json.loads(json.dumps(row))
    for field in source.schema:
        inner = raw
        for part in field.split("."):
            inner = inner[part]
    return source.parse(raw)


def test_a_multiple_choice_row():
    row = syn_qa_row(mcq("Which piece moves\nlike an L?", ["rook", "knight"], "B", "knight"))
    assert row["meta_data"]["question"] == "Which piece moves\nlike an L?\nA: rook\nB: knight"
    assert row["prompt"] == [{"role": "user", "content": row["meta_data"]["question"]}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "B: knight"}
    assert {key: value for key, value in row["meta_data"].items() if key != "question"} == {
        "subject": "chess",
        "subtopic": "endgames",
        "claimed": "B",
        "difficulty": "hard",
        "url": PAGE.url,
        "warc_record": PAGE.warc_record,
        "crawl_file": PAGE.crawl_file,
        "prompts": PROMPTS,
        "models": MODELS,
        "votes": {"asked": 8, "valid": 7, "winning": 6},
    }
    question = read("syn_qa", row)
    assert question.question == "Which piece moves\nlike an L?"
    assert question.options == (("A", "rook"), ("B", "knight"))
    assert (question.gold_label, question.gold_text) == ("B", "knight")
    assert filters.mcq(question) is None


def test_a_mathematical_row():
    draft = math_draft({"question": " A baker has $3$ loaves and sells one. How many are left? "}, PAIR, "easy")
    row = personaskill_row(Candidate(draft, kept("2"), PAIR, {"problem": "x"}, MODELS))
    assert row["meta_data"] == {
        "question": "A baker has $3$ loaves and sells one. How many are left?",
        "area": "arithmetic",
        "skill": "ratios",
        "difficulty": "easy",
        "persona": "A baker",
        "prompts": {"problem": "x"},
        "models": MODELS,
        "votes": {"asked": 8, "valid": 7, "winning": 6},
    }
    question = read("personaskill_math", row)
    assert (question.question, question.answers) == (row["meta_data"]["question"], ("2",))


def test_a_vote_that_decided_nothing_makes_no_row():
    candidate = mcq("Which?", ["x", "y"])
    lost = Candidate(candidate.draft, Vote(4, 4, "A", 2, (("A", 2),), "below_threshold"), PAGE, PROMPTS, MODELS)
    with pytest.raises(AssertionError, match="below_threshold"):
        syn_qa_row(lost)


def test_options_of_a_reply_are_put_into_the_seeds_order():
    reply = {"question": " Which? ", "options": ["one", " two", "three ", "four"], "answer": " two "}
    drafts = [mcq_draft(reply, "s", "t", "d", seed) for seed in range(40)]
    assert {tuple(sorted(draft.options)) for draft in drafts} == {("four", "one", "three", "two")}
    assert {draft.claimed_label for draft in drafts} == set("ABCD")
    assert all(dict(draft.labelled)[draft.claimed_label] == "two" for draft in drafts)
    assert drafts[3] == mcq_draft(reply, "s", "t", "d", 3) and drafts[0].question == "Which?"


# Texts that look like the marks of options, and any others.
piece = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["A. ", "B: ", "C) ", "A", "B", "\n", "\n\n", "\nA. x", "\nB. y", ": ", "$x$", "\u2028", "\x0b", ","]
    ),
)
wild = st.lists(piece, max_size=5).map("".join)


@given(wild, st.lists(wild, min_size=2, max_size=10), st.data())
@settings(deadline=None)
def test_what_passes_the_check_is_read_back_as_it_was_written(stem, options, data):
    winner = data.draw(st.sampled_from("ABCDEFGHIJ"[: len(options)]))
    candidate = mcq(stem, options, winner)
    if bad_characters(candidate.draft) or not_readable(candidate.draft) or not stem:
        return
    question = read("syn_qa", syn_qa_row(candidate))
    assert (question.question, question.options) == (stem, candidate.draft.labelled)
    assert (question.gold_label, question.gold_text) == (winner, candidate.gold)
    assert filters.mcq(question) is None
    gold = [f"{winner}. {candidate.gold}"]
    assert check_ground_truth("mcq", gold, question.options, "equivalent") is True


@given(wild, st.text(max_size=20))
@settings(deadline=None)
def test_mathematical_texts_are_read_back(stem, answer):
    stem, answer = stem.strip(), answer.strip()
    draft = Draft("math", stem, (), "", "area", "skill", "easy")
    if bad_characters(draft) or not answer:
        return
    question = read("personaskill_math", personaskill_row(Candidate(draft, kept(answer), PAIR, {}, {})))
    assert (question.question, question.answers) == (stem, (answer,))


word = st.text("abcdefgh ä-,()$", min_size=3, max_size=20).map(lambda text: f"w{text}w")


@given(word, st.lists(word, min_size=2, max_size=10, unique_by=lambda text: " ".join(text.split())))
@settings(deadline=None)
def test_ordinary_texts_pass_the_check(stem, options):
    options = [f"{n} {option}" for n, option in enumerate(options)]
    assert not_readable(mcq(f"{stem}?", options).draft) is None


@pytest.mark.parametrize(
    ("stem", "options"),
    [
        ("Which holds?\nA: one\nB: two\nC: three", ["x", "y"]),  # the stem's own list would win
        ("Which?", ["x\nB: y", "z"]),
        ("Which?", ["x", "y\n\nEnsure that one is right."]),  # the reader cuts a last paragraph off
        ("Which?", ["x ", "y"]),
        (" Which?", ["x", "y"]),
        ("Which?", ["B", "A"]),  # an answer `B` would be the other option
        ("Which?", ["same", "Same."]),
        ("Which?", ["", "y"]),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(stem, options):
    assert not_readable(mcq(stem, options).draft) == "not_readable"
