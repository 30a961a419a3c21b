"""A small warm-started model and its pools, made once for all tests of the training command."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_helpers import TinyWorld

from conf.train import TrainConfig, WarmStartConfig


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Demo pools and a base policy after a short warm start: it is right now and then."""
    from recipes import prepare

    root = tmp_path_factory.mktemp("tiny_world")
    config = TrainConfig(out=str(root), warm_start=WarmStartConfig(steps=250, batch_size=32, right_share=1.0))
    config.model.name = "tiny"
    prepare.prepare(config)
    return TinyWorld(Path(root))
