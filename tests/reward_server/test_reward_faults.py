"""Workers killed all the time and servers killed under load: every item gets one verdict, the one of a quiet run."""

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from reward_helpers import serving

from benchmarks import reward_mix
from crossthink.procs import free_port
from reward_server.client import RewardClient
from reward_server.local import LocalJudge

MATH = {"math": 0.7, "mcq": 0.2, "open": 0.1}


def bare(verdict):
    """A verdict without what a clock wrote into it."""
    return {**verdict.to_json(), "elapsed_ms": None}


def kill_a_worker(server, draw):
    """Kill one worker of a server, now and then the process that workers come from."""
    try:
        (nursery,) = psutil.Process(server).children()
        workers = nursery.children()
        victims = [nursery] if workers and draw.random() < 0.1 else workers
        os.kill(draw.choice(victims).pid, signal.SIGKILL)
        return 1
    except (psutil.NoSuchProcess, ProcessLookupError, IndexError, ValueError):
        return 0  # just dead, or not yet there


class Chaos:
    """A server that is killed and started again, and whose workers are killed all the time.

    One is killed for each `kill_every_s` of CPU time that they use. By the clock a starved machine would see every
    attempt at one question hit, and it would rightly be given up.
    """

    def __init__(self, kill_every_s):
        self.killed = Counter()
        self._port, self._every_s, self._seen_s = free_port(), kill_every_s, {}
        self._draw, self._over, self._pid = random.Random(5), threading.Event(), None
        self._killer = threading.Thread(target=self._kill_workers)

    def __enter__(self):
        self._killer.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._killer.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    @contextlib.contextmanager
    def server(self):
        with serving(port=self._port, workers=2, deadline_s=5.0) as (process, _):
            self._pid = process.pid
            yield process

    def score(self, client, items):
        """Score on a server that lives as long as the call."""
        with self.server():
            return client.score(items)

    def score_over_a_restart(self, client, items):
        """Score on a server that is killed after half a second; a second one takes its place."""
        with ThreadPoolExecutor(1) as pool:
            with self.server() as process:
                scoring = pool.submit(client.score, items)
                time.sleep(0.5)
                process.kill()
                process.wait()
                self.killed["servers"] += 1
            with self.server():
                return scoring.result(timeout=300)

    def _kill_workers(self):
        used_s = 0.0
        while not self._over.wait(0.03):
            used_s += self._used_since_s()
            if used_s >= self._every_s and kill_a_worker(self._pid, self._draw):
                self.killed["workers"] += 1
                used_s = 0.0

    def _used_since_s(self):
        """CPU seconds of the nursery and its workers since the last call."""
        used_s = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self._pid).children(recursive=True) if self._pid else ():
                times = one.cpu_times()
                used_s += times.user + times.system - self._seen_s.get(one.pid, 0.0)
                self._seen_s[one.pid] = times.user + times.system
        return used_s


def chaos(count, kill_every_s, restarts):
    """Score `count` items in eight calls, those in `restarts` over a restart, and once more in quiet."""
    items = list(itertools.islice(reward_mix.items(11, MATH), count))
    with LocalJudge(deadline_s=5.0) as judge:
        quiet = judge.score(items)
    found, step = [], -(-count // 8)
    with Chaos(kill_every_s) as trouble, RewardClient([trouble.url], 60, outage_limit_s=120, chunk=64) as client:
        for call, start in enumerate(range(0, count, step)):
            score = trouble.score_over_a_restart if call in restarts else trouble.score
            found += score(client, items[start : start + step])
    return items, found, quiet, trouble.killed


def check(items, found, quiet):
    assert [verdict.id for verdict in found] == [item.id for item in items], "every item, once, in order"
    assert list(map(bare, found)) == list(map(bare, quiet))


@pytest.mark.timeout(240)
def test_a_thousand_items_while_workers_and_the_server_die():
    items, found, quiet, killed = chaos(1200, 0.5, {1})
    check(items, found, quiet)
    assert killed["workers"] >= 1 and killed["servers"] == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_items_while_workers_and_servers_die():
    items, found, quiet, killed = chaos(20_000, 1.0, {1, 3, 6})
    check(items, found, quiet)
    assert killed["servers"] == 3 and killed["workers"] >= 5
    print(dict(killed))
