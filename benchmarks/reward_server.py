"""The reward server against Math-Verify in a process pool: throughput, latency, hangs, memory. One run, one machine.

    .venv/bin/python benchmarks/reward_server.py [CASE ...]

Cases: `mix`, `math` (verdicts a second over HTTP, and by the pool), `latency` (batches of 64 at half load), `hang` (one
genuine hang every 10 s), `hangs` (one in every 100 items), `memory` (200,000 verdicts after warm-up). Default: all, ten
minutes. Clients, server and workers share the machine's cores. The same items go to both; the pool gets them in chunks
of 64, and warm.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import reward_mix
from crossthink.procs import stop
from reward_server.verdicts import Item

BATCH = 64
WORKERS = 2
CLIENTS = 4
SECONDS = 10.0
"""Longest measurement of a throughput. No item is sent twice: the server would remember its answer."""
LATENCY_TURNS, RATE_SECONDS, LATENCY_SECONDS = 7, 2.0, 5.0
"""Measurement of the latencies, in turns: first what the server can do now, then latencies at half of that, batches
arriving at even intervals (as wrk2 sends them) and at random. A shared machine may stand still for 100 ms: one such
moment is the p99 of its turn, but not of the median turn."""
MOST_BATCHES = 1200
WARM = 40
"""Batches before the measured ones."""
WARM_VERDICTS = 400_000
"""Verdicts before the measured ones of `memory`: until then caches fill up and the allocator's arenas settle."""
MEASURED_VERDICTS = 200_000
POOL_BATCHES = 80
"""Batches of the pool's measurement."""
ONLY_MATH = {"math": 1.0}
CHEAP = {"mcq": 0.6, "open": 0.4}


def main() -> int:
    """Run the cases and print their figures, with the target beside each."""
    cases = sys.argv[1:] or ["mix", "math", "latency", "hang", "hangs", "memory"]
    print(f"{os.cpu_count()} cores, {WORKERS} workers, {CLIENTS} clients, batches of {BATCH}\n")
    for case in cases:
        if case in ("mix", "math"):
            throughput(case)
        else:
            {"latency": latency, "hang": one_hang, "hangs": many_hangs, "memory": memory}[case]()
    return 0


def throughput(case: str) -> None:
    """Verdicts a second of the server and of the pool, for the same items."""
    kinds = ONLY_MATH if case == "math" else None
    groups = reward_mix.batches(1, BATCH, MOST_BATCHES, kinds)
    with serving() as port:
        drive(port, groups[:WARM], SECONDS)
        ours = drive(port, groups[WARM:], SECONDS)
        wrong = sum(check(port, group) for group in groups[:WARM])
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(by_math_verify, groups[:WARM]))
        some = groups[WARM : WARM + POOL_BATCHES]
        started, done, theirs_wrong = time.perf_counter(), 0, 0
        for group, values in zip(some, pool.map(by_math_verify, some), strict=True):
            done += len(group)
            theirs_wrong += sum(value != worth(item) for value, item in zip(values, group, strict=True))
        theirs = done / (time.perf_counter() - started)
    target = " (target 3)" if case == "mix" else ""
    print(f"## {case}\n{ours:.0f} verdicts/s over HTTP; Math-Verify in a pool of {WORKERS}: {theirs:.0f} verdicts/s")
    print(f"ratio {ours / theirs:.2f}{target}")
    print(f"answers misjudged: {wrong} of {WARM * BATCH}; by Math-Verify alone {theirs_wrong} of {done}\n", flush=True)


