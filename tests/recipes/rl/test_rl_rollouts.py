"""Generating and judging: whose verdict belongs to whom, and when a step stops."""

import threading
import time

import pytest
from rl_helpers import prompt, response, rollout_batch
from tiny_helpers import small_tokenizer

from crossthink.errors import EXIT_FAILED, StoppedEarly, UserError
from recipes.rl.pending import PendingRollout, decode
from recipes.rl.records import PhaseClock
from recipes.rl.rollouts import InvalidVerdictsError, check_invalid, generate, judge, rollout
from recipes.rollout.interface import Response, SamplingParams
from reward_server.verdicts import Verdict

PARAMS = SamplingParams(1.0, 1.0, 8, (0,), 300, seed=0, step=3)


class Judge:
    """Right are responses that hold the ground truth; "broken" cannot be judged. Remembers what it was asked."""

    def score(self, items):
        self.items = items
        return [self.one(item) for item in items]

    def one(self, item):
        if item.response == "broken":
            return Verdict(item.id, None, None, 0, None, "error", 0.0)
        right = any(gold in item.response for gold in item.ground_truth)
        return Verdict(item.id, float(right), int(right), 1, item.response, "correct" if right else "wrong", 0.1)


class FailingJudge:
    def __init__(self, error):
        self.error = error

    def score(self, items):
        raise self.error


def test_judge_sends_everything_and_gives_each_its_own(alone):
    prompts = [prompt(0, kind="mcq"), prompt(1, kind="math", ground_truth=["7", "seven"])]
    responses = [[response(2), response(3, "length")], [response(1), response(4)]]
    texts = [["A", "B"], ["it is seven", "broken"]]
    client = Judge()
    verdicts = judge(client, prompts, responses, texts, think_prefilled=True)
    assert [[v.status for v in group] for group in verdicts] == [["correct", "wrong"], ["correct", "error"]]
    assert [v.is_valid for v in verdicts[1]] == [True, False]
    asked = [item.to_json() for item in client.items]
    assert asked[0] == {
        "id": "0.0",
        "kind": "mcq",
        "response": "A",
        "ground_truth": ["A"],
        "options": {"A": "one", "B": "two"},
        "finish_reason": "stop",
        "think_prefilled": True,
        "source": prompts[0].row.source,
        "response_tokens": 2,
    }
    assert asked[1]["finish_reason"] == "length"
    assert asked[3] == {
        "id": "1.1",
        "kind": "math",
        "response": "broken",
        "ground_truth": ["7", "seven"],
        "finish_reason": "stop",
        "think_prefilled": True,
        "source": prompts[1].row.source,
        "response_tokens": 4,
    }


@pytest.mark.parametrize("error", [UserError("no server at http://x"), StoppedEarly("stopped")])
def test_a_failure_keeps_its_message_and_code(alone, error):
    """A failing server is never a reward of zero."""
    with pytest.raises(UserError) as caught:
        judge(FailingJudge(error), [prompt()], [[response(1)]], [["A"]], False)
    assert str(caught.value) == str(error) and caught.value.exit_code == error.exit_code


def test_a_bug_in_the_judge_is_not_hidden(alone):
    with pytest.raises(ZeroDivisionError):
        judge(FailingJudge(ZeroDivisionError()), [prompt()], [[response(1)]], [["A"]], False)


class Engine:
    """Answers prompt p, sample g with the tokens of "p g"."""

    def __init__(self):
        self.calls = []

    def generate(self, requests, params):
        self.calls.append((list(requests), params))
        found = []
        for request in requests:
            ids = small_tokenizer()(f"{request.prompt} {request.sample}")["input_ids"]
            found.append(Response([*ids, small_tokenizer().eos_token_id], [-0.25] * (len(ids) + 1), "stop", 4))
        return found


