"""The best checkpoint: more is better, ties keep the earlier, never pruned, remembered over a resume."""

import json

import pytest
from table_world import table_config, table_run

from recipes.rl import checkpoints
from recipes.rl.checkpoints import find_pointed
from recipes.rl.retention import Best, prune


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([0.1, 0.3, 0.2], [1, 2, 2]),
        ([0.3, 0.3, 0.4, 0.4], [1, 1, 3, 3]),
        ([None, 0.0, None, 0.0], [None, 2, 2, 2]),
    ],
)
def test_the_best_so_far(values, steps):
    best, found = Best("accuracy"), []
    for step, value in enumerate(values, start=1):
        best = best.after(step, {"accuracy": value})
        found.append(best.step)
    assert found == steps


def test_it_survives_a_resume_of_the_same_metric_only():
    saved = json.loads(json.dumps(Best("accuracy", 20, 0.5).to_json()))
    assert Best.of("accuracy", saved) == Best("accuracy", 20, 0.5)
    assert Best.of("reward", saved) == Best("reward")
    assert Best.of("reward", None) == Best("reward")
    assert Best.of(None, saved) is None


# Accuracy after each step.
VALUES = (0.0, 0.2, 0.6, 0.6, 0.1, 0.3, 0.7, 0.2)


def evaluate(step):
    """An evaluation that says VALUES[n - 1] after step n."""
    return {"step": step, "accuracy": VALUES[step - 1] if step else 0.9}  # the base model is no checkpoint


def folders(out):
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_keeps_its_best(alone, tmp_path, asynchronous):
    """Saved when it is found, whatever checkpoint.every says; kept until a better one is."""
    options = {
        "checkpoint__best": "accuracy",
        "checkpoint__keep": 1,
        "checkpoint__asynchronous": asynchronous,
        "eval__every": 1,
    }
    best = tmp_path / "checkpoints" / "best"
    for steps, kept, number in ((2, [2], 2), (6, [3, 6], 3), (7, [7], 7), (8, [7, 8], 7)):
        table_run(table_config(tmp_path, steps, **options), evaluate=evaluate)
        assert folders(tmp_path) == kept
        assert find_pointed(best) == tmp_path / "checkpoints" / f"step_{number:06d}"
        checkpoints.Checkpoint(find_pointed(best)).verify()
        assert checkpoints.latest(tmp_path).step == steps


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    for name in ("step_000001", "step_000002", "step_000003", "step_000002_backup", "step_000001_1", "step_"):
        (tmp_path / name).mkdir()
    prune(tmp_path, newest=3, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_", "step_000001_1", "step_000002_backup", "step_000003",
    ]  # fmt: skip
