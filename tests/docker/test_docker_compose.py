"""compose.yaml: its commands are crossthink's, its parts find each other, and nothing is open without a token."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_gpu_targets import read_dockerfile
from docker_helpers import ROOT, compose_services

from conf.compose import resolve
from recipes.cli import COMMANDS
from reward_server import serve
from reward_server.listening import is_loopback

DOCUMENT = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES = compose_services()
SERVERS = ("reward", "rollout", "rollout-gpu")
TRAINERS = ("trainer", "trainer-gpu")
TOKEN = "@/run/secrets/crossthink_token"


@pytest.fixture
def config_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service's checked configuration, where the folders are that stand in the image or come from `base`."""
    (tmp_path / "runs/base/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def config(service: str) -> Any:
        command, *words = SERVICES[service]["command"]
        module, _, schema = COMMANDS[command].schema.partition(":")
        return resolve(command, getattr(importlib.import_module(module), schema), words)

    return config


@pytest.mark.parametrize("service", SERVICES)
def test_commands_are_crossthinks(service: str, config_of: Any) -> None:
    config_of(service)


def test_an_impossible_command_would_be_found(config_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES["reward"], "command", ["serve-reward", "prot=1"])
    with pytest.raises(Exception, match="prot"):
        config_of("reward")


@pytest.mark.parametrize("service", SERVERS)
def test_servers_take_a_token_from_the_secret(service: str, config_of: Any) -> None:
    config = config_of(service)
    assert not is_loopback(config.host) and config.token == TOKEN
    assert "crossthink_token" in SERVICES[service]["secrets"]
    assert DOCUMENT["secrets"]["crossthink_token"] == {"environment": "CROSSTHINK_TOKEN"}


def test_the_reward_servers_own_check_takes_it(config_of: Any) -> None:
    serve.check(replace(config_of("reward"), token="secret"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainer_finds_its_servers(trainer: str, config_of: Any) -> None:
    config = config_of(trainer)
    assert config.reward.token == config.rollout.token == TOKEN
    for url in [*config.reward.url, *config.rollout.url]:
        name, port = re.fullmatch(r"http://([\w-]+):(\d+)", url).groups()
        assert config_of(name).port == int(port)
        assert SERVICES[trainer]["depends_on"][name] == {"condition": "service_healthy"}
        assert set(SERVICES[trainer]["profiles"]) <= set(SERVICES[name]["profiles"])


@pytest.mark.parametrize(("trainer", "server"), [("trainer", "rollout"), ("trainer-gpu", "rollout-gpu")])
def test_weights_pass_through_a_folder_that_both_see(trainer: str, server: str, config_of: Any) -> None:
    trained, served = config_of(trainer), config_of(server)
    assert trained.rollout.transport == "files"
    assert trained.rollout.weights_dir == served.weights_dir == "/work/refit"
    assert "refit:/work/refit" in SERVICES[trainer]["volumes"] and "refit:/work/refit:ro" in SERVICES[server]["volumes"]
    assert DOCUMENT["volumes"]["refit"]["driver_opts"]["type"] == "tmpfs"
    assert served.weights == "refit"


def test_gpu_servers_hold_what_the_trainer_asks_for(config_of: Any) -> None:
    trained, served = config_of("trainer-gpu"), config_of("rollout-gpu")
    assert served.engine == trained.rollout.name == "trtllm"
    assert served.max_total_tokens == trained.max_prompt_tokens + trained.max_response_tokens
    assert served.model == trained.model.path
    devices = {name: SERVICES[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
               for name in ("rollout-gpu", "trainer-gpu")}  # fmt: skip
    assert not set(devices["rollout-gpu"]) & set(devices["trainer-gpu"])
    assert len(devices["rollout-gpu"]) == served.trtllm.tensor_parallel
    actor = trained.actor
    assert len(devices["trainer-gpu"]) == actor.tensor_parallel * actor.pipeline_parallel * actor.data_parallel


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_images_of_the_dockerfile_without_rights(service: str) -> None:
    one = SERVICES[service]
    stages = read_dockerfile((ROOT / "Dockerfile").read_text("utf-8"))
    assert one["image"] == f"crossthink:{one['build']['target']}" and one["build"]["target"] in stages
    assert one["user"] == "10001:10001" and one["cap_drop"] == ["ALL"] and one["init"]
    assert "ports" not in one, "servers are reached by the trainer alone"
