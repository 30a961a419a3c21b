"""Settings of every test process, and the small model that tests of the training command share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from filelock import FileLock
from train_helpers import TinyWorld

# As `crossthink` does: OpenMP threads that spin for long while they wait make a busy machine many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Test processes share the machine (pytest-xdist); small tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CROSSTHINK_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyWorld]:
    """Demo pools and a base policy after a short warm start: it is right now and then. Nobody writes to it."""
    from conf.reward import RewardConfig
    from conf.train import TrainConfig, WarmStartConfig
    from recipes import prepare
    from recipes.launch import reward_servers

    base = tmp_path_factory.getbasetemp()
    # pytest-xdist's workers have folders of their own in one; the first to come makes it for all.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root = shared / "tiny_world"
    with FileLock(shared / "tiny_world.lock"):
        config = TrainConfig(out=str(root), warm_start=WarmStartConfig(steps=250, batch_size=32, right_share=1.0))
        config.model.name = "tiny"
        prepare.prepare(config)
    with reward_servers(RewardConfig(), base / "judge.log") as urls:
        yield TinyWorld(root, urls[0])
