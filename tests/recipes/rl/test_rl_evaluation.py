"""Greedy evaluation: what a response answers whatever its form, and how answers are counted."""

import pytest
from rl_helpers import prompt
from tiny_helpers import small_tokenizer

from recipes.rl.evaluation import evaluate, loose_answer, pool_prompts, summarise
from recipes.rl.prompts import make_prompt
from recipes.rollout.interface import Response, SamplingParams
from reward_server.verdicts import Verdict

PARAMS = SamplingParams(1.0, 0.9, 8, (0,), 300, seed=0, step=3)


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        # A box counts for every kind: the last one, nested braces included.
        ("math", "<think>x</think>\\boxed{42}", "42"),
        ("math", "\\boxed{1} then \\boxed{2}", "2"),
        ("math", "\\boxed{\\frac{1}{2}} ", "\\frac{1}{2}"),
        ("math", "\\boxed{}", ""),
        ("mcq", "\\boxed{B}", "B"),
        ("open", "<think>a b</think>\\boxed{two words}", "two words"),
        # The last box is unclosed: what else is there.
        ("math", "\\boxed{1} and \\boxed{2", "2"),
        ("mcq", "It is \\boxed{B", "B"),
        # No box: the last number, fractions, decimals and signs included.
        ("math", "12+30=42", "42"),
        ("math", "<think>7-9</think>-2", "-2"),
        ("math", "about 3.14 or 22/7.", "22/7"),
        ("math", "nothing", ""),
        ("math", "", ""),
        # The last letter that stands alone.
        ("mcq", "find pens C", "C"),
        ("mcq", "A. pens, so (D).", "D"),
        ("mcq", "BAD CAB", ""),
        ("mcq", "K", ""),  # no such label
        # The last word after the thinking.
        ("open", "<think>9>7 Ben</think>Ben", "Ben"),
        ("open", "Ana or Ben", "Ben"),
        ("open", "<think>Ben</think>", ""),
        ("open", "  ", ""),
    ],
)
def test_loose_answer(kind, text, answer):
    assert loose_answer(text, kind) == answer


def result(domain, kind, source, reward, accuracy=None, form=1, loose=None, tokens=4, finish="stop"):
    """A row of samples.jsonl, as far as it is counted."""
    accuracy = accuracy if accuracy is not None or reward is None else int(reward)
    status = "error" if reward is None else "correct" if accuracy and form else "wrong" if form else "bad_format"
    return {
        "domain": domain,
        "kind": kind,
        "source": source,
        "finish_reason": finish,
        "token_ids": list(range(tokens)),
        "verdict": {"reward": reward, "accuracy": accuracy, "format": form, "status": status},
        "answer_accuracy": loose if loose is not None or reward is None else int(reward),
    }


ROWS = [
    result("gpr", "mcq", "mmlu_train", 1.0, tokens=2),
    result("gpr", "mcq", "mmlu_train", 0.0, accuracy=1, form=0, loose=1, tokens=4),
    result("gpr", "open", "natural_reasoning", None, tokens=30),
    result("math", "math", "math", 0.0, loose=1, tokens=6),
    result("math", "math", "numina_math", 0.0, form=0, tokens=8, finish="length"),
]


def test_summary_by_hand():
    """Four of five are valid. Rewards 1 0 0 0, accuracy 1 1 0 0, format 1 0 1 0, loose answers 1 1 1 0."""
    found = summarise(ROWS)
    groups = {name: found.pop(name) for name in ("by_domain", "by_kind", "by_source")}
    assert found == {
        "questions": 5,
        "invalid": 1,
        "right": 1,
        "wrong": 3,
        "reward": 0.25,
        "accuracy": 0.5,
        "format": 0.5,
        "answer_accuracy": 0.75,
        "truncated": 0.2,
        "tokens": 10.0,
        "tokens_right": 2.0,
        "tokens_wrong": 6.0,
    }
    assert list(groups["by_domain"]) == ["gpr", "math"]
    assert list(groups["by_kind"]) == ["math", "mcq", "open"]
    assert list(groups["by_source"]) == ["math", "mmlu_train", "natural_reasoning", "numina_math"]
    assert groups["by_domain"]["gpr"]["reward"] == 0.5 and groups["by_domain"]["gpr"]["invalid"] == 1
    assert groups["by_kind"]["mcq"]["questions"] == 2 and groups["by_kind"]["mcq"]["answer_accuracy"] == 1.0
    for parts in groups.values():
        assert sum(part["questions"] for part in parts.values()) == 5