def latency() -> None:
    """Latency of a batch, batches arriving at half of what the server can do."""
    rates: list[float] = []
    ms: dict[str, list[list[float]]] = {"even": [], "random": []}
    with serving() as port:
        drive(port, reward_mix.batches(4, BATCH, WARM), SECONDS)
        for turn in range(LATENCY_TURNS):
            rates.append(drive(port, reward_mix.batches(100 + turn, BATCH, MOST_BATCHES), RATE_SECONDS))
            for part, how in enumerate(ms):
                took = arrivals(port, rates[-1] / 2, 2 * turn + part, how)
                ms[how].append(sorted(1e3 * one for one in took))
    half = f"{min(rates) / 2:.0f} to {max(rates) / 2:.0f} verdicts/s"
    print(f"## latency\nbatches of {BATCH} at half load ({half}), medians of {LATENCY_TURNS} turns")
    for how, turns in ms.items():
        p50s, p99s = ([turn[int(share * len(turn))] for turn in turns] for share in (0.5, 0.99))
        target = " (target 50)" if how == "even" else ""
        print(f"{how} arrivals, {sum(map(len, turns))} batches: p50 {statistics.median(p50s):.1f} ms, ", end="")
        print(f"p99 {statistics.median(p99s):.1f} ms{target}; p99 of each turn:", *(f"{one:.0f}" for one in p99s))
    print(flush=True)


def arrivals(port: int, rate: float, seed: int, how: str) -> list[float]:
    """Seconds that each batch took, batches arriving at so many verdicts a second, "even" or "random" (Poisson)."""
    draw, gap = random.Random(seed), BATCH / rate
    queue = iter([encode(group) for group in reward_mix.batches(200 + seed, BATCH, int(1.5 * LATENCY_SECONDS / gap))])
    took: list[float] = []
    lock = threading.Lock()
    due = [time.perf_counter()]
    end = due[0] + LATENCY_SECONDS

    def client() -> None:
        connection = connect(port)
        while True:
            with lock:
                due[0] += gap if how == "even" else draw.expovariate(1 / gap)
                mine, body = due[0], next(queue)
            if mine > end:
                return
            time.sleep(max(0.0, mine - time.perf_counter()))
            ask(connection, body)
            took.append(time.perf_counter() - mine)  # from when it was due, not from when a client was free

    in_threads(client, 16)
    return took


def one_hang() -> None:
    """Throughput of everybody else while one item every 10 s hangs."""
    quiet, disturbed = [], []
    with serving() as port:
        drive(port, reward_mix.batches(4, BATCH, WARM), SECONDS)
        for turn in range(2):  # in turns, against drift
            plain, other = (reward_mix.batches(10 * turn + part, BATCH, MOST_BATCHES) for part in (5, 6))
            quiet.append(drive(port, plain, SECONDS))
            with hanging(port, 10.0, turn * 100):
                disturbed.append(drive(port, other, SECONDS))
    loss = 1 - sum(disturbed) / sum(quiet)
    print(f"## hang\none every 10 s: {sum(quiet) / 2:.0f} → {sum(disturbed) / 2:.0f} verdicts/s, ", end="")
    print(f"{100 * loss:.1f} % less (target at most 15 %)\n", flush=True)


def many_hangs() -> None:
    """Throughput of multiple-choice and open items while one in every 100 items of other batches hangs."""
    rates = {}
    with serving() as port:
        drive(port, reward_mix.batches(4, BATCH, WARM), SECONDS)
        for seed, name in ((30, "quiet"), (40, "hangs")):
            cheap = reward_mix.batches(seed, BATCH, MOST_BATCHES, CHEAP)
            others = reward_mix.batches(seed + 1, BATCH, MOST_BATCHES)
            if name == "hangs":
                poison(others)
            background = threading.Thread(target=drive, args=(port, others, SECONDS, 2))
            background.start()
            rates[name] = drive(port, cheap, SECONDS, 2)
            background.join()
    share = rates["hangs"] / rates["quiet"]
    print(f"## hangs\none in every 100 items of other batches: {rates['quiet']:.0f} → {rates['hangs']:.0f} ", end="")
    print(f"mcq and open verdicts/s, {100 * share:.0f} % of it kept (target 50 %)\n", flush=True)


