"""From item to verdict: statuses, their precedence, bad ground truths, the exact rule, and the JSON forms."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_helpers import Failing, item, rows

from reward_server.scoring import math, mcq, symbolic
from reward_server.scoring.judge import Reply, judge
from reward_server.verdicts import STATUSES, Item, Verdict, rules_hash

OPTIONS = {"A": "London", "C": "Paris"}
THINK = "<think>a</think>"


class InProcess:
    """Slow math without a worker."""

    async def gold_is_good(self, gold):
        return Reply(bool(math.check_gold(gold, symbolic.good)))

    async def any_equal(self, golds, answer):
        return Reply(any(math.compare(gold, answer, symbolic.same) for gold in golds))


def verdict(one, match="equivalent", slow=None):
    return asyncio.run(judge(one, match, slow or InProcess()))


STATUS = [
    (item(), "correct", 1.0, 1, 1),
    (item(answer="6"), "wrong", 0.0, 0, 1),
    (item(response=r"\boxed{5}"), "bad_format", 0.0, 1, 0),
    (item(response=r"\boxed{6}"), "bad_format", 0.0, 0, 0),
    (item(response=THINK + "5"), "no_box", 0.0, 0, 0),
    (item(response=THINK + r"\boxed{}"), "no_box", 0.0, 0, 0),
    (item(response=THINK + r"\boxed{5} \boxed{5"), "no_box", 0.0, 0, 0),
    (item(response=THINK + r"\boxed{5", finish_reason="length"), "truncated", 0.0, 0, 0),
    (item(response="<think>on and on", finish_reason="length"), "truncated", 0.0, 0, 0),
    (item(response=r"<think>\boxed{5}</think> so", finish_reason="length"), "truncated", 0.0, 0, 0),
    (item(response=THINK + r"\boxed{}", finish_reason="length"), "no_box", 0.0, 0, 0),
    (item(response=THINK + r"\boxed{5} and then", finish_reason="length"), "correct", 1.0, 1, 1),
    (item(response=r"so</think>\boxed{5}", think_prefilled=True), "correct", 1.0, 1, 1),
    (item(gold=""), "bad_gold", None, None, 1),
    (item(gold=[]), "bad_gold", None, None, 1),
    (item(gold=["5", " "]), "bad_gold", None, None, 1),
    (item(gold=r"\frac{1"), "bad_gold", None, None, 1),
    (item(gold="1+", response="no box"), "bad_gold", None, None, 0),
    (item(gold="", response="cut", finish_reason="length"), "bad_gold", None, None, 0),
    (item(gold=["4", "5"]), "correct", 1.0, 1, 1),
    (item(gold=[r"\sqrt2", "2.5"], answer=r"\frac{2}{\sqrt2}"), "correct", 1.0, 1, 1),
    (item("mcq", "C", "C", options=OPTIONS), "correct", 1.0, 1, 1),
    (item("mcq", "C", "Z", options=OPTIONS), "bad_gold", None, None, 1),
    (item("mcq", "C. Paris", "C. London", options=OPTIONS), "bad_gold", None, None, 1),
    (item("mcq", "Paris", "Paris"), "bad_gold", None, None, 1),
    (item("open", "Paris.", "paris"), "correct", 1.0, 1, 1),
    (item("open", "x", " . "), "bad_gold", None, None, 1),
    (item("open", "1+1", "2"), "wrong", 0.0, 0, 1),
    (item(response="<think>\x00\ud800</think>\\boxed{5}"), "correct", 1.0, 1, 1),
]


@pytest.mark.parametrize(("one", "status", "reward", "accuracy", "format_bit"), STATUS)
def test_status(one, status, reward, accuracy, format_bit):
    given = verdict(one)
    assert (given.status, given.reward, given.accuracy, given.format) == (status, reward, accuracy, format_bit)
    assert given.is_valid == (reward is not None)


EXACT = [
    (item(), "correct"),
    (item(answer=" 5 "), "correct"),
    (item(answer="5.0"), "wrong"),
    (item(answer=r"\frac{10}{2}"), "wrong"),
    (item(gold="not $ math {"), "wrong"),
    (item("open", "Paris", "paris"), "wrong"),
    (item("open", "paris", "paris"), "correct"),
    (item("mcq", "C", "C", options=OPTIONS), "correct"),
    (item("mcq", "(C)", "C", options=OPTIONS), "wrong"),
    (item("mcq", "C. Paris", "C. Paris", options=OPTIONS), "correct"),
    (item("mcq", "C", "C. Paris", options=OPTIONS), "wrong"),
    (item("mcq", "C", "Z", options=OPTIONS), "bad_gold"),
    (item("mcq", "Paris", "Paris"), "correct"),
    (item(gold=""), "bad_gold"),
]


@pytest.mark.parametrize(("one", "status"), EXACT)
def test_exact(one, status):
    assert verdict(one, "exact", Failing("error", "error")).status == status


@pytest.mark.parametrize(
    ("one", "slow", "status", "accuracy"),
    [
        (item(answer=r"\sqrt{25}"), Failing("timeout"), "timeout", 0),
        (item(answer=r"\sqrt{25}"), Failing("error"), "error", None),
        (item(gold=r"\ln 2", answer="x"), Failing("timeout", "error"), "error", None),
        (item(gold=r"\ln 2", response="no box"), Failing(None, "error"), "error", None),
        (item(response=r"\boxed{\sqrt{25}}"), Failing("timeout"), "timeout", 0),
        (item(gold=["5", r"\ln 2"]), Failing("timeout"), "correct", 1),
        (item(response="no box"), Failing("error", "error"), "no_box", 0),
    ],
)
def test_failures_of_slow_math(one, slow, status, accuracy):
    given = verdict(one, slow=slow)
    assert (given.status, given.accuracy) == (status, accuracy)
    assert given.is_valid == (status != "error")


def test_statuses_are_in_their_order():
    order = "error bad_gold timeout truncated no_box bad_format wrong correct"
    assert order.split() == list(STATUSES)


ANY = st.text(st.characters(exclude_categories=()), max_size=40)


@given(st.sampled_from(["mcq", "open", "math"]), ANY, ANY, st.booleans(), st.sampled_from(["equivalent", "exact"]))
def test_reward_is_accuracy_and_format_for_any_text(kind, answer, gold, with_options, match):
    one = item(kind, answer, gold, options={"A": answer, "B": gold} if with_options else None)
    given = verdict(one, match)
    assert given.status in STATUSES
    if given.is_valid:
        assert given.reward == float(given.accuracy and given.format)
    else:
        assert given.reward is None and given.accuracy is None


@given(ANY, st.sampled_from(["x", "5", r"\boxed{5}", ""]))
def test_a_bad_gold_is_bad_for_every_response(gold, response):
    one, other = (verdict(item(gold=gold, response=text)) for text in (response, THINK + r"\boxed{7}"))
    assert (one.status == "bad_gold") == (other.status == "bad_gold")


@pytest.mark.parametrize("options", [None, {"A": "x", "B": "y"}])
def test_items_survive_json(options):
    one = item("mcq", "A", ["A", "B"], options=options, finish_reason="length", think_prefilled=True)
    assert Item.from_json(one.to_json()) == one
    assert Item.from_json({**item().to_json(), "ground_truth": "5"}) == item()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 5}, "id: 5 is not a string"),
        ({"kind": "maths"}, 'kind: "maths" is not one of mcq, open, math'),
        ({"response": None}, "response: null is not a string"),
        ({"ground_truth": 5}, "ground_truth: 5 is neither"),
        ({"ground_truth": [5]}, "ground_truth: [5] is neither"),
        ({"options": ["A"]}, 'options: ["A"] is not a JSON object'),
        ({"options": {}}, "options: {} is not a JSON object"),
        ({"options": {"A": 1}}, "options:"),
        ({"options": {" ": "x"}}, "empty label"),
        ({"options": {"(A)": "x", "(B)": "y"}}, 'options: the label "(A)" never matches'),
        ({"options": {"A": "x", "(" * 90: "y", "$B$": "z"}}, 'options: the label "$B$" never matches'),
        ({"options": {"A,B": "x"}}, 'options: the label "A,B" never matches'),
        ({"finish_reason": 3}, "finish_reason: 3 is not a string"),
        ({"think_prefilled": "yes"}, 'think_prefilled: "yes" is not true or false'),
        ({"think_prefiled": True}, '"think_prefiled": unknown field'),
        ({"response": ["\ud800" * 500]}, "response: "),
    ],
)
def test_malformed_items_name_the_field(change, message):
    with pytest.raises(ValueError) as error:
        Item.from_json({**item().to_json(), **change})
    assert message in str(error.value) and str(error.value).isascii() and len(str(error.value)) < 250


@given(st.text(min_size=1), st.lists(st.sampled_from(["(", ")", "[", "]", '"', "$", ",", " ", "A"]), max_size=5))
def test_a_label_that_is_taken_is_the_label_that_an_answer_names(label, pieces):
    for name in (label, "".join(pieces)):
        try:
            one = Item.from_json({**item("mcq", name, name).to_json(), "options": {name: "x", "other": "y"}})
        except ValueError:
            assert not name.isalnum()
            continue
        assert mcq.labels(name, one.options) == {name}


def test_missing_fields_and_other_shapes():
    for name in ("id", "kind", "response", "ground_truth"):
        with pytest.raises(ValueError, match=f"{name}: is missing"):
            Item.from_json({key: value for key, value in item().to_json().items() if key != name})
    with pytest.raises(ValueError, match="expected a JSON object"):
        Item.from_json([])


def test_verdicts_survive_json_and_refuse_nonsense():
    one = verdict(item())
    assert Verdict.from_json(one.to_json()) == one
    for change in ({"status": "fine"}, {"reward": None}, {"status": "bad_gold"}):
        with pytest.raises(ValueError):
            Verdict.from_json({**one.to_json(), **change})


def test_rules_hash_depends_on_the_match():
    assert rules_hash("equivalent") != rules_hash("exact") and len(rules_hash("exact")) == 12


def test_real_multiple_choice_rows_judge_themselves():
    for row in rows("mmlu_pro_test_sample")[:200]:
        options = {chr(65 + index): text for index, text in enumerate(row["options"])}
        gold = row["answer"]
        long = f"{gold}. {options[gold]}"
        wrong = next(label for label in options if label != gold)
        assert verdict(item("mcq", gold, gold, options=options)).status == "correct"
        assert verdict(item("mcq", wrong, gold, options=options)).status == "wrong"
        if "{" not in long.replace("\\{", ""):
            assert verdict(item("mcq", long, gold, options=options)).status == "correct", long
            assert verdict(item("mcq", f"{wrong}. {options[gold]}", gold, options=options)).status == "wrong"
