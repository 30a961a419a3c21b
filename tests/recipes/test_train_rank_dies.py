"""A rank that dies takes the run with it, soon and with an exit code that says so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from process_helpers import descendants, runs
from train_helpers import TinyWorld, metrics, started

LIMIT_S = 60


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["actor.data_parallel=2", "actor.tensor_parallel=2"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others(victim: int, layout: str, tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(*tiny_world.train_words(out, "steps=1000", "checkpoint.every=1000", layout)) as process:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or not metrics(out):
            assert process.poll() is None and time.monotonic() < deadline, "the run did not get to its first step"
            time.sleep(0.2)
        ranks = descendants(process, "recipes.rank")
        by_rank = {int(rank.environ()["RANK"]): rank for rank in ranks}
        assert sorted(by_rank) == [0, 1]
        by_rank[victim].kill()
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode not in (0, 75)
        assert f"rank {victim} was ended by signal 9, and the others with it." in err
        assert f"resume=true goes on from step 0 of {out}." in err
        assert not any(map(runs, ranks))
