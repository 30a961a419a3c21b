"""Generation and refit on this machine's CPU: the local engine, servers, refits, one step off.

    .venv/bin/python benchmarks/rollout.py [--only engine|refit|servers|lag] [--turns 2]

`engine`: the local engine against transformers' `generate` on one random Qwen2: 128 prompts × 8 samples, the same
budget a sample in both, drawn from a log-normal with a long tail, so both make the same number of tokens. The two take
turns; `generate` runs at two batch sizes and its fastest counts.

`refit`: bytes/s of a refit of at least 500 MB from one process to a server in another, against a raw broadcast of the
same bytes over the same kind of group, in turns; and from an actor of TP2 × PP2 (reported, no target).

`servers`: tokens/s of one client over 1, 2 and 4 servers of one thread each, against one and the ideal for the cores.

`lag`: seconds of a step of `crossthink train` at rollout.lag=0 and 1, with a server that sleeps after every token so
that generation takes about as long as training.

The exit code is 1 where a target is missed: engine 3 times, refit 0.8 of the broadcast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
PARTS = ("engine", "refit", "servers", "lag")


def main() -> int:
    """Run what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--turns", type=int, default=2, help="timed turns of each side")
    words = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `crossthink` does
    import torch

    from recipes.machine import cpu_model

    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} before\n")
    kept = []
    for part in (words.only,) if words.only else PARTS:
        module = importlib.import_module(f"rollout_{part}")
        kept.append(module.run(words.turns))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
