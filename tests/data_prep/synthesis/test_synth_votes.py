import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep.synthesis.answers import boxed_answer, declines, shuffled_options
from data_prep.synthesis.votes import math_same, same_option, vote
from reward_server.pool import WorkerPool
from reward_server.scoring.judge import Reply
from reward_server.scoring.text import same as same_text

pytestmark = pytest.mark.timeout(120)


def decide(answers, kind="mcq", same=same_option, threshold=0.5, least_valid=1, asked=None):
    return vote(answers, kind, len(answers) if asked is None else asked, threshold, least_valid, same)


@pytest.mark.parametrize(
    ("answers", "threshold", "least_valid", "winner", "winning", "valid", "reason"),
    [
        (["A", "A", "A", "B"], 0.5, 1, "A", 3, 4, None),
        (["A", "A", "A", "B"], 0.75, 1, "A", 3, 4, None),  # exactly the threshold
        (["A", "A", "A", "B"], 0.76, 1, "A", 3, 4, "below_threshold"),
        (["A", "A", "B", "C", None], 0.5, 1, "A", 2, 4, None),  # a share of the valid ones
        (["A", "A", "B", "B"], 0.5, 1, None, 2, 4, "tie"),
        (["A", "A", "B", "B", "C"], 0.9, 1, None, 2, 5, "tie"),  # before below_threshold
        (["A", None, None, None], 0.5, 2, "A", 1, 1, "too_few_valid"),
        (["A", "B", None], 0.5, 3, None, 1, 2, "too_few_valid"),  # before tie
        ([None, None], 0.5, 1, None, 0, 0, "too_few_valid"),
        ([], 0.5, 1, None, 0, 0, "too_few_valid"),
        (["A"], 1.0, 1, "A", 1, 1, None),
    ],
)
def test_cases(answers, threshold, least_valid, winner, winning, valid, reason):
    found = decide(answers, threshold=threshold, least_valid=least_valid)
    assert (found.winner, found.winning, found.valid, found.reason) == (winner, winning, valid, reason)
    assert found.kept == (reason is None) and found.asked == len(answers)
    assert sum(size for _, size in found.groups) == valid
    assert found.share == (winning / valid if valid else 0)


def test_what_was_asked_and_never_came_back_is_counted():
    assert decide(["A", "A"], asked=8).asked == 8


@pytest.mark.parametrize(
    "fields", [{"asked": 1}, {"threshold": 0}, {"threshold": 1.1}, {"least_valid": 0}, {"kind": "x"}]
)
def test_impossible_arguments_are_refused(fields):
    with pytest.raises(ValueError):
        decide(["A", "B"], **fields)


def test_open_answers_are_one_as_the_reward_compares_them():
    answers = ["Paris", "paris.", "PARIS", r"\text{Paris}", "Paris, France", "...", "Lyon"]
    found = decide(answers, "open", same_text)
    assert (found.winner, found.winning, found.valid) == ("PARIS", 4, 6)  # `...` says nothing
    assert decide(["Paris", "Paris", "paris."], "open", same_text).winner == "Paris"  # as most wrote it


def test_groups_are_sorted_by_size():
    assert decide(["B", "A", "A", "C", "C", "C"]).groups == (("C", 3), ("A", 2), ("B", 1))


near = st.integers(0, 12).map(str)
spelling = st.sampled_from(["Paris", "paris", "PARIS.", "Lyon", "lyon", "", "?"])


@given(st.lists(st.none() | near, max_size=12), st.integers(0, 2**32), st.integers(1, 4))
@settings(deadline=None)
def test_the_order_of_the_answers_changes_nothing_though_same_is_not_transitive(answers, seed, reach):
    def close(one: str, other: str) -> bool:
        return abs(int(one) - int(other)) <= reach

    for kind in ("mcq", "open", "math"):
        mixed = answers.copy()
        random.Random(seed).shuffle(mixed)
        found = decide(answers, kind, close)
        assert decide(mixed, kind, close) == found
        assert sum(size for _, size in found.groups) == found.valid == sum(one is not None for one in answers)
        assert all(found.groups[0][1] >= size for _, size in found.groups)


