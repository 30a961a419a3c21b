"""`benchmarks/rollout.py` in miniature: the same samples from both sides, and lengths with a long tail."""

import statistics
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # last: it holds a reward_server.py
import rollout_engine
import rollout_servers
from step_workers import Model


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (rollout_engine, rollout_servers):
        monkeypatch.setattr(module, "MODEL", Model("small", hidden=32, mlp=64, layers=1))
        monkeypatch.setattr(module, "PROMPTS", 3)
        monkeypatch.setattr(module, "GROUP", 2)
    monkeypatch.setattr(rollout_engine, "LONGEST", 12)
    monkeypatch.setattr(rollout_engine, "MEDIAN_TOKENS", 6)


def test_both_engines_make_all_tokens(monkeypatch, capsys):
    """Each side insists on the lengths itself."""
    monkeypatch.setattr(rollout_engine, "BATCHES", (2, 4))
    rollout_engine.run(turns=1)
    out = capsys.readouterr().out
    assert "3 prompts × 2 samples" in out and "| generate, 4 |" in out and "3.0 is the target" in out


def test_servers_draw_the_same(monkeypatch, capsys):
    monkeypatch.setattr(rollout_servers, "COUNTS", (1, 2))
    assert rollout_servers.run(turns=1)
    out = capsys.readouterr().out
    assert "| 2 |" in out and "0 of 6 samples were not the same" in out


def test_lengths_have_a_long_tail(monkeypatch):
    monkeypatch.setattr(rollout_engine, "LONGEST", 384)
    monkeypatch.setattr(rollout_engine, "MEDIAN_TOKENS", 32)
    lengths = rollout_engine.budgets(2000)
    assert lengths == rollout_engine.budgets(2000)
    assert 28 < statistics.median(lengths) < 36
    assert min(lengths) >= 1 and max(lengths) == 384 and statistics.mean(lengths) > 1.3 * statistics.median(lengths)
