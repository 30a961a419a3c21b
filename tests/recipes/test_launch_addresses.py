"""What ranks are told of the run's servers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from conf.train import TrainConfig
from recipes.launch import Addresses
from recipes.own_critic import Critic
from recipes.rank import _critic

ADDRESSES = (
    Addresses(),
    Addresses(["http://a:1", "http://b:2"], ["http://[::1]:3"]),
    Addresses(["http://a:1"], [], Critic("http://127.0.0.1:5", "/runs/é/logs/7.0/critic_0.log")),
)


@pytest.mark.parametrize("told", ADDRESSES)
def test_addresses_come_back_as_they_were_sent(told: Addresses) -> None:
    found = Addresses.from_json(told.to_json())
    assert (list(found.reward), list(found.rollout)) == (list(told.reward), list(told.rollout))
    assert found.critic == told.critic


@pytest.mark.parametrize("server, url", [(Critic("http://127.0.0.1:5", "log"), "http://127.0.0.1:5"), (None, "")])
def test_every_rank_has_the_servers_critic_also_where_only_the_first_knows_its_address(
    server: Critic | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank with a critic of its own would wait in collectives that the others never enter."""
    made: list[str] = []
    stand_in = SimpleNamespace(AlignerCritic=lambda url, deadline_s, last_words: made.append(url))
    monkeypatch.setitem(sys.modules, "recipes.actors.aligner.critic", stand_in)
    config = TrainConfig(out="unused")
    config.algorithm.name, config.actor.name = "ppo", "aligner"
    _critic(config, folder=None, mesh=None, pad_id=0, server=server)
    assert made == [url]
