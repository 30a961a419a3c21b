"""Peak memory and time of the log-prob head, chunked and plain, at Qwen2.5's vocabulary.

    .venv/bin/python benchmarks/head.py [TOKENS [HIDDEN]]

Forward and backward pass of log p(label) for TOKENS positions (4096) from hidden states of width HIDDEN (896) over
152,064 ids, float32, in a process of its own each. `plain`: logits, log_softmax and gather in torch, as autograd keeps
them. Memory is the process's high-water mark above what it held before the first pass: weights and hidden states are in
neither figure, their gradients in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
VOCABULARY = 152_064
CHUNKS_MB = (64, 256, 1024)


def main() -> int:
    """Run each variant in its own process and print the table."""
    if len(sys.argv) > 1 and sys.argv[1] == "--variant":
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
        return 0
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    hidden = int(sys.argv[2]) if len(sys.argv) > 2 else 896
    print(f"{tokens} positions × {VOCABULARY} ids, hidden {hidden}, float32, {os.cpu_count()} cores\n")
    print("| head | peak, MB above the start | times less | s |\n|---|---|---|---|")
    plain = variant(0, tokens, hidden)
    print(f"| plain | {plain['mb']:.0f} | | {plain['s']:.1f} |", flush=True)
    for chunk_mb in CHUNKS_MB:
        found = variant(chunk_mb, tokens, hidden)
        same = abs(found["sum"] - plain["sum"]) <= 1e-4 * abs(plain["sum"])
        assert same, f"another result: {found['sum']} and {plain['sum']}"
        print(
            f"| chunks of {chunk_mb} MB | {found['mb']:.0f} | {plain['mb'] / found['mb']:.1f} | {found['s']:.1f} |",
            flush=True,
        )
    return 0


def variant(chunk_mb: int, tokens: int, hidden: int) -> dict[str, float]:
    """What `measure` finds in a new process; 0 MB is the plain head."""
    words = [sys.executable, __file__, "--variant", str(chunk_mb), str(tokens), str(hidden)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure(chunk_mb: int, tokens: int, hidden: int) -> dict[str, float]:
    """One forward and backward pass: peak MB above the start, seconds, and the sum of the log-probs."""
    import torch

    from recipes.actors.mcore.head import LogProbHead

    draw = torch.Generator().manual_seed(0)
    hidden_nh = torch.randn(tokens, hidden, generator=draw).requires_grad_()
    weight_vh = (0.02 * torch.randn(VOCABULARY, hidden, generator=draw)).requires_grad_()
    labels_n = torch.randint(0, VOCABULARY, (tokens,), generator=draw)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status_mb("VmRSS")
    started = time.perf_counter()
    if chunk_mb:
        log_probs_n, _ = LogProbHead(VOCABULARY, 1.0, chunk_mb << 20).log_probs(hidden_nh, weight_vh, labels_n)
    else:
        log_probs_n = (hidden_nh @ weight_vh.t()).log_softmax(-1).gather(1, labels_n[:, None])[:, 0]
    log_probs_n.sum().backward()
    return {
        "mb": status_mb("VmHWM") - before,
        "s": time.perf_counter() - started,
        "sum": float(log_probs_n.detach().double().sum()),
    }


def status_mb(field: str) -> float:
    """A memory figure of this process, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


if __name__ == "__main__":
    sys.exit(main())
