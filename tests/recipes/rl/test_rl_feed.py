"""Rollouts made elsewhere: on policy as in this process, one step off, judged and compared ahead, failing, resumed."""

import json
import time

import pytest
from table_world import NextNumber, RemoteTable, TableActor, table_config, table_run

from crossthink.errors import EXIT_RESUMABLE, StoppedEarly, UserError
from recipes.rl import checkpoints
from recipes.run_files import read_lines
from reward_server.verdicts import Verdict

TIMES = ("seconds", "tokens_per_second", "peak_memory_mb", "rollout_redealt")
SAVING = {"checkpoint__every": 2, "checkpoint__asynchronous": False}


@pytest.fixture(autouse=True)
def _alone(alone):
    """Every run here is of one process."""


def run_of(out):
    """The metrics without times, and all dumped lines, of a run."""
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in read_lines(out / "metrics.jsonl")]
    dumps = {path.name: [json.loads(one) for one in path.open()] for path in sorted((out / "rollouts").iterdir())}
    return lines, dumps


def one_step_off(out, steps, **options):
    return table_config(out, steps, rollout__lag=1, **({"importance_cap": 2.0} | options))


def test_on_policy_it_is_the_run_of_this_process(tmp_path):
    table_run(table_config(tmp_path / "here", 5))
    engine = RemoteTable()
    table_run(table_config(tmp_path / "there", 5), engine=engine)
    assert run_of(tmp_path / "here") == run_of(tmp_path / "there")
    assert engine.asked == [(step, step - 1) for step in range(1, 6)]
    assert all(line["lag"] == 0 for line in read_lines(tmp_path / "there/metrics.jsonl"))


def test_one_step_off_trains_on_the_weights_before(tmp_path):
    engine = RemoteTable()
    table_run(one_step_off(tmp_path, 25), engine=engine)
    assert engine.asked == [(1, 0), (2, 0), *((step, step - 2) for step in range(3, 26))]
    lines, dumps = run_of(tmp_path)
    assert [line["lag"] for line in lines] == [0.0] + [1.0] * 24
    assert {sample["lag"] for sample in dumps["step_000009.jsonl"]} == {1}
    assert {sample["weight_version"] for sample in dumps["step_000009.jsonl"]} == {7}
    assert lines[0]["mismatch_max"] < 1e-5 < 0.01 < lines[1]["mismatch_max"], "the lag shows, step 1 has none"
    assert lines[1]["mismatch"] < lines[1]["mismatch_max"] and 0 < lines[1]["mismatch_outside"] <= 1
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2, rewards


@pytest.mark.parametrize("killed", [3, 4, 5])
def test_one_step_off_resumes_as_if_nothing_had_been(tmp_path, killed):
    """Killed in a step; its checkpoint, of step 2 or 4, holds the rollouts of the next one."""
    straight = one_step_off(tmp_path / "a", 6, **SAVING)
    table_run(straight, engine=RemoteTable())
    config = one_step_off(tmp_path / "b", 6, **SAVING)
    actor, train_step = TableActor(), TableActor.train_step

    def dies(samples, loss, lr):
        if actor.steps == killed - 1:
            raise KeyboardInterrupt
        return train_step(actor, samples, loss, lr)

    actor.train_step = dies
    with pytest.raises(KeyboardInterrupt):
        table_run(config, actor, engine=RemoteTable())
    held = checkpoints.latest(tmp_path / "b")
    assert held.step == (killed - 1) // 2 * 2
    assert len(json.loads(held.trainer_state()[checkpoints.READY])) == 10
    again = RemoteTable()
    table_run(config, engine=again)
    assert again.asked[0] == (held.step + 2, held.step), "the rollouts of the next step are not made again"
    assert run_of(tmp_path / "a") == run_of(tmp_path / "b")


def test_held_rollouts_are_made_again_on_policy(tmp_path):
    """Going on with lag 0 is a change of the run; nothing of it is lost or drawn twice."""
    config = one_step_off(tmp_path, 6, **SAVING)
    actor = TableActor()
    actor.train_step = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt) if actor.steps == 3 else step(*a)
    step = lambda *a: TableActor.train_step(actor, *a)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        table_run(config, actor, engine=RemoteTable())
    config.rollout.lag = 0
    engine = RemoteTable()
    table_run(config, engine=engine)
    assert engine.asked == [(3, 2), (4, 3), (5, 4), (6, 5)]
    lines, dumps = run_of(tmp_path)
    assert [line["lag"] for line in lines] == [0, 1, 0, 0, 0, 0]
    asked = [sample["prompt_id"] for name in dumps for sample in dumps[name][::8]]
    assert len(set(asked)) == len(asked) == 60


