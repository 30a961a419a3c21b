"""Real servers on loopback, always ended by their own id, and the real rows where they are at hand."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crossthink.procs import stop
from reward_server.scoring.judge import Reply
from reward_server.verdicts import Item

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

RUN = """
import sys
import json
from conf.reward import ServeRewardConfig, ShapingConfig
from crossthink.errors import UserError
from reward_server.serve import run
fields = json.loads(sys.argv[1])
fields["shaping"] = ShapingConfig(**fields.get("shaping", {}))
try:
    run(ServeRewardConfig(**fields))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Failing:
    """Slow math that fails in one way."""

    def __init__(self, failure, gold_failure=None):
        self.failure, self.gold_failure = failure, gold_failure

    async def gold_is_good(self, gold):
        return Reply(self.gold_failure is None, self.gold_failure)

    async def any_equal(self, golds, answer):
        return Reply(False, self.failure)


def rows(name):
    """The rows of one file of real data; skips the test where it is absent."""
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no real rows here: {path.name} is not in ../shared/data")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def item(kind="math", answer="5", gold="5", ident="a", **fields):
    """An item whose response keeps the format."""
    golds = (gold,) if isinstance(gold, str) else tuple(gold)
    response = fields.pop("response", f"<think>so</think> It is \\boxed{{{answer}}}.")
    options = fields.pop("options", None)
    return Item(ident, kind, response, golds, tuple(options.items()) if options else None, **fields)


def spawn(**config):
    """A server process that may not be ready yet."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps({"port": 0, "warm_up": False, **config})],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CROSSTHINK_PARENT": str(os.getpid())},
    )


@contextlib.contextmanager
def serving(**config):
    """(process, url) of a server that answers. `process.log()` is what it has said, once it has ended."""
    process, lines = spawn(**config), []
    # A pipe that nobody reads stops the server at its next line of log.
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()

    def log():
        reader.join(30)
        return "".join(lines)

    process.log = log
    try:
        line = process.stdout.readline()
        assert line.startswith("reward server on http://"), line + log()
        yield process, line.split()[3]
    finally:
        stop(process)
        reader.join(30)
        process.stdout.close()
        process.stderr.close()


def run_async(coroutine, timeout_s=60):
    """Run a coroutine, with a limit."""
    return asyncio.run(asyncio.wait_for(coroutine, timeout_s))


def wait_until(condition, timeout_s=10):
    """Wait for something to become true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
