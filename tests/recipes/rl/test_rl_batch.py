"""A rollout batch: its parts, what the actor gets of it, and what the metrics say."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import prompt, response, rollout_batch, verdict

from conf.algorithm import AlgorithmConfig
from recipes.rl.batch import RolloutBatch, Sample
from recipes.rl.credit import with_advantages, with_weights

ALGORITHM = AlgorithmConfig()
LONGEST = 20


def training_samples(batch, tokenized, algorithm):
    """What one optimizer step over the whole batch is made from."""
    return with_weights(batch, with_advantages(batch, tokenized, algorithm, LONGEST), algorithm, LONGEST)


def test_rewards_and_validity_stand_by_prompt_and_sample():
    batch = rollout_batch([[1.0, None], [0.0, 1.0], [None, None]])
    assert batch.rewards_pg.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert batch.valid_pg.tolist() == [[True, False], [True, True], [False, False]]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_parts_are_equal_and_cut_between_prompts(count):
    batch = rollout_batch([[1.0, 0.0]] * 6)
    parts = list(batch.parts(count))
    assert len(parts) == count
    assert [sample for part in parts for sample in part.samples] == list(batch.samples)
    for part in parts:
        assert part.group == 2 and part.rewards_pg.shape == (6 // count, 2)


def test_tokenized():
    batch = rollout_batch([[1.0, 0.0]], [[2, 3]])
    one, other = batch.tokenized()
    assert (one.token_ids, one.prompt_length, one.response_length) == ([1, 2, 3, 10, 11], 3, 2)
    assert (other.token_ids, other.response_length) == ([1, 2, 3, 10, 11, 12], 3)
    assert other.per_token["rollout_log_probs"].tolist() == [-0.5, -1.0, -1.5]


def test_what_is_trained_on_by_hand():
    """Two prompts of three samples, one verdict invalid: five responses count, and lengths 1 to 5 share 1/5 each.

    First group: rewards 1, 0, 0: mean 1/3, squares 4/9 + 1/9 + 1/9 = 2/3, unbiased variance 1/3.
    Second group: rewards 1, 0 and one invalid: mean 1/2, variance 1/2.
    """
    batch = rollout_batch([[1.0, 0.0, 0.0], [None, 1.0, 0.0]], [[1, 2, 3], [9, 4, 5]])
    found = training_samples(batch, batch.tokenized(), ALGORITHM)
    first, second = math.sqrt(1 / 3) + 1e-6, math.sqrt(1 / 2) + 1e-6
    advantages = [2 / 3 / first, -1 / 3 / first, -1 / 3 / first, 0, 0.5 / second, -0.5 / second]
    weights = [1 / 5, 1 / 10, 1 / 15, 0, 1 / 20, 1 / 25]
    for sample, advantage, weight, length in zip(found, advantages, weights, [1, 2, 3, 9, 4, 5], strict=True):
        assert sample.per_token["advantages"].tolist() == pytest.approx([advantage] * length)
        assert sample.per_token["weights"].tolist() == pytest.approx([weight] * length)


def test_the_actors_own_log_probs_are_kept():
    batch = rollout_batch([[1.0, 0.0]], [[1, 2]])
    tokenized = [
        dataclasses.replace(s, per_token={**s.per_token, "old_log_probs": torch.ones(s.response_length)})
        for s in batch.tokenized()
    ]
    for before, after in zip(tokenized, training_samples(batch, tokenized, ALGORITHM), strict=True):
        assert set(after.per_token) == {"rollout_log_probs", "old_log_probs", "advantages", "weights"}
        assert after.token_ids == before.token_ids and after.prompt_length == before.prompt_length


REWARD = st.sampled_from([0.0, 1.0, None])


@given(st.integers(1, 4).flatmap(lambda g: st.lists(st.lists(REWARD, min_size=g, max_size=g), min_size=1, max_size=6)))
@settings(deadline=None, max_examples=60)
def test_weights_sum_to_one_over_each_optimizer_step(rewards):
    """Counted: valid, in a group with two valid at least. All others have weight 0 and advantage 0."""
    batch = rollout_batch(rewards)
    for part in batch.parts(len(rewards) if len(rewards) % 2 else len(rewards) // 2):
        found = training_samples(part, part.tokenized(), ALGORITHM)
        counted = []
        for start in range(0, len(part.samples), part.group):
            valid = [s.verdict.is_valid for s in part.samples[start : start + part.group]]
            counted += [ok and sum(valid) >= 2 for ok in valid]
        total = sum(float(s.per_token["weights"].sum()) for s in found)
        assert total == pytest.approx(float(any(counted)), abs=1e-5)
        for sample, ok in zip(found, counted, strict=True):
            assert bool((sample.per_token["weights"] > 0).all()) == ok
            assert ok or not sample.per_token["advantages"].any()


@pytest.mark.parametrize(
    ("options", "advantage"),
    [
        (AlgorithmConfig(), 0.5 / (math.sqrt(0.5) + 1e-6)),
        (AlgorithmConfig(unbiased_std=False), 0.5 / (0.5 + 1e-6)),
        (AlgorithmConfig(unbiased_std=False, advantage_epsilon=0.5), 0.5),
    ],
)
def test_the_algorithms_options_reach_the_advantages(options, advantage):
    batch = rollout_batch([[1.0, 0.0]], [[1, 1]])
    found = training_samples(batch, batch.tokenized(), options)
    assert [float(s.per_token["advantages"]) for s in found] == pytest.approx([advantage, -advantage])


def test_metrics_leave_invalid_verdicts_out():
    """Four valid of six: the means are over four, the share of invalid over six, lengths and cuts over all."""
    verdicts = [
        verdict(1.0),
        verdict(0.0, "bad_format", accuracy=1, format=0),
        verdict(0.0, "wrong", accuracy=0, format=1),
        verdict(None, "bad_gold"),
        verdict(None, "error"),
        verdict(0.0, "truncated", accuracy=0, format=0),
    ]
    lengths, ends = [2, 4, 6, 8, 10, 12], ["stop"] * 4 + ["length"] * 2
    samples = [Sample(prompt(i // 2), i % 2, response(lengths[i], ends[i]), "text", verdicts[i]) for i in range(6)]
    assert RolloutBatch(samples, 2).metrics() == pytest.approx(
        {
            "reward": 1 / 4,
            "accuracy": 2 / 4,
            "format": 2 / 4,
            "response_tokens": 7.0,
            "truncated": 2 / 6,
            "zero_variance_groups": 2,  # the second has one valid sample, the third one too
            "invalid": 2 / 6,
        }
    )


def test_metrics_of_nothing_valid_are_finite():
    found = rollout_batch([[None, None]]).metrics()
    assert (found["reward"], found["accuracy"], found["format"], found["invalid"]) == (0, 0, 0, 1)


def test_the_line_of_a_sample():
    """The contract of rollouts/step_NNNNNN.jsonl."""
    sample = Sample(prompt(7, kind="mcq"), 3, response(2, version=5), "die Lösung", verdict(1.0))
    line = json.loads(json.dumps(sample.to_json(12)))
    assert line["verdict"]["status"] == "correct"
    del line["verdict"]
    assert line == {
        "step": 12,
        "prompt_id": f"{7:032x}",
        "sample": 3,
        "source": "numina_math",
        "domain": "math",
        "kind": "mcq",
        "prompt": "question 7",
        "response": "die Lösung",
        "token_ids": [10, 11],
        "log_probs": [-0.5, -1.0],
        "finish_reason": "stop",
        "weight_version": 5,
        "lag": 6,
        "ground_truth": ["A"],
        "options": {"A": "one", "B": "two"},
    }
