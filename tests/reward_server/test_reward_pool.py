"""The worker pool: hangs, deaths, order, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from reward_helpers import ROOT, item, run_async, wait_until

from reward_server.batch import judge_batch
from reward_server.pool import WorkerPool
from reward_server.verdicts import CORRECT, ERROR, TIMEOUT

SLOW = r"\prod_{k=1}^{9000} (x+k)"
"""Passes the static bounds and keeps a worker busy for minutes."""


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_hang_is_killed_and_stops_nobody_else():
    items = [item(answer=SLOW, gold="x^2", ident="hang")]
    items += [item(answer=r"\frac{\sqrt{3}}{3}", gold=r"\frac{1}{\sqrt3}", ident=f"root {n}") for n in range(20)]
    items += [item(answer="5", gold="5", ident="cheap")]

    async def run():
        async with WorkerPool(2, deadline_s=1.0) as pool:
            verdicts = await judge_batch(items, "equivalent", pool)
            again = await judge_batch(items[:2], "equivalent", pool)
            return verdicts, again, pool.pids

    verdicts, again, pids = run_async(run())
    assert [verdict.id for verdict in verdicts] == [one.id for one in items]
    assert [verdict.status for verdict in verdicts] == [TIMEOUT] + [CORRECT] * 21
    assert (verdicts[0].reward, verdicts[0].accuracy, verdicts[0].format) == (0.0, 0, 1)
    assert [verdict.status for verdict in again] == [TIMEOUT, CORRECT]
    assert not any(alive(pid) for pid in pids)


def test_the_deadline_is_cpu_time_not_wall_time():
    async def run():
        async with WorkerPool(1, deadline_s=1.0) as pool:
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)  # a machine so loaded that the worker does not run
            scoring = asyncio.ensure_future(
                judge_batch([item(answer=r"\pi/2", gold=r"\frac{2\pi}{4}")], "equivalent", pool)
            )
            await asyncio.sleep(2.0)
            assert not scoring.done()
            os.kill(pid, signal.SIGCONT)
            return await scoring

    assert [verdict.status for verdict in run_async(run())] == [CORRECT]


def test_a_worker_killed_in_mid_batch_costs_nothing():
    items = [item(answer=f"{n}x^2+x^2", gold=f"{n + 1}x^2", ident=str(n)) for n in range(40)]

    async def run():
        async with WorkerPool(2, deadline_s=5.0) as pool:
            scoring = asyncio.ensure_future(judge_batch(items, "equivalent", pool))
            await asyncio.sleep(0.1)
            os.kill(pool.pids[0], signal.SIGKILL)
            return await scoring

    verdicts = run_async(run())
    assert [verdict.id for verdict in verdicts] == [one.id for one in items]
    assert {verdict.status for verdict in verdicts} == {CORRECT}


def test_a_worker_that_never_comes_back_is_an_error_not_a_zero():
    async def run():
        async with WorkerPool(1, deadline_s=5.0) as pool:
            pool.wall_s = 0.5
            os.kill(pool.pids[0], signal.SIGSTOP)
            original = pool._start

            async def start_frozen():
                worker = await original()
                os.kill(worker.process.pid, signal.SIGSTOP)
                return worker

            pool._start = start_frozen
            return await judge_batch([item(answer=r"\sqrt{25}", gold="5")], "equivalent", pool)

    (verdict,) = run_async(run())
    assert (verdict.status, verdict.reward, verdict.accuracy, verdict.is_valid) == (ERROR, None, None, False)


def test_worker_speaks_only_the_protocol_on_stdout_and_ends_with_its_pipe():
    worker = subprocess.run(
        [sys.executable, "-m", "reward_server.worker", "--parent", str(os.getpid())],
        input='{"op":"gold","gold":"\\\\frac{x}{2}"}\n{"op":"nonsense"}\n{"op":"gold","gold":"1+"}\n',
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    lines = worker.stdout.splitlines()
    assert lines[0] == '{"ready": true}' and lines[1] == '{"value": true}' and lines[3] == '{"value": false}'
    assert "error" in lines[2] and len(lines) == 4 and worker.returncode == 0


def test_workers_die_with_a_server_that_is_killed():
    code = (
        "import asyncio, time\nfrom reward_server.pool import WorkerPool\n"
        "async def main():\n"
        " async with WorkerPool(2, 1.0) as pool:\n  print(*pool.pids, flush=True)\n  time.sleep(60)\n"
        "asyncio.run(main())"
    )
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with server, server.stdout:
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        server.kill()
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.timeout(60)
def test_cheap_items_do_not_wait_for_slow_ones():
    async def run():
        async with WorkerPool(1, deadline_s=3.0) as pool:
            slow = asyncio.ensure_future(judge_batch([item(answer=SLOW, gold="x^2")] * 2, "equivalent", pool))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            cheap = await judge_batch([item(ident=str(n)) for n in range(200)], "equivalent", pool)
            took = time.monotonic() - started
            assert not slow.done()
            slow.cancel()
            return cheap, took

    cheap, took = run_async(run())
    assert {verdict.status for verdict in cheap} == {CORRECT} and took < 2
