"""What `train` asks of the reward it is given, before anything is made, and what it remembers of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from pool_helpers import write_pool

from conf.blend import BlendConfig
from conf.reward import RewardConfig, ShapingConfig
from conf.train import ModelConfig, TrainConfig
from crossthink.errors import ConfigError, UserError
from data_prep.rows import PoolRow
from recipes import train
from recipes.launch import reward_servers
from recipes.reporting.facts import facts, match_of_run
from recipes.reporting.run_data import read_run
from reward_server.verdicts import rules_hash

URL = ["http://127.0.0.1:9"]


def config_of(out: Path, **reward: object) -> TrainConfig:
    config = TrainConfig(
        out=str(out), model=ModelConfig(name="tiny"), blend=BlendConfig(name="pool", provenance="ours")
    )
    config.eval.every = 0
    config.reward = RewardConfig(**reward)
    return config


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"outage_limit_s": 0.0}, r"reward\.outage_limit_s=0\.0 is out of range"),
        ({"shaping": ShapingConfig(format_credit=2)}, r"reward\.shaping\.format_credit=2 is not between 0 and 1"),
        ({"shaping": ShapingConfig(length_penalty=1)}, r"reward\.shaping\.length_penalty=1 needs"),
        ({"shaping": ShapingConfig(format_credit=0.1), "url": URL}, r"reward\.url=.*127\.0\.0\.1:9.* names others"),
    ],
)
def test_impossible_rewards(tmp_path: Path, reward: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train.check(config_of(tmp_path, **reward))


def test_a_weight_of_a_source_that_is_not_there(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", [PoolRow("0" * 32, "mmlu", "gpr", "open", "?", None, ["a"], [])])
    config = config_of(tmp_path, shaping=ShapingConfig(source_weights={"mmlu": 2.0}))
    config.data = str(tmp_path / "pool")
    train.check(config)
    config.reward.shaping.source_weights["mmlv"] = 1.0
    with pytest.raises(ConfigError, match=r"source_weights\.mmlv: .*pool has no source of that name. It has: mmlu"):
        train.check(config)


def test_servers_of_another_match(tmp_path: Path) -> None:
    with reward_servers(RewardConfig(match="exact"), tmp_path / "log") as urls:
        for asked in ("exact", "equivalent"):  # the default asks for nothing
            found = train._rules(config_of(tmp_path, url=urls, match=asked), urls)
            assert found == {"rules_hash": rules_hash("exact"), "match": "exact"}
    refused = pytest.raises(UserError, match=r"judge by match=equivalent. Start them with match=exact")
    with reward_servers(RewardConfig(), tmp_path / "log") as urls, refused:
        train._rules(config_of(tmp_path, url=urls, match="exact"), urls)


def test_which_match_a_run_was_rewarded_by() -> None:
    exact = {"rules_hash": rules_hash("exact")}
    own, foreign = {"reward": {"match": "equivalent", "url": []}}, {"reward": {"match": "equivalent", "url": URL}}
    for known, config, match in (
        ({"match": "exact", "rules_hash": "of another version"}, foreign, "exact"),
        (exact, foreign, "exact"),
        (exact, own, "exact"),
        ({"rules_hash": "of another version"}, own, "equivalent"),
        ({"rules_hash": "of another version"}, foreign, None),
        ({}, {}, None),
    ):
        assert match_of_run(known, config) == match


def test_the_report_tells_match_and_shaping_of_foreign_servers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("reward: {url: [http://a], match: equivalent}")
    shaping = asdict(ShapingConfig(format_credit=0.25, source_weights={"a": 2.0}))
    for extra, shown in (({}, []), ({"shaping": shaping}, ["format_credit 0.25, source_weights (a 2.0)"])):
        told = {"facts": {"rules_hash": "of another version", "match": "exact", **extra}}
        (tmp_path / "manifest.json").write_text(json.dumps(told))
        rows = facts(read_run(tmp_path))
        assert ("Reward match mode", "exact (character for character)") in rows
        assert [value for what, value in rows if what == "Reward shaping"] == shown