@pytest.mark.parametrize("lag", [0, 1])
def test_no_server_left_ends_the_run_resumable(tmp_path, lag):
    options = {"importance_cap": 2.0, "rollout__lag": lag}
    config = table_config(tmp_path, 5, **options)
    with pytest.raises(UserError, match=r"Step 3 of 5: no server is left \(step 2 is saved") as caught:
        table_run(config, engine=RemoteTable(fails=[3]))
    assert caught.value.exit_code == EXIT_RESUMABLE
    state = checkpoints.latest(tmp_path).trainer_state()
    assert (state["step"], state["prompts"]["position"]) == (2, 20)
    assert state.get(checkpoints.READY) is None
    table_run(config, engine=RemoteTable())
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_refit_that_fails_loses_no_step(tmp_path, lag):
    options = {"importance_cap": 2.0, "rollout__lag": lag}
    table_run(table_config(tmp_path / "a", 5, **options), engine=RemoteTable())
    config = table_config(tmp_path / "b", 5, **options)
    with pytest.raises(UserError, match="no server took the weights") as caught:
        table_run(config, engine=RemoteTable(refit_fails=[3]))
    assert caught.value.exit_code == EXIT_RESUMABLE and "tep 3 is saved" in str(caught.value)
    assert checkpoints.latest(tmp_path / "b").step == 3
    table_run(config, engine=RemoteTable())
    assert run_of(tmp_path / "a") == run_of(tmp_path / "b")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_judge_that_fails_is_named_and_the_rollouts_are_made_again(tmp_path, lag):
    class Fails(NextNumber):
        asked = 0

        def score(self, items):
            self.asked += len(items)
            if self.asked > 200:
                raise StoppedEarly("no reward server")
            return super().score(items)

    config = table_config(tmp_path, 4, importance_cap=2.0, rollout__lag=lag)
    with pytest.raises(UserError, match="Step 3 of 4: no reward server") as caught:
        table_run(config, engine=RemoteTable(), judge=Fails())
    assert caught.value.exit_code == EXIT_RESUMABLE
    table_run(config, engine=RemoteTable())
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 4


def test_spoiled_rollouts_are_not_held(tmp_path):
    """Verdicts that may not be trained on would stop the resumed run at once again."""

    class Breaks(NextNumber):
        asked = 0

        def one(self, item):
            self.asked += 1
            return super().one(item) if self.asked <= 160 else Verdict(item.id, None, None, 0, None, "bad_gold", 0.0)

    config = one_step_off(tmp_path, 4)
    with pytest.raises(UserError, match="Step 3 of 4: 80 of 80 verdicts .* are invalid"):
        table_run(config, engine=RemoteTable(), judge=Breaks())
    engine = RemoteTable()
    table_run(config, engine=engine)
    assert engine.asked == [(3, 2), (4, 2)]
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 4


def test_the_reference_ahead_changes_nothing(tmp_path):
    table_run(table_config(tmp_path / "a", 4), engine=RemoteTable())
    config = table_config(tmp_path / "b", 4, rollout__overlap_log_probs=True)

    class Slow(RemoteTable):
        def stream(self, requests, params):
            for one in super().stream(requests, params):
                time.sleep(0.002)
                yield one

    parts = table_run(config, engine=Slow())
    (lines, dumps), (others, other_dumps) = run_of(tmp_path / "a"), run_of(tmp_path / "b")
    assert dumps == other_dumps
    for one, other in zip(lines, others, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-7)
    assert 4 < parts.actor.passes <= 4 * 4, "in four parts at most, more than one"


def test_a_mismatch_above_the_limit_ends_the_run_saved(tmp_path):
    config = table_config(tmp_path, 5, rollout__max_mismatch=0.2)
    table_run(config, engine=RemoteTable(shift=0.1))
    config = table_config(tmp_path / "b", 5, rollout__max_mismatch=0.2)
    with pytest.raises(UserError, match=r"0\.3 apart in the mean .* above rollout\.max_mismatch=0\.2"):
        table_run(config, engine=RemoteTable(shift=-0.3))
    assert checkpoints.latest(tmp_path / "b").step == 1
    assert read_lines(tmp_path / "b/metrics.jsonl")[0]["mismatch_outside"] == 1.0
