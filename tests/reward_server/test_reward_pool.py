"""The worker pool: hangs, deaths, order, and nothing left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from process_helpers import runs
from reward_helpers import ROOT, item, run_async, wait_until

from benchmarks.reward_mix import hang
from reward_server.batch import judge_batch
from reward_server.pool import DEPTH, WorkerPool
from reward_server.process import Displaced, WorkerProcess
from reward_server.verdicts import CORRECT, ERROR, TIMEOUT


def new_pool(workers, deadline_s, **options):
    return WorkerPool(workers, deadline_s, warm_up=False, **options)


def root(n, ident=None):
    """A right answer that only a worker can judge, another for every n."""
    return item(
        answer=rf"\frac{{{n + 1}\sqrt{{3}}}}{{3}}", gold=rf"\frac{{{n + 1}}}{{\sqrt3}}", ident=ident or f"root {n}"
    )


def test_a_hang_is_killed_and_stops_nobody_else():
    items = [hang(0)]
    items += [root(n) for n in range(20)]
    items += [item(answer="5", gold="5", ident="cheap")]

    async def run():
        async with new_pool(2, deadline_s=1.0) as pool:
            verdicts = await judge_batch(items, "equivalent", pool)
            again = await judge_batch(items[:2], "equivalent", pool)
            return verdicts, again, pool.pids

    verdicts, again, pids = run_async(run())
    assert [verdict.id for verdict in verdicts] == [one.id for one in items]
    assert [verdict.status for verdict in verdicts] == [TIMEOUT] + [CORRECT] * 21
    assert (verdicts[0].reward, verdicts[0].accuracy, verdicts[0].format) == (0.0, 0, 1)
    assert [verdict.status for verdict in again] == [TIMEOUT, CORRECT]
    wait_until(lambda: not any(map(runs, pids)))


def test_the_deadline_is_cpu_time_not_wall_time():
    async def run():
        async with new_pool(1, deadline_s=1.0) as pool:
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)  # a machine so loaded that the worker does not run
            scoring = asyncio.ensure_future(
                judge_batch([item(answer=r"e/2", gold=r"\frac{2e}{4}")], "equivalent", pool)
            )
            await asyncio.sleep(2.0)
            assert not scoring.done()
            os.kill(pid, signal.SIGCONT)
            return await scoring

    assert [verdict.status for verdict in run_async(run())] == [CORRECT]


def test_a_worker_killed_in_mid_batch_costs_nothing():
    items = [root(n) for n in range(40)]

    async def run():
        async with new_pool(2, deadline_s=5.0) as pool:
            scoring = asyncio.ensure_future(judge_batch(items, "equivalent", pool))
            await asyncio.sleep(0.1)
            os.kill(pool.pids[0], signal.SIGKILL)
            return await scoring

    verdicts = run_async(run())
    assert [verdict.id for verdict in verdicts] == [one.id for one in items]
    assert {verdict.status for verdict in verdicts} == {CORRECT}


def test_questions_that_lay_ready_for_a_worker_are_not_blamed_for_its_end():
    async def run():
        async with new_pool(1, deadline_s=5.0) as pool:
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)
            scoring = asyncio.ensure_future(judge_batch([root(n) for n in range(9)], "equivalent", pool))
            await asyncio.sleep(0.1)
            assert pool.waiting == 9 - DEPTH
            os.kill(pid, signal.SIGKILL)
            return await scoring, dict(pool.restarts)

    verdicts, restarts = run_async(run())
    assert {verdict.status for verdict in verdicts} == {CORRECT}
    assert restarts["died"] == 1


def test_whoever_leaves_in_the_moment_of_a_reply_spoils_nothing():
    async def run():
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            worker = WorkerProcess(os.getpid(), reader, writer)
            first, second, third = (
                asyncio.ensure_future(worker.ask({"n": n}, 5.0, None, lambda: None)) for n in range(3)
            )
            await asyncio.sleep(0)
            reader.feed_data(b'{"value": true, "cpu_s": 0.0}\n')
            second.cancel()
            reply = await first
            left = await asyncio.gather(second, third, return_exceptions=True)
            writer.close()
            return reply, [type(one) for one in left]

    reply, left = run_async(run())
    assert reply["value"] is True and left == [asyncio.CancelledError, Displaced]


def test_whoever_leaves_takes_no_other_question_along():
    async def run():
        async with new_pool(1, deadline_s=5.0) as pool:
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)
            first, second, third = (asyncio.ensure_future(judge_batch([root(n)], "equivalent", pool)) for n in range(3))
            await asyncio.sleep(0.1)
            second.cancel()
            return *(await first), *(await third), dict(pool.restarts)

    *verdicts, restarts = run_async(run())
    assert {verdict.status for verdict in verdicts} == {CORRECT}
    assert restarts["abandoned"] == 1 and "died" not in restarts


def test_a_worker_that_never_comes_back_is_an_error_not_a_zero():
    async def run():
        async with new_pool(1, deadline_s=5.0) as pool:
            pool.wall_s = 0.5
            original = pool._start

            async def start_frozen():
                worker = await original()
                os.kill(worker.pid, signal.SIGSTOP)
                return worker

            pool._start = start_frozen
            os.kill(pool.pids[0], signal.SIGSTOP)
            verdicts = await judge_batch([item(answer=r"\sqrt{25}", gold="5")], "equivalent", pool)
            return verdicts, dict(pool.restarts)

    (verdict,), restarts = run_async(run())
    assert (verdict.status, verdict.reward, verdict.accuracy, verdict.is_valid) == (ERROR, None, None, False)
    assert restarts == {"stuck": 2}, "tried once more"


def test_the_nursery_may_die_too():
    async def run():
        async with new_pool(2, deadline_s=5.0) as pool:
            first = pool._nursery.pid
            os.kill(first, signal.SIGKILL)
            verdicts = await judge_batch([root(n) for n in range(8)], "equivalent", pool)
            return verdicts, first, pool._nursery.pid

    verdicts, first, second = run_async(run())
    assert {verdict.status for verdict in verdicts} == {CORRECT} and second not in (None, first)


def test_what_was_answered_is_remembered_and_shared():
    async def run():
        async with new_pool(1, deadline_s=5.0) as pool:
            verdicts = await judge_batch([root(1, ident=str(n)) for n in range(50)], "equivalent", pool)
            again = await judge_batch([root(1)], "equivalent", pool)
            return verdicts + again, pool.hits

    verdicts, hits = run_async(run())
    assert len(verdicts) == 51 and {verdict.status for verdict in verdicts} == {CORRECT}
    assert hits >= 50, "one question for all 51 answers"


def test_memory_is_capped_per_answer_and_kept_memory_costs_the_worker():
    hungry = item(answer="(2x+2y+2z)^{100}", gold="2^{100}(x+y+z)^{100}")

    async def run():
        async with new_pool(1, deadline_s=60.0, memory_mb=4) as pool:
            small = await judge_batch([hungry], "equivalent", pool)
            replaced = pool.restarts["memory"]
        async with new_pool(1, deadline_s=60.0) as pool:
            large = await judge_batch([hungry], "equivalent", pool)
        return small, replaced, large

    small, replaced, large = run_async(run())
    # SymPy may catch the MemoryError itself and give up: the answer is not correct either way.
    assert [(verdict.status, verdict.reward) for verdict in small] in ([(TIMEOUT, 0.0)], [("wrong", 0.0)])
    assert replaced >= 1 or small[0].status == "wrong"
    assert [verdict.status for verdict in large] == [CORRECT]


def test_an_abandoned_question_frees_its_worker():
    async def run():
        async with new_pool(1, deadline_s=60.0) as pool:
            scoring = asyncio.ensure_future(judge_batch([hang(0)], "equivalent", pool))
            await asyncio.sleep(0.3)
            (pid,) = [pid for pid in pool.pids if psutil.Process(pid).cpu_times().user > 0.1] or pool.pids[:1]
            scoring.cancel()
            verdicts = await judge_batch([root(3)], "equivalent", pool)
            return verdicts, pid

    verdicts, pid = run_async(run())
    assert [verdict.status for verdict in verdicts] == [CORRECT]
    wait_until(lambda: not runs(pid))


def test_a_dear_question_steps_aside():
    async def run():
        async with new_pool(1, deadline_s=60.0) as pool:
            dear = asyncio.ensure_future(judge_batch([hang(0)], "equivalent", pool))
            await asyncio.sleep(0.05)
            verdicts = await judge_batch([root(n) for n in range(5)], "equivalent", pool)
            assert not dear.done()
            dear.cancel()
            return verdicts

    assert {verdict.status for verdict in run_async(run())} == {CORRECT}


def test_a_worker_speaks_json_lines_and_ends_with_its_socket():
    ours, theirs = socket.socketpair()
    code = (
        "import socket, sys\nfrom reward_server.worker import serve\nserve(socket.socket(fileno=int(sys.argv[1])), 512)"
    )
    with theirs:
        worker = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())], cwd=ROOT, pass_fds=[theirs.fileno()]
        )
    with ours, ours.makefile("rwb") as pipe:
        replies = []
        for question in ({"op": "gold", "gold": r"\frac{x}{2}"}, {"op": "nonsense"}, {"op": "gold", "gold": "1+"}):
            pipe.write(json.dumps(question).encode() + b"\n")
            pipe.flush()
            replies.append(json.loads(pipe.readline()))
    assert replies[0]["value"] is True and "error" in replies[1] and replies[2]["value"] is False
    assert all(reply["cpu_s"] > 0 and reply["ms"] >= 0 for reply in replies)
    assert worker.wait(30) == 0


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
        assert len(pids) == 2 and all(map(runs, pids))
        server.kill()
    wait_until(lambda: not any(map(runs, pids)))


@pytest.mark.timeout(60)
def test_cheap_items_do_not_wait_for_slow_ones():
    async def run():
        async with new_pool(1, deadline_s=3.0) as pool:
            slow = asyncio.ensure_future(judge_batch([hang(0)] * 2, "equivalent", pool))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            cheap = await judge_batch([item(ident=str(n)) for n in range(200)], "equivalent", pool)
            took = time.monotonic() - started
            assert not slow.done()
            slow.cancel()
            return cheap, took

    cheap, took = run_async(run())
    assert {verdict.status for verdict in cheap} == {CORRECT} and took < 2