def poison(groups: list[list[Item]]) -> None:
    """Put a hang in the place of every hundredth item."""
    numbers = itertools.count(1000)
    for index in range(0, len(groups) * BATCH, 100):
        groups[index // BATCH][index % BATCH] = reward_mix.hang(next(numbers))


def memory() -> None:
    """Memory of the server and its workers over many verdicts on items that never repeat."""
    stream = reward_mix.items(7)
    with serving() as port:
        connection = connect(port)
        points, done, tree = [], 0, psutil.Process(server_pid(port))
        while done < WARM_VERDICTS + MEASURED_VERDICTS:
            ask(connection, encode(list(itertools.islice(stream, BATCH))))
            done += BATCH
            if done % (80 * BATCH) == 0:
                points.append((done / 1e6, proportional_mb(tree)))
    first, late = points[0][1], [(x, y) for x, y in points if x > WARM_VERDICTS / 1e6]
    mean = statistics.mean(y for _, y in late)
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    print(
        f"## memory\n{first:.1f} MB (proportional, server and workers) after the first {80 * BATCH} verdicts, ", end=""
    )
    print(f"{mean:.1f} MB after {WARM_VERDICTS}; over {MEASURED_VERDICTS} more: ", end="")
    print(f"{100 * slope / mean:+.2f} % per million (target below 1 %)\n", flush=True)


def by_math_verify(group: list[Item]) -> list[bool]:
    """What a trainer's pool worker does: Math-Verify on the whole response (verl's `math_verify` reward)."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    found = []
    for item in group:
        gold = parse(f"\\boxed{{{item.ground_truth[0]}}}", (LatexExtractionConfig(),))
        answer = parse(item.response, (ExprExtractionConfig(), LatexExtractionConfig()))
        found.append(bool(verify(gold, answer)))
    return found


def worth(item: Item) -> bool:
    """Whether the item's answer is right, as its maker meant it; one that was cut off has none."""
    return item.id.endswith(".1") and item.finish_reason != "length"


def check(port: int, group: list[Item]) -> int:
    """Verdicts whose accuracy is not what the items' maker meant."""
    reply = json.loads(ask(connect(port), encode(group)))
    return sum(bool(one["accuracy"]) != worth(item) for one, item in zip(reply["items"], group, strict=True))


def drive(port: int, groups: list[list[Item]], seconds: float, clients: int = CLIENTS) -> float:
    """Verdicts a second with `clients` connections that each ask again as soon as they are answered.

    Ends after `seconds`, or when the batches are used up.
    """
    turns, done = iter([(encode(group), len(group)) for group in groups]), []
    lock = threading.Lock()
    started = time.perf_counter()

    def client() -> None:
        connection = connect(port)
        while time.perf_counter() - started < seconds:
            with lock:
                body, size = next(turns, (b"", 0))
            if not size:
                return
            ask(connection, body)
            done.append(size)

    in_threads(client, clients)
    return sum(done) / (time.perf_counter() - started)


@contextlib.contextmanager
def hanging(port: int, every_s: float, first: int) -> Iterator[None]:
    """A client that sends one genuine hang every so often."""
    over = threading.Event()

    def client() -> None:
        for number in itertools.count(first):
            ask(connect(port), encode([reward_mix.hang(number)]))  # anew: a server closes connections that are idle
            if over.wait(every_s):
                return

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_threads(target: Callable[[], None], number: int) -> None:
    """Run `target` in so many threads and wait for them."""
    threads = [threading.Thread(target=target) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def encode(group: list[Item]) -> bytes:
    """The body of a request."""
    return json.dumps({"items": [item.to_json() for item in group]}).encode("ascii")


def connect(port: int) -> http.client.HTTPConnection:
    """A connection that is kept open."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=300)


def ask(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    """The reply of /v1/score."""
    connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {text[:200]!r}")
    return text


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of a server of its own, with its log thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        port_file = Path(scratch) / "port"
        server = subprocess.Popen(
            [sys.executable, "-m", "recipes.cli", "serve-reward", "port=0", f"workers={WORKERS}"],
            env={**os.environ, "CROSSTHINK_PORT_FILE": str(port_file), "CROSSTHINK_PARENT": str(os.getpid())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended with {server.returncode}")
                time.sleep(0.05)
            port = int(port_file.read_text())
            _pids[port] = server.pid
            yield port
        finally:
            stop(server)


_pids: dict[int, int] = {}


def server_pid(port: int) -> int:
    """Process id of the server that `serving` started."""
    return _pids[port]


def proportional_mb(root: psutil.Process) -> float:
    """Memory of a process and its descendants, shared pages counted once, MB."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


if __name__ == "__main__":
    sys.exit(main())