@given(st.lists(spelling, max_size=10), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_same_for_spellings(answers, seed):
    mixed = answers.copy()
    random.Random(seed).shuffle(mixed)
    assert decide(mixed, "open", same_text) == decide(answers, "open", same_text)


class Never:
    """Math that text and exact numbers settle asks nobody."""

    async def any_equal(self, golds, answer):
        raise AssertionError(f"asked whether {answer} is {golds}")


class Says:
    """Answers every question in one way, and remembers it."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    async def any_equal(self, golds, answer):
        self.asked.append((golds, answer))
        return self.reply


def math_vote(answers, slow):
    same = asyncio.run(math_same(answers, slow))
    return decide(answers, "math", same)


def test_math_answers_that_numbers_settle_are_grouped_without_a_worker():
    found = math_vote(["1/2", "0.5", r"\frac{1}{2}", "x = 0.5", "2", None, " 0.5 "], Never())
    assert (found.winner, found.winning, found.valid) == ("0.5", 5, 6)


def test_one_sided_equality_is_none():
    # 1+1 is not accepted where 2 is the ground truth, whatever a worker says the other way round.
    found = math_vote(["2", "1+1"], Says(Reply(True)))
    assert found.groups == (("2", 1), ("1+1", 1))


def test_math_in_real_workers_groups_what_only_algebra_can():
    async def find():
        answers = [r"2\sqrt{3}", r"\sqrt{12}", r"\frac{6}{\sqrt{3}}", "3.46", r"\sin(x)^2+\cos(x)^2", "1", None]
        async with WorkerPool(1, deadline_s=30, warm_up=False) as pool:
            same = await math_same(answers, pool)
        shuffled = answers[::-1]
        return decide(answers, "math", same), decide(shuffled, "math", same)

    found, again = asyncio.run(find())
    assert found == again
    assert found.winning == 3 and found.winner in (r"2\sqrt{3}", r"\sqrt{12}")
    assert dict(found.groups)["3.46"] == 1


def test_what_takes_too_long_is_another_answer_and_a_broken_grader_stops():
    late = Says(Reply(False, "timeout"))
    assert len(math_vote([r"\sqrt{12}", r"\log(x+y)"], late).groups) == 2 and late.asked
    with pytest.raises(UserError, match="grader failed on the answers"):
        math_vote([r"\sqrt{12}+x", r"\log(x+y)"], Says(Reply(False, "error")))


@given(st.integers(2, 26), st.integers(0, 10**9), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_every_option_stands_in_every_place_once_in_a_round(count, seed, start):
    options = [f"text {n}" for n in range(count)]
    first = start * count
    places = [
        [text for _, text in shuffled_options(options, seed, draw).options] for draw in range(first, first + count)
    ]
    for draw in places:
        assert sorted(draw) == sorted(options)
    for place in range(count):
        assert len({draw[place] for draw in places}) == count


@given(st.integers(1, 26), st.text(max_size=5), st.integers(0, 100))
@settings(deadline=None)
def test_a_shown_label_is_mapped_back_to_the_one_it_was_written_under(count, seed, draw):
    options = [f"text {n}" for n in range(count)]
    shown = shuffled_options(options, seed, draw)
    assert shown == shuffled_options(options, seed, draw)
    assert shown.lines() == "\n".join(f"{label}. {text}" for label, text in shown.options)
    for label, text in shown.options:
        meant = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[options.index(text)]
        for answer in (label, f"{label}. {text}", text, rf"\text{{{label}}}"):
            assert shown.answer(f"<think>so</think> It is \\boxed{{{answer}}}.") == meant


def test_draws_differ_and_so_do_questions():
    options = ["a", "b", "c", "d"]
    assert len({shuffled_options(options, 1, draw).labels for draw in range(4)}) == 4
    assert len({shuffled_options(options, seed, 0).labels for seed in range(40)}) > 10


@pytest.mark.parametrize("count", [0, 27])
def test_options_that_cannot_be_labelled(count):
    with pytest.raises(ValueError, match=f"{count} options"):
        shuffled_options(["x"] * count, 0, 0)


@pytest.mark.parametrize(
    "solution",
    [
        "It is A.",
        r"\boxed{}",
        r"\boxed{E}",
        r"\boxed{A,B}",
        r"\boxed{unanswerable}",
        r"\boxed{A. ice}",  # the text of another option, whichever is shown as A
        r"<think>\boxed{A}</think> I am not sure",
        r"\boxed{A} or rather \boxed{B",
    ],
)
def test_what_names_no_single_option_is_no_answer(solution):
    shown = shuffled_options(["steam", "water", "snow", "hail"], 0, 0)
    assert shown.answer(solution) is None


@pytest.mark.parametrize(
    ("solution", "said"),
    [
        (r"<think>x</think> \boxed{unanswerable}", True),
        (r"So \boxed{\text{Cannot be determined from the data}}", True),
        (r"\boxed{none of the above}", True),
        ("None of the options fits, so there is no correct answer.", True),
        ("<think>this cannot be determined, or can it?</think> The answer is 5.", False),
        (r"At first it cannot be determined, but then \boxed{5}", False),
        (r"\boxed{None}", False),
        (r"\boxed{\varnothing}", False),
        ("", False),
    ],
)
def test_solutions_that_say_there_is_no_answer(solution, said):
    assert declines(solution) is said


def test_boxed_answers():
    assert boxed_answer(r"<think>\boxed{1}</think> so \boxed{ \frac{1}{2} }") == r"\frac{1}{2}"
    assert boxed_answer(r"\boxed{unanswerable}") is None
    assert boxed_answer("five") is None
