"""The nursery and the workers as this process sees them: sockets, process ids, CPU time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from crossthink.errors import UserError

START_S = 120.0
"""Wall seconds in which the nursery must import everything."""
FORK_S = 30.0
"""Wall seconds in which it must fork a worker."""
GONE_S = 1.0
"""Wall seconds in which killed workers must be gone."""
PATIENCE_S = 0.1
"""CPU seconds after which a question counts as dear. Also the first time that anybody looks at its CPU time."""
POLL_S = 0.02
"""Shortest pause between two looks at a worker's CPU time, seconds."""
WALL_FACTOR = 60.0
"""The wall-clock guard behind the CPU deadline, as a multiple of it: it catches a stuck machine, not an answer."""
WALL_MIN_S = 60.0
"""Least wall seconds of that guard."""


class WorkerFailed(UserError):
    """A worker or the nursery died or did not start. Not the answer's fault, as far as one can know."""


class Stuck(Exception):
    """A worker met the wall-clock guard: it was not given the CPU time that its question is allowed."""


class Late(Exception):
    """The question used up its CPU time."""


class Displaced(Exception):
    """The worker was ended on account of another question, or became busy with a dear one before it came to this."""


class Nursery:
    """The process that workers are forked from; started when the first one is asked for, and again when it died.

    Args:
        memory_mb: MiB that one question may take in a worker.
        warm_up: build the parser's tables before the first worker is forked.
    """

    def __init__(self, memory_mb: int, warm_up: bool):
        self._memory_mb, self._warm_up = memory_mb, warm_up
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Its process id, None where it is not running."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def fork(self) -> WorkerProcess:
        """A new worker, ready. Raises WorkerFailed."""
        async with self._lock:
            if self.pid is None:
                await self._start()
            try:
                return await self._fork()
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                await self.close()
                raise WorkerFailed(f"the nursery is gone ({type(error).__name__} {error})") from error

    async def close(self) -> None:
        """End it, and with it every worker that is still there."""
        if self._process is not None:
            await self._end_workers(self._process.pid)
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _end_workers(self, pid: int) -> None:
        """Wait until they are gone, killed earlier or now: the nursery, which reaps them, must end after them."""
        until = time.monotonic() + GONE_S
        with contextlib.suppress(psutil.NoSuchProcess):
            while (workers := psutil.Process(pid).children()) and time.monotonic() < until:
                for worker in workers:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        worker.kill()
                await asyncio.sleep(0.005)

    async def _start(self) -> None:
        await self.close()
        # The packages may be used from a source tree: a child must find them wherever it is started.
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "reward_server.nursery", "--parent", str(os.getpid())),
                *("--control", str(theirs.fileno()), "--memory-mb", str(self._memory_mb)),
                *(["--warm-up"] if self._warm_up else []),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        try:
            await self._line(START_S)
        except asyncio.TimeoutError as error:
            await self.close()
            why = f"was not ready within {START_S:g} s. Is the machine busy with other work?"
            raise WorkerFailed(f"the process that math workers are forked from {why}") from error
        except (OSError, EOFError) as error:
            process = self._process
            await self.close()
            why = f"ended with code {process.returncode} before it was ready; what it said is above."
            raise WorkerFailed(f"the process that math workers are forked from {why}") from error

    async def _fork(self) -> WorkerProcess:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            pid = int(await self._line(FORK_S))
            return WorkerProcess(pid, *await asyncio.open_connection(sock=ours))
        except BaseException:
            ours.close()
            raise

    async def _line(self, timeout_s: float) -> bytes:
        """One short line from the control socket; the nursery sends one at a time."""
        assert self._control is not None
        loop, line = asyncio.get_running_loop(), b""
        while not line.endswith(b"\n"):
            part = await asyncio.wait_for(loop.sock_recv(self._control, 64), timeout_s)
            if not part:
                raise EOFError("its control socket closed")
            line += part
        return line


