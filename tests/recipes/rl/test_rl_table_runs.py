"""Whole runs of the loop on a table: every option learns, PPO with a critic, resumes, dumps what was trained on."""

import json

import pytest
import torch
from table_world import STOP, NextNumber, TableActor, table_config, table_run

from crossthink.errors import UserError
from recipes.rl import checkpoints
from recipes.run_files import read_lines


@pytest.fixture(autouse=True)
def _alone(alone):
    """Every run here is of one process."""


def metrics(out):
    return read_lines(out / "metrics.jsonl")


def without_times(lines):
    times = ("seconds", "tokens_per_second", "peak_memory_mb")
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


OPTIONS = {
    "paper": {},
    "token mean": {"average": "token"},
    "Dr. GRPO": {"average": "constant", "divide_by_std": False},
    "clip-higher": {"clip_high": 0.28, "updates_per_rollout": 2},
    "dual clip": {"dual_clip": 3.0, "updates_per_rollout": 2},
    "dynamic sampling": {"dynamic_sampling": 2},
    "masked": {"mask_truncated": True},
    "overlong": {"overlong_buffer": 2},
    "importance": {"importance_cap": 2.0},
    "k1 in the reward": {"kl_estimator": "k1", "kl_in": "reward"},
    "k2 in the loss": {"kl_estimator": "k2"},
    "PPO": {"name": "ppo", "average": "token"},
    "PPO, KL in the reward": {"name": "ppo", "kl_in": "reward", "kl_estimator": "k1", "updates_per_rollout": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_learns(name, tmp_path):
    """From one in 16 or so of right answers; the same run whatever the micro-batches."""
    config = table_config(tmp_path / "a", 25, **OPTIONS[name])
    parts = table_run(config)
    key = "drawn_reward" if config.algorithm.dynamic_sampling else "reward"
    rewards = [line[key] for line in metrics(tmp_path / "a")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2, rewards
    assert parts.actor.steps == 25 * config.updates_per_rollout
    config.out = str(tmp_path / "b")
    config.steps = 3
    table_run(config, budget=60)
    for one, other in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=False):
        for key in ("loss", "grad_norm", "kl", "reward"):
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6)


def test_ppos_critic_learns_what_to_expect(tmp_path):
    """The policy stands still and knows even prompts only: values come to explain returns.

    Only in part, because a value sees no more than the last token.
    """
    config = table_config(tmp_path, 25, name="ppo", optimizer__lr=0.0, kl=0.0, updates_per_rollout=2, value_clip=None)
    actor = TableActor()
    for number in (0, 2, 4):
        actor.table.data[number, number + 1] = actor.table.data[number + 1, STOP] = 5.0
    parts = table_run(config, actor)
    lines = metrics(tmp_path)
    assert parts.critic.steps == parts.actor.steps == 50
    for line in lines:
        names = {"value_loss", "value_clipped", "explained_variance", "values", "returns", "critic_grad_norm"}
        assert names <= line.keys() and line["seconds"]["values"] > 0
        assert line["critic_lr"] == 0.05 and line["lr"] == 0.0
    assert lines[0]["values"] == 0 and lines[0]["explained_variance"] <= 0.0
    last = lines[-5:]
    assert sum(line["explained_variance"] for line in last) > 5 * 0.1
    assert sum(line["value_loss"] for line in last) < sum(line["value_loss"] for line in lines[:5])
    assert last[-1]["values"] == pytest.approx(last[-1]["returns"], abs=0.1)


@pytest.mark.parametrize("options", [{"name": "ppo"}, {"dynamic_sampling": 2, "kl_in": "reward"}])
def test_a_resumed_run_is_the_run_that_never_stopped(options, tmp_path):
    """Also the critic, and the prompts that dynamic sampling has drawn."""
    whole = table_run(table_config(tmp_path / "whole", 8, **options))
    for steps in (5, 8):
        resumed = table_run(table_config(tmp_path / "cut", steps, **options))
    assert without_times(metrics(tmp_path / "cut")) == without_times(metrics(tmp_path / "whole"))
    assert torch.equal(whole.actor.table, resumed.actor.table)
    assert whole.prompts.position == resumed.prompts.position
    if whole.critic:
        assert torch.equal(whole.critic.table, resumed.critic.table) and whole.critic.table.any()


def test_the_dump_holds_what_was_trained_on(tmp_path):
    """Dynamic sampling: ten groups, those that differ first of all, under the numbers that they were drawn by."""
    parts = table_run(table_config(tmp_path, 4, dynamic_sampling=3))
    drawn = 0
    for line in metrics(tmp_path):
        rows = read_lines(tmp_path / "rollouts" / f"step_{line['step']:06d}.jsonl")
        groups = {}
        for row in rows:
            groups.setdefault(row["prompt_id"], []).append(row["verdict"]["reward"])
        assert len(groups) == 10 and all(len(rewards) == 8 for rewards in groups.values())
        assert line["zero_variance_groups"] == sum(len(set(rewards)) == 1 for rewards in groups.values())
        assert line["reward"] == pytest.approx(sum(map(sum, groups.values())) / 80)
        assert line["dropped_groups"] == 0 or line["dynamic_sampling_rollouts"] > 0
        drawn += 10 + line["dropped_groups"]
    assert sum(line["dynamic_sampling_rollouts"] for line in metrics(tmp_path)) > 0
    assert parts.prompts.position == drawn
    assert checkpoints.latest(tmp_path).trainer_state()["prompts"]["position"] == drawn


def test_the_engines_make_room_for_each_rollout(tmp_path):
    """And are back for everything else: the table engines refuse to work while they are away."""
    parts = table_run(table_config(tmp_path, 3, name="ppo"))
    assert parts.actor.absences == parts.critic.absences == 3
    assert not parts.actor.away and not parts.critic.away


def test_a_judge_that_fails_loses_nothing(tmp_path):
    """In an extra rollout of step 3, say: the state after step 2 is saved, with the prompts that it had drawn."""

    class Failing(NextNumber):
        calls = 0

        def score(self, items):
            self.calls += 1
            if self.calls > 8:
                raise UserError("no server")
            return super().score(items)

    config = table_config(tmp_path, 9, dynamic_sampling=2)
    with pytest.raises(UserError, match="no server") as caught:
        table_run(config, judge=Failing())
    saved = checkpoints.latest(tmp_path)
    assert f"Step {saved.step + 1} of 9" in str(caught.value)
    assert len(metrics(tmp_path)) == saved.step
    drawn = sum(10 + line["dropped_groups"] for line in metrics(tmp_path))
    assert saved.trainer_state()["prompts"]["position"] == drawn
    table_run(config)
    table_run(table_config(tmp_path / "whole", 9, dynamic_sampling=2))
    assert without_times(metrics(tmp_path)) == without_times(metrics(tmp_path / "whole"))


def test_records_are_json(tmp_path):
    """RFC 8259 knows no NaN; other readers than Python's refuse it."""
    table_run(table_config(tmp_path, 2, name="ppo"))

    def refuse(word):
        raise AssertionError(word)

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
