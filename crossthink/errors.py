"""Errors that a user can mend, and the exit codes of every command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 75  # EX_TEMPFAIL: stopped early (signal, walltime, preemption); a resume continues


class UserError(Exception):
    """A mistake or a state of the world that the user can mend.

    The message is one or two sentences: which file, row or key, which value, what is allowed, what to do.
    `crossthink` prints it without a traceback and exits with `exit_code`.
    """

    exit_code = EXIT_FAILED


class ConfigError(UserError):
    """A wrong key or value, found before anything started."""

    exit_code = EXIT_USAGE


class LocalError(UserError):
    """A failure of one rank, of which others know nothing: whatever needs them cannot follow."""


class StoppedEarly(UserError):
    """Stopped on request with everything saved: the same command with `resume=true` continues."""

    exit_code = EXIT_RESUMABLE


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest of `known`, or the empty string where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