class WorkerProcess:
    """One worker and the socket to it. It answers one question after the other; the next ones lie ready in the socket.

    Attributes:
        pid: its process id.
        asked: questions answered so far.
    """

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.pid, self.asked = pid, 0
        self._reader, self._writer = reader, writer
        self._busy = False
        self._next: deque[asyncio.Future[None]] = deque()
        self._cpu_s = 0.0  # used up before the present question
        self._ended: type[Exception] = WorkerFailed
        self._watch: asyncio.TimerHandle | None = None

    async def ask(
        self,
        question: dict[str, Any],
        deadline_s: float,
        wall_s: float | None,
        when_dear: Callable[[], None],
    ) -> dict[str, Any]:
        """The reply. After an exception, or a cancelled call, the worker is of no more use.

        Args:
            question: see `reward_server.worker`.
            deadline_s: CPU seconds that it may use.
            wall_s: wall seconds of the guard behind; None: the default.
            when_dear: told again and again once the question has used `PATIENCE_S` of CPU time.

        Raises:
            Late, Stuck, WorkerFailed, Displaced: as their names say.
        """
        self._writer.write(json.dumps(question).encode() + b"\n")
        if self._busy:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._next.append(turn)
            await turn
        self._busy = True
        try:
            reply = await self._reply(deadline_s, wall_s, when_dear)
        except BaseException:
            self.displace()
            raise
        self._busy = bool(self._next)
        if self._next:
            turn = self._next.popleft()
            if turn.done():
                self.displace()  # its asker has left, and is about to end this worker
            else:
                turn.set_result(None)
        return reply

    def displace(self) -> None:
        """Send those away who wait behind the present question. The worker must end after it."""
        while self._next:
            turn = self._next.popleft()
            if not turn.done():
                turn.set_exception(Displaced())

    def kill(self) -> None:
        """End it at once. It is a child of the nursery, which leaves no zombie."""
        self._ended = Displaced
        self.displace()
        if self._watch is not None:
            self._watch.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._writer.close()

    async def end(self) -> None:
        """End it, and wait until it has let go of its socket."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionError):
            await self._reader.read()
        self.kill()

    async def _reply(self, deadline_s: float, wall_s: float | None, when_dear: Callable[[], None]) -> dict[str, Any]:
        if wall_s is None:
            wall_s = max(WALL_MIN_S, WALL_FACTOR * deadline_s)
        guard = time.monotonic() + wall_s
        try:
            self._look_later(min(PATIENCE_S, wall_s), deadline_s, guard, when_dear)
            line = await self._reader.readline()
        except ConnectionError as error:
            raise self._ended(f"worker {self.pid} is gone ({error})") from error
        finally:
            if self._watch is not None:
                self._watch.cancel()
        if not line.endswith(b"\n"):
            raise self._ended(f"worker {self.pid} ended")
        reply = json.loads(line)
        self.asked += 1
        self._cpu_s = reply["cpu_s"]
        return reply

    def _look_later(self, pause_s: float, *arguments: Any) -> None:
        self._watch = asyncio.get_running_loop().call_later(pause_s, self._look, *arguments)

    def _look(self, deadline_s: float, guard: float, when_dear: Callable[[], None]) -> None:
        """Kill the worker where its time is up; the broken connection then wakes `ask`."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess:
            return  # the connection is closed, or about to be
        used_s = times.user + times.system - self._cpu_s
        if used_s >= deadline_s or time.monotonic() >= guard:
            self._ended = Late if used_s >= deadline_s else Stuck
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        if used_s >= PATIENCE_S:
            when_dear()
        # CPU time cannot run ahead of the clock: the next look is due when the rest could be used up.
        left_s = min((PATIENCE_S if used_s < PATIENCE_S else deadline_s) - used_s, guard - time.monotonic())
        self._look_later(max(POLL_S, left_s), deadline_s, guard, when_dear)