@pytest.mark.parametrize(("count", "group"), [(1, 1), (1, 4), (3, 1), (5, 3), (12, 2)])
def test_generate_asks_for_every_sample_of_every_prompt(alone, count, group):
    engine = Engine()
    prompts = [prompt(n, token_ids=(1, 2, n)) for n in range(count)]
    found = generate(engine, prompts, group, PARAMS)
    texts = [[decode(small_tokenizer(), r.token_ids) for r in one] for one in found]
    assert texts == [[f"{p} {g}" for g in range(group)] for p in range(count)]
    ((requests, params),) = engine.calls
    assert params is PARAMS
    assert {(r.prompt, r.sample): r.prompt_ids for r in requests} == {
        (p, g): (1, 2, p) for p in range(count) for g in range(group)
    }


def test_rollout_puts_the_pieces_together(alone):
    clock = PhaseClock()
    prompts = [prompt(n, ground_truth=[f"{n} 1"]) for n in range(3)]
    batch = rollout(Engine(), Judge(), small_tokenizer(), prompts, 2, PARAMS, False, clock)
    assert [(s.prompt.row.id, s.number, s.text) for s in batch.samples] == [
        (prompts[p].row.id, g, f"{p} {g}") for p in range(3) for g in range(2)
    ]
    assert batch.rewards_pg.tolist() == [[0, 1]] * 3
    assert all(s.response.weight_version == 4 for s in batch.samples)
    assert set(clock.seconds) == {"rollout", "reward"}


def test_a_response_is_read_without_special_tokens_and_otherwise_as_it_is():
    """The judge sees think tags and blanks, never the stop token; no detokenizer tidies blanks before a stop."""
    tokenizer = small_tokenizer()
    text = "<think> a , b </think>\n\\boxed{ 1 . }  n't "
    ids = tokenizer(text + "<|im_end|><|endoftext|>")["input_ids"]
    assert decode(tokenizer, ids) == text


@pytest.mark.parametrize(
    ("invalid", "of", "limit", "stops"),
    [
        (0, 8, 0.0, False),
        (1, 8, 0.0, True),
        (1, 8, 0.125, False),  # at the limit is not above it
        (2, 8, 0.125, True),
        (8, 8, 0.99, True),
        (8, 8, 1.0, False),
    ],
)
def test_check_invalid(invalid, of, limit, stops):
    batch = rollout_batch([[None if i < invalid else 1.0] for i in range(of)])
    if not stops:
        check_invalid(batch, limit)
        return
    with pytest.raises(InvalidVerdictsError) as caught:
        check_invalid(batch, limit)
    message = str(caught.value)
    assert f"{invalid} of {of} verdicts ({invalid / of:.1%})" in message and f"reward.max_invalid={limit}" in message
    assert batch.samples[0].prompt.row.id in message and "bad_gold" in message
    assert caught.value.exit_code == EXIT_FAILED


class Gated:
    """Responses one by one, each when a permit is there. `taken`: how many the rollout has."""

    def __init__(self):
        self.permits, self.taken = threading.Semaphore(0), 0

    def stream(self, requests, params):
        for index in range(len(requests)):
            assert self.permits.acquire(timeout=30)
            yield index, response(2)
            self.taken += 1


@pytest.mark.parametrize(
    ("count", "least", "at_once"), [(8, 2, 3), (8, 3, 5), (9, 4, 8), (5, 5, 5), (3, 4, 3), (9, 2, 8)]
)
def test_groups_come_in_parts_that_every_rank_can_share(alone, count, least, at_once):
    """However many are whole when one asks, the last part is no smaller than the others may be."""
    engine, tokenizer = Gated(), small_tokenizer()
    pending = PendingRollout(engine, Judge(), tokenizer, [prompt(p) for p in range(count)], 1, PARAMS, False)
    engine.permits.release(at_once)
    while engine.taken < at_once:
        time.sleep(0.001)
    parts, groups = [], pending.groups(least)
    for part in groups:
        parts.append([p for p, _ in part])
        engine.permits.release(count)
    assert sum(parts, []) == [*range(count)]
    assert min(map(len, parts)) >= min(least, count)
    assert len(pending.finish(PhaseClock().phase).samples) == count
