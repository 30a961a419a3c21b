"""Losses and gradients that are not finite: skipped, counted, dumped, and the end of the run after too many."""

import json
import math

import pytest
import torch
from rl_helpers import rollout_batch
from table_world import TableActor, table_config, table_run

from crossthink.errors import EXIT_FAILED
from recipes.actors.interface import StepResult
from recipes.rl import checkpoints
from recipes.rl.metrics import policy_metrics
from recipes.rl.skipped import NotFiniteError, SkippedSteps, Update
from recipes.run_files import read_lines


def update(loss=0.5, norm=1.0, critic=None):
    sums = {"loss": loss, "tokens": 4.0, "kl": 2.0 * loss}
    return Update(rollout_batch([[1.0, 0.0]]), StepResult(norm, sums), critic and StepResult(critic, {"loss": 0.1}))


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (update(), []),
        (update(critic=2.0), []),
        (update(loss=math.nan), ["the policy's loss (nan)"]),
        (update(norm=math.inf), ["the policy's gradient norm (inf)"]),
        (update(loss=-math.inf, norm=math.nan), ["the policy's loss (-inf)", "the policy's gradient norm (nan)"]),
        (update(critic=math.nan), ["the critic's gradient norm (nan)"]),
    ],
)
def test_what_was_not_finite_is_named(one, says):
    assert one.not_finite == says


@pytest.mark.parametrize(
    ("before", "steps", "reached", "after"),
    [
        (0, "ggg", False, 0),
        (0, "gbb", False, 2),
        (0, "bbgb", False, 1),
        (0, "bbb", True, 0),  # who resumes has the whole limit again
        (2, "b", True, 0),  # a resumed run counts on
        (0, "bbbg", True, 0),
    ],
)
def test_counting_in_a_row(before, steps, reached, after):
    skips = SkippedSteps(limit=3, in_a_row=before)
    found = skips.count([update(math.nan if step == "b" else 0.0) for step in steps])
    assert (len(found), skips.reached, skips.in_a_row) == (steps.count("b"), reached, after)


def test_metrics_are_of_the_steps_that_were_taken():
    found = policy_metrics([update(0.5, 1.0), update(math.nan, math.inf), update(1.5, 3.0)])
    assert found == {"loss": 1.0, "grad_norm": 2.0, "kl": 0.5, "skipped_steps": 1}
    nothing = policy_metrics([update(math.nan)])
    assert nothing == {"loss": None, "grad_norm": None, "kl": None, "skipped_steps": 1}


def samples_of(path):
    rows = read_lines(path)
    for row in rows:
        del row["verdict"]["elapsed_ms"]
    return rows


def test_a_bad_batch_is_skipped_and_dumped(alone, tmp_path):
    """Steps 2 and 4 of 5 are NaN: the weights stand still there, and the run goes on."""
    parts = table_run(table_config(tmp_path, 5), TableActor(bad_steps=[2, 4]))
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 0, 1, 0]
    assert [line["loss"] is None and line["grad_norm"] is None for line in lines] == [False, True, False, True, False]
    assert parts.actor.steps == 3 and bool(parts.actor.table.isfinite().all())
    assert sorted(p.name for p in (tmp_path / "bad_batches").iterdir()) == ["step_000002.jsonl", "step_000004.jsonl"]
    for step in (2, 4):
        name = f"step_{step:06d}.jsonl"
        assert samples_of(tmp_path / "bad_batches" / name) == samples_of(tmp_path / "rollouts" / name)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_only_the_part_that_was_skipped_is_dumped(alone, tmp_path):
    """Two updates a rollout, the first of them bad."""
    config = table_config(tmp_path, 1, updates_per_rollout=2)
    actor = TableActor()
    good = actor.train_step
    calls = []

    def first_is_bad(samples, loss, lr):
        calls.append(len(samples))
        if len(calls) > 1:
            return good(samples, loss, lr)
        return StepResult(math.inf, dict.fromkeys(("loss", "tokens", "kl"), math.nan))

    actor.train_step = first_is_bad
    table_run(config, actor)
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["skipped_steps"] == 1 and math.isfinite(line["loss"]) and calls == [40, 40]
    dumped, whole = (samples_of(tmp_path / d / "step_000001.jsonl") for d in ("bad_batches", "rollouts"))
    assert dumped == whole[:40]


@pytest.mark.parametrize("options", [{}, {"name": "ppo"}])
def test_too_many_in_a_row_end_the_run(alone, tmp_path, options):
    """Steps 3, 4 and 5: the message names step, cause and dump; what is saved are the weights of step 2."""
    config = table_config(tmp_path, 9, checkpoint__every=2, **options)
    actor = TableActor(bad_steps=[3, 4, 5])
    with pytest.raises(NotFiniteError) as caught:
        table_run(config, actor)
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_FAILED
    assert "Step 5" in message and "the policy's loss (nan)" in message and "optimizer.max_skipped=3" in message
    assert str(tmp_path / "bad_batches" / "step_000005.jsonl") in message and "resume=true" in message
    assert actor.steps == 2 and bool(actor.table.isfinite().all())
    saved = checkpoints.latest(tmp_path)
    assert saved.step == 5
    again = TableActor()
    again.load(saved.folder)
    assert torch.equal(again.table, actor.table)
    # Resumed, it goes on with the next prompts; what was dumped beyond the checkpoint would be gone.
    table_run(config)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 10))


def test_a_resumed_run_counts_on(alone, tmp_path):
    """Two bad steps before the checkpoint and one after it are three in a row."""
    config = table_config(tmp_path, 3, checkpoint__every=3)
    table_run(config, TableActor(bad_steps=[2, 3]))
    assert checkpoints.latest(tmp_path).trainer_state()["skipped"] == 2
    config.steps = 6
    with pytest.raises(NotFiniteError, match="Step 4"):
        table_run(config, TableActor(bad_steps=[1]))
