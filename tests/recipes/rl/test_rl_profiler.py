"""The trace of some steps: which steps, which file, the phases in it; and the wrong settings."""

import json

import pytest
from table_world import NextNumber, table_config, table_run

from conf.train import TrainConfig
from crossthink.errors import ConfigError, UserError
from recipes.checks import check_profile

pytestmark = pytest.mark.usefixtures("alone")


def ranges(path):
    """How often each phase stands in a trace."""
    events = json.loads(path.read_text())["traceEvents"]
    named = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return {name: named.count(name) for name in ("rollout", "reward", "log_probs", "train", "refit")}


def test_a_trace_has_the_phases_of_its_steps(tmp_path):
    table_run(table_config(tmp_path, 4, profile__steps=[2, 3]))
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["steps_2-3_rank_0.json"]
    found = ranges(tmp_path / "profile" / "steps_2-3_rank_0.json")
    assert found == {"rollout": 2, "reward": 2, "log_probs": 2, "train": 2, "refit": 2}


def test_a_run_that_ends_early_leaves_the_trace_of_what_it_did(tmp_path):
    class Failing(NextNumber):
        asked = 0

        def score(self, items):
            self.asked += 1
            if self.asked == 3:
                raise UserError("no answer")
            return super().score(items)

    with pytest.raises(UserError, match="no answer"):
        table_run(table_config(tmp_path, 5, profile__steps=[2, 5]), judge=Failing())
    assert ranges(tmp_path / "profile" / "steps_2-3_rank_0.json")["train"] == 1


def test_nothing_is_traced_unless_asked(tmp_path):
    table_run(table_config(tmp_path, 1))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", [[3], [1, 2, 3], [0, 2], [3, 2], [5, 11]])
def test_impossible_steps_are_refused(steps):
    config = TrainConfig(steps=10)
    config.profile.steps = steps
    with pytest.raises(ConfigError, match=r"profile\.steps=\["):
        check_profile(config)
    config.profile.steps = [1, 10]
    check_profile(config)
