"""The judge without a server: any thread, inside an event loop, after a fork."""

import asyncio
import os
import threading

import psutil
import pytest
from reward_helpers import item

from reward_server.local import LocalJudge
from reward_server.verdicts import CORRECT, WRONG

ITEMS = [item(answer=r"\sqrt{25}", ident="1"), item(answer="6", ident="2"), item("open", "Paris", "paris", "3")]


@pytest.fixture(scope="module")
def judge():
    with LocalJudge(workers=1) as judge:
        yield judge


def statuses(judge):
    return [verdict.status for verdict in judge.score(ITEMS)]


def test_scores_and_starts_anew_after_close(judge):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert statuses(judge) == [CORRECT, WRONG, CORRECT]
    started = {child.pid for child in psutil.Process().children(recursive=True)} - before
    judge.close()
    assert started and not any(psutil.pid_exists(pid) for pid in started)
    assert statuses(judge) == [CORRECT, WRONG, CORRECT]


def test_from_several_threads(judge):
    found = []
    threads = [threading.Thread(target=lambda: found.append(statuses(judge))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [[CORRECT, WRONG, CORRECT]] * 4


def test_inside_an_event_loop(judge):
    async def caller():
        return statuses(judge)

    assert asyncio.run(caller()) == [CORRECT, WRONG, CORRECT]


def test_a_fork_has_workers_of_its_own(judge):
    statuses(judge)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if statuses(judge) == [CORRECT, WRONG, CORRECT] else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert statuses(judge) == [CORRECT, WRONG, CORRECT]
