"""The numbers of an evaluation: runs averaged by question, what could not be judged left out, groups in their place."""

import json

import pytest
from eval_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.benchmarks import BENCHMARKS
from recipes.evaluation.intervals import bootstrap_interval
from recipes.evaluation.summary import MATH, NON_MATH, PAPER, summarise


def test_runs_are_averaged_by_question_before_the_questions():
    rights = {0: (1, 1, 0), 1: (0, None, 0), 2: (1, None, None), 3: (None, None, None)}
    found = summarise([sample(n, right, run=run) for n, runs in rights.items() for run, right in enumerate(runs)], {})
    assert found["accuracy"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert (found["questions"], found["judged"], found["runs"], found["answers"], found["invalid"]) == (4, 3, 3, 12, 6)
    assert found["accuracy_by_run"] == [pytest.approx(2 / 3), 1.0, 0.0]
    assert found["accuracy_interval"] == list(bootstrap_interval([2 / 3, 0.0, 1.0]))
    assert found["bad_gold"] == [f"{n:032x}" for n in (1, 2, 3)]


def test_the_box_counts_whatever_the_format():
    one = sample(1)
    one["verdict"] |= {"format": 0, "reward": 0.0, "status": "bad_format"}
    found = summarise(
        [one, sample(2, 0, status="no_box"), sample(3, 0, status="truncated", finish_reason="length")], {}
    )
    assert (
        found["accuracy"] == pytest.approx(1 / 3) and found["reward"] == 0 and found["format"] == pytest.approx(2 / 3)
    )
    assert found["no_box"] == pytest.approx(2 / 3) and found["truncated"] == pytest.approx(1 / 3)


def test_tokens_of_right_and_wrong_answers():
    lengths = [(1, 10), (1, 20), (1, 90), (0, 200), (0, None), (None, 1000)]
    tokens = summarise([sample(n, right, tokens=count) for n, (right, count) in enumerate(lengths)], {})["tokens"]
    assert tokens["right"] == {"count": 3, "mean": 40.0, "median": 20.0}
    assert tokens["wrong"] == {"count": 1, "mean": 200.0, "median": 200.0}
    assert tokens["mean"] == pytest.approx(264) and tokens["median"] == 90.0
    unknown = summarise([sample(1, tokens=None)], {})["tokens"]
    assert unknown["mean"] is None and unknown["right"] == {"count": 0, "mean": None, "median": None}


def test_the_average_is_of_the_papers_benchmarks_alone():
    samples = [sample(n, n % 2, "mmlu_test") for n in range(8)] + [sample(n, 1, "math500") for n in range(3)]
    samples += [sample(n, 0, "agieval_math") for n in range(5)] + [sample(n, 0, "own_pool") for n in range(5)]
    assert tuple(BENCHMARKS) == PAPER, "in the same order, and all of them known"
    average = summarise(samples, {})["average"]
    assert average["all"] == 0.75 and average["of"] == ["mmlu_test", "math500"]
    assert average["non_math"] == 0.5 and average["math"] == 1.0
    assert average["missing"] == ["mmlu_pro", "gpqa_diamond", "agieval", "supergpqa", "amc23"]
    assert average["intervals"]["all"][0] < 0.75 < average["intervals"]["all"][1]
    assert average["intervals"]["math"] == [1.0, 1.0]
    nothing = summarise([sample(1, 1, "own_pool")], {})["average"]
    assert nothing["all"] is nothing["intervals"]["all"] is nothing["math"] is None and nothing["of"] == []


def test_the_seven_benchmarks_are_five_and_two():
    assert len(NON_MATH) == 5 and len(MATH) == 2


def test_groups_of_a_benchmark():
    samples = [sample(n, n < 6, "mmlu_pro", groups={"category": "law" if n < 4 else "physics"}) for n in range(10)]
    samples.append(sample(1, 1, "own_pool", domain="math", kind="math", source="numina_math"))
    found = summarise(samples, {"model": "tiny"})
    category = found["benchmarks"]["mmlu_pro"]["groups"]["category"]
    assert list(category) == ["law", "physics"]
    assert category["law"]["accuracy"] == 1 and category["physics"]["accuracy"] == pytest.approx(1 / 3)
    assert found["benchmarks"]["own_pool"]["groups"] == {}
    assert found["by_source"]["numina_math"]["questions"] == 1 and found["by_domain"]["gpr"]["questions"] == 10
    assert set(found["by_kind"]) == {"mcq", "math"} and found["facts"] == {"model": "tiny"}


def test_nothing_at_all():
    found = summarise([], {})
    assert found["questions"] == 0 and found["accuracy"] is None and found["benchmarks"] == {}
    json.dumps(found, allow_nan=False)


@st.composite
def evaluations(draw):
    questions = draw(st.lists(st.sampled_from(["mmlu_test", "amc23", "pool"]), min_size=1, max_size=25))
    runs = draw(st.integers(1, 3))
    verdict = st.sampled_from([0, 1, None])
    tokens = st.sampled_from([None, 1, 2, 300])
    return [
        sample(n, draw(verdict), name, run, draw(tokens)) for n, name in enumerate(questions) for run in range(runs)
    ]


@settings(deadline=None, max_examples=40)
@given(evaluations(), st.randoms(use_true_random=False))
def test_the_order_of_the_answers_changes_nothing(samples, random):
    shuffled = list(samples)
    random.shuffle(shuffled)
    one, other = summarise(samples, {}), summarise(shuffled, {})
    assert one == other
    json.dumps(one, allow_nan=False)


@settings(deadline=None, max_examples=40)
@given(evaluations())
def test_what_could_not_be_judged_is_as_if_it_had_not_been_asked(samples):
    found, without = summarise(samples, {}), summarise([s for s in samples if s["verdict"]["reward"] is not None], {})
    for key in ("accuracy", "accuracy_interval", "reward", "format", "answer_accuracy", "no_box", "judged"):
        assert found[key] == without[key]
    assert found["tokens"]["right"] == without["tokens"]["right"]
    assert found["average"] == without["average"]
    assert found["answers"] == without["answers"] + found["invalid"]
