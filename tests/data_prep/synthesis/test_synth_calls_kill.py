"""A process that is killed while it asks: the next one asks for nothing that was stored."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("openai")
from calls_helpers import chat_of, request
from synth_endpoint import CUT_OFF, REFUSAL, Running, synth_endpoint

from data_prep.synthesis.calls.request import Failed, Reply
from data_prep.synthesis.calls.store import AnswerStore

CALLS, CONCURRENCY = 200, 8
ASK = """
import asyncio, sys
from pathlib import Path
from calls_helpers import calling, request

async def ask_all():
    async with calling(sys.argv[1], Path(sys.argv[2]), concurrency=int(sys.argv[4])) as caller:
        await asyncio.gather(*(caller.ask(request(number)) for number in range(int(sys.argv[3]))))

asyncio.run(ask_all())
"""


def client(server: Running, path: Path) -> subprocess.Popen[bytes]:
    """A process that asks all the questions."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    words = [server.url, path, str(CALLS), str(CONCURRENCY)]
    return subprocess.Popen([sys.executable, "-c", ASK, *words], env=environment)


def stored(path: Path) -> dict[str, Reply | Failed]:
    """What is known, by the scripted endpoint's name for the request."""
    requests = [request(number) for number in range(CALLS)]
    with AnswerStore(path) as store:
        known = [(chat_of(one).key, store.get(one.key("small"))) for one in requests]
    return {name: outcome for name, outcome in known if outcome is not None}


@pytest.mark.timeout(180)
def test_no_stored_call_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with synth_endpoint(tmp_path, shares={REFUSAL: 0.1, CUT_OFF: 0.1}, delay_s=0.05) as server:
        known: dict[str, Reply | Failed] = {}
        for until in (30, 100, 170):
            before = len(server.lines())
            with client(server, path) as process:
                while len(server.lines()) < until:
                    assert process.poll() is None
                    time.sleep(0.005)
                process.kill()
            assert not {line["key"] for line in server.lines()[before:]} & set(known)
            later = stored(path)
            assert {name: later[name] for name in known} == known
            assert len(known) < len(later) < CALLS
            known = later
        before = len(server.lines())
        with client(server, path) as process:
            assert process.wait() == 0
        assert not {line["key"] for line in server.lines()[before:]} & set(known)
        times = Counter(line["key"] for line in server.lines())
    whole = stored(path)
    assert len(times) == len(whole) == CALLS
    assert sum(count - 1 for count in times.values()) <= 3 * CONCURRENCY
    with AnswerStore(path) as store:
        assert store.spent()["question"].calls == CALLS