def test_a_wrong_answer_with_a_shaped_reward_is_wrong():
    """As format_credit=0.1 gives it; and a right one whose length has cost all of its reward is right."""
    rows = [
        result("math", "math", "math", 0.9, accuracy=1, tokens=2),
        result("math", "math", "math", 0.0, accuracy=1, tokens=8),
        result("math", "math", "math", 0.1, accuracy=0, tokens=7),
        result("math", "math", "math", 0.0, form=0, tokens=9),
    ]
    found = summarise(rows)
    assert (found["right"], found["wrong"]) == (2, 2)
    assert (found["tokens_right"], found["tokens_wrong"]) == (5.0, 8.0)


def test_a_mean_of_nothing_is_none():
    """Not 0: nobody could be judged, or nobody was wrong."""
    unjudged = summarise(ROWS)["by_kind"]["open"]
    assert (unjudged["questions"], unjudged["invalid"]) == (1, 1)
    names = ("reward", "accuracy", "format", "answer_accuracy", "tokens_right", "tokens_wrong")
    assert [unjudged[name] for name in names] == [None] * 6
    assert unjudged["tokens"] == 30.0
    assert summarise(ROWS[:1])["tokens_wrong"] is None
    assert summarise([])["reward"] is None and summarise([])["by_kind"] == {}


class Engine:
    """Answers with given texts."""

    def __init__(self, texts):
        self.texts = texts

    def generate(self, requests, params):
        self.requests, self.params = requests, params
        tokenizer = small_tokenizer()
        ids = [tokenizer(self.texts[r.prompt], add_special_tokens=False)["input_ids"] for r in requests]
        return [Response([*one, tokenizer.eos_token_id], [-0.5] * (len(one) + 1), "stop", 0) for one in ids]


class Judge:
    """Right is what holds a box with the ground truth; the form is right where thinking comes first."""

    def __init__(self):
        self.asked = []

    def score(self, items):
        self.asked.append(items)
        found = []
        for item in items:
            right = int(f"\\boxed{{{item.ground_truth[0]}}}" in item.response)
            form = int(item.response.startswith("<think>"))
            status = "correct" if right and form else "wrong"
            found.append(Verdict(item.id, float(right and form), right, form, None, status, 0.0))
        return found


def test_evaluate(alone):
    prompts = [prompt(12, kind="math"), prompt(30, kind="math"), prompt(2, kind="mcq")]
    engine = Engine(["<think>x</think>\\boxed{12}", "it is 30", "\\boxed{B}"])
    judge = Judge()
    summary, rows = evaluate(engine, judge, small_tokenizer(), prompts, PARAMS, think_prefilled=True)
    assert engine.params.temperature == 0.0 and engine.params.top_p == PARAMS.top_p
    assert [(r.prompt, r.sample) for r in engine.requests] == [(0, 0), (1, 0), (2, 0)]
    # Judged twice: as it was written, and the bare answer in the form that the rules ask for.
    written, bare = judge.asked
    assert [item.response for item in written] == engine.texts
    assert [item.response for item in bare] == [f"<think></think>\\boxed{{{a}}}" for a in ("12", "30", "B")]
    assert [item.think_prefilled for item in written + bare] == [True] * 3 + [False] * 3
    assert [row["verdict"]["reward"] for row in rows] == [1.0, 0.0, 0.0]
    assert [row["answer_accuracy"] for row in rows] == [1, 1, 0]
    assert [row["question"] for row in rows] == ["question 12", "question 30", "question 2"]
    assert not {"step", "sample", "log_probs"} & set(rows[0])
    assert summary == summarise(rows)
    assert (summary["reward"], summary["answer_accuracy"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


class Rows:
    """As much of a pool as `pool_prompts` reads."""

    def __init__(self, *rows):
        self._rows = rows

    def rows(self):
        return iter(self._rows)


def test_prompts_of_a_pool():
    tokenizer = small_tokenizer()
    rows = [prompt(n).row for n in range(4)]
    long = prompt(9, prompt=[{"role": "user", "content": "very long " * 20}]).row
    limit = len(make_prompt(rows[0], tokenizer).token_ids)
    found, too_long = pool_prompts(Rows(rows[0], long, *rows[1:]), tokenizer, limit)
    assert ([p.row.id for p in found], too_long) == ([row.id for row in rows], 1)
    found, too_long = pool_prompts(Rows(rows[0], long, *rows[1:]), tokenizer, limit, limit=1)
    assert ([p.row.id for p in found], too_long) == ([rows[0].id], 0)
    assert pool_prompts(Rows(*rows), tokenizer, limit - 1) == ([], 4)
