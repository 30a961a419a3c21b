"""Commands in processes of their own, so many at a time; each belongs to a chain, in which one follows another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossthink.errors import EXIT_DONE, EXIT_RESUMABLE
from crossthink.procs import die_with_parent, stop
from recipes.run_files import tail

POLL_S = 0.1
GRACE_S = 600.0  # for a run that was told to stop: it finishes its step and saves


@dataclass(frozen=True)
class Command:
    """One `crossthink` command of a chain.

    Attributes:
        words: of the command line.
        out: its folder; where there is something in it already, `resume=true` is added.
        is_done: whether nothing is left to do.
    """

    words: Sequence[str]
    out: Path
    is_done: Callable[[], bool]

    def line(self) -> list[str]:
        """The words, ready to start or to go on."""
        begun = self.out.is_dir() and any(self.out.iterdir())
        return [*self.words, *(["resume=true"] if begun else [])]


@dataclass
class Chain:
    """Commands one after another; one that fails ends the chain."""

    name: str
    commands: Sequence[Command]
    log: Path


@dataclass
class _Running:
    chain: Chain
    rest: list[Command]
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)


def run_chains(
    chains: Sequence[Chain], parallel: int, stopped: Callable[[], bool], say: Callable[[str], None]
) -> dict[str, int]:
    """Run chains, `parallel` at a time, whatever becomes of the others.

    Args:
        chains: in the order in which they begin.
        parallel: processes at a time.
        stopped: whether somebody wants to stop. Running commands are told to (SIGTERM) and waited for.
        say: told how far it is.

    Returns:
        An exit code for every chain: that of the command that ended it; 75 where it was stopped or never begun.
    """
    waiting, running = list(chains), list[_Running]()
    codes: dict[str, int] = {}
    told = False
    began, unfinished = time.monotonic(), len(chains)
    try:
        while waiting or running:
            if stopped() and not told:
                told = True
                waiting.clear()
                for one in running:
                    one.process.terminate()
            while waiting and len(running) < parallel:
                chain = waiting.pop(0)
                _next(chain, list(chain.commands), running, codes, say)
            time.sleep(POLL_S if running else 0)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                code = one.process.returncode
                if code == EXIT_DONE and not told:
                    _next(one.chain, one.rest, running, codes, say)
                elif code == EXIT_DONE:
                    codes[one.chain.name] = EXIT_RESUMABLE if one.rest else EXIT_DONE
                else:
                    codes[one.chain.name] = code if code > 0 else 1
                    say(f"{one.chain.name} ended with {code}: {tail(one.chain.log, lines=1)} (log: {one.chain.log})")
                if one.chain.name in codes:
                    done = len(codes)
                    left = (unfinished - done) * (time.monotonic() - began) / done
                    say(f"{done} of {unfinished} finished, about {left / 60:.0f} min left")
    finally:
        for one in running:
            stop(one.process, GRACE_S if told else 2.0)
    return {chain.name: codes.get(chain.name, EXIT_RESUMABLE) for chain in chains}


def exit_code(codes: Mapping[str, int]) -> int:
    """Of a whole sweep: 0 where all were done, 75 where the others can go on, 1 where one failed."""
    bad = {code for code in codes.values() if code != EXIT_DONE}
    if not bad:
        return EXIT_DONE
    return EXIT_RESUMABLE if bad == {EXIT_RESUMABLE} else 1


def _next(
    chain: Chain, rest: list[Command], running: list[_Running], codes: dict[str, int], say: Callable[[str], None]
) -> None:
    """Start the first of `rest` that is not done yet; without one the chain is."""
    while rest and rest[0].is_done():
        rest = rest[1:]
    if not rest:
        codes[chain.name] = EXIT_DONE
        return
    words = rest[0].line()
    say(f"{chain.name}: {words[0]}{' goes on' if words[-1] == 'resume=true' else ''}")
    chain.log.parent.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()
    with open(chain.log, "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "recipes.cli", *words],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells them
            preexec_fn=lambda: die_with_parent(parent),
        )
    running.append(_Running(chain, rest[1:], process))
