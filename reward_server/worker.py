"""The worker process: judges mathematical equivalence, one JSON line in, one JSON line out.

Forked by `reward_server.nursery`, so that a new one is ready in milliseconds. It sets itself no deadline: the pool
watches the CPU time used and kills it. Requests:

    {"op": "gold", "gold": TEXT}                       -> {"value": bool}
    {"op": "compare", "golds": [TEXT], "answer": TEXT} -> {"value": bool}

A reply {"exhausted": NAME} means that the answer used up memory or the stack, {"error": TEXT} that the grader failed.
Every reply says "cpu_s", the CPU seconds of the process so far, "ms", the wall milliseconds of this question, and
"grown_mb", the memory taken since the start.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import time
from typing import Any

TIDY_EVERY = 64
"""Questions between two looks at the process's own memory; SymPy's caches are emptied then."""


def serve(connection: socket.socket, memory_mb: int) -> None:
    """Answer questions until the other end closes.

    Args:
        connection: a stream socket to the pool.
        memory_mb: MiB of address space that one question may take.
    """
    from sympy.core.cache import clear_cache

    gc.freeze()  # what the nursery built is shared with it, and stays so
    start_mb = _resident_mb()
    _limit_memory(memory_mb)
    with connection, connection.makefile("rb") as questions:
        grown_mb = 0.0
        for number, line in enumerate(questions):
            started = time.perf_counter()
            reply = _answer(json.loads(line))
            if number % TIDY_EVERY == 0 or "exhausted" in reply:
                clear_cache()
                grown_mb = _resident_mb() - start_mb
            reply.update(
                cpu_s=time.process_time(),
                ms=round((time.perf_counter() - started) * 1e3, 3),
                grown_mb=round(grown_mb, 1),
            )
            connection.sendall(json.dumps(reply).encode() + b"\n")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from reward_server.scoring import math, symbolic

    try:
        if request["op"] == "gold":
            return {"value": bool(math.check_gold(request["gold"], symbolic.good))}
        answer = request["answer"]
        return {"value": any(math.compare(gold, answer, symbolic.same) for gold in request["golds"])}
    except (MemoryError, RecursionError, SystemError) as limit:
        # SystemError: "returned NULL without setting an exception", which is how CPython may fail without memory.
        return {"exhausted": type(limit).__name__}
    except Exception as error:  # the process boundary: becomes status `error`, which is counted, never a zero
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / (1 << 20)


def _limit_memory(memory_mb: int) -> None:
    with contextlib.suppress(ImportError):  # no such module on Windows
        import resource

        import psutil

        used = psutil.Process(os.getpid()).memory_info().vms
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(hard, limit), hard))
