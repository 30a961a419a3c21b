"""What the tests of `crossthink prep` share: configurations, the sums of a pool, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from raw_rows import RAW

from conf.prep import PrepConfig, SourceConfig
from data_prep import prep
from data_prep.pool import Pool
from data_prep.steps import STEPS

REPO = Path(__file__).resolve().parents[2]


def config(out, paths, **fields) -> PrepConfig:
    """A run over local files; one worker, so nothing has to start."""
    sources = {name: SourceConfig(path=str(path)) for name, path in paths.items()}
    return PrepConfig(out=str(out), sources=sources, **{"workers": 1, **fields})


def prepare(out, paths, **fields) -> Pool:
    """Make a pool and check its sums."""
    prep.run(config(out, paths, **fields))
    pool = Pool.open(out)
    check_sums(pool)
    return pool


def check_sums(pool: Pool) -> None:
    """Every row that was read is in the pool or counted under a step and a reason."""
    for name, facts in pool.manifest["sources"].items():
        steps = facts["steps"]
        assert [step["step"] for step in steps] == list(STEPS)
        assert facts["rows_in"] == steps[0]["in"] and facts["rows_out"] == steps[-1]["out"] == pool.counts[name]
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            assert step["in"] == step["out"] + sum(step["dropped"].values())
            assert after is None or after["in"] == step["out"]
        assert sum(1 for _ in pool.rows(name)) == pool.counts[name]
    assert len(pool) == sum(pool.counts.values()) == pool.manifest["pool"]["rows"]
    assert len({row.id for row in pool.rows()}) == len(pool)


def dropped(pool: Pool, name: str) -> Counter:
    """(step, reason) to rows."""
    steps = pool.manifest["sources"][name]["steps"]
    return Counter({(step["step"], reason): n for step in steps for reason, n in step["dropped"].items()})


def reasons(pool: Pool, name: str) -> dict[str, int]:
    """Reason to rows, for tests that do not ask in which step."""
    return {reason: n for (_, reason), n in dropped(pool, name).items()}


def shown(pool: Pool) -> list[dict]:
    """The dropped rows that were kept for reading."""
    return [json.loads(line) for line in (pool.path / "dropped.jsonl").read_text("utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def mmlu_rows(count: int, first: int = 0, filler: int = 0) -> list[dict]:
    """Different rows in the schema of mmlu_train; `filler` makes each about that many characters longer."""
    row = RAW["mmlu_train"][0]
    return [
        row | {"question": f"{'What is it that counts? ' * (filler // 24)}Which gas has number {n}?"}
        for n in range(first, first + count)
    ]


def math_rows(count: int) -> list[dict]:
    """Different rows in the schema of math, of a level that is kept by default."""
    return [RAW["math"][0] | {"level": "Level 5", "problem": f"What is ${n}+1$?"} for n in range(count)]


def command(out: Path, paths: dict[str, Path], *words: str) -> list[str]:
    """`crossthink prep` over local files as the words of a process."""
    given = [f"sources.{name}.path={path}" for name, path in paths.items()]
    return [
        *(sys.executable, "-m", "recipes.cli", "prep", f"out={out}", f"sources=[{','.join(paths)}]"),
        *given,
        *words,
    ]


def run_command(out: Path, paths: dict[str, Path], *words: str, **options) -> subprocess.CompletedProcess:
    """Run `crossthink prep` to its end."""
    words = command(out, paths, *words)
    return subprocess.run(words, capture_output=True, text=True, cwd=REPO, timeout=120, **options)
