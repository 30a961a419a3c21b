"""After the ranks of a job have ended: does the run go on, and where not? `python -m slurm.decide RUN ATTEMPT CODE`.

- The ranks ended with 0: the run is finished.
- With 75 (told to stop, the job's end, no rollout servers): it goes on.
- A rank was ended by a signal, hung, or vanished: it goes on. A node to which that happened
  `cluster.bad_node_failures` times is left out.
- A rank failed with an error of its own: the run ends with that rank's code.

A run that goes on is given up when it has been tried again `cluster.retries` times in a row for the same cause, machine
or stop, without a new checkpoint.

Ranks fail together. The earliest end that has a cause of its own counts, not the broken connections that follow.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.cluster import ClusterConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE
from crossthink.files import atomic_file
from recipes.run_files import newest_step
from recipes.run_folder import read_config
from slurm.attempt import (
    CLUSTER,
    FINISHED,
    Attempt,
    End,
    Outcome,
    first_failure,
    outcomes,
    submitted_jobs,
    write_outcome,
)
from slurm.settings import read_cluster

SIGNALLED = 128
"""Exit codes above it are srun's for tasks that a signal ended."""
GO_ON, STOP = "go-on", "stop"


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended: see `Outcome`."""

    code: int
    cause: str
    node: str = ""
    said: str = ""


def cause_of(code: int, ends: Sequence[End], ranks: int) -> Cause:
    """Why the ranks ended.

    Args:
        code: srun's exit code for them.
        ends: what their tasks wrote down, in the order of time.
        ranks: how many there are.
    """
    mine = [end for end in ends if end.is_of_rank]
    first = first_failure(mine)
    lost = ranks - sum(end.task.startswith("rank_") for end in mine)
    if code == EXIT_DONE and first is None and not lost:
        return Cause(EXIT_DONE, "done")
    if first is not None and first.hung:  # all wait for one, and nobody can tell for which
        hung = sum(end.hung for end in mine)
        return Cause(EXIT_RESUMABLE, "machine", said=f"{hung} ranks gave no sign of life. {first.said}")
    if first is not None and first.code < 0:
        said = f"{first.task} was ended by signal {-first.code}. {first.said}"
        return Cause(EXIT_RESUMABLE, "machine", first.node, said)
    if mine and lost:
        return Cause(EXIT_RESUMABLE, "machine", said=f"{lost} of {ranks} ranks ended without a word.")
    if first is not None:
        return Cause(first.code, "error", said=f"{first.task} on {first.node}: {first.said}")
    if any(end.code == EXIT_RESUMABLE for end in mine):
        return Cause(EXIT_RESUMABLE, "stopped", said=next(end.said for end in mine if end.code == EXIT_RESUMABLE))
    if code == EXIT_DONE or code > SIGNALLED:  # 0 is srun's for a step whose only node died
        return Cause(EXIT_RESUMABLE, "machine", said=f"srun ended with {code}, and no rank wrote down why.")
    return Cause(code, "error", said=f"srun ended with {code}, and no rank wrote down why.")


def outcome_of(attempt: str, cause: Cause, step: int, before: Sequence[Outcome], cluster: ClusterConfig) -> Outcome:
    """What follows from the cause, given the attempts before.

    Args:
        attempt: its name.
        cause: of this one.
        step: of the newest checkpoint.
        before: earlier outcomes, oldest first.
        cluster: its limits.
    """

    def made(code: int, kind: str, said: str) -> Outcome:
        return Outcome(attempt, code, step, kind, cause.node, said, time.time())

    if cause.code != EXIT_RESUMABLE:
        return made(cause.code, cause.cause, cause.said)
    in_vain = 1
    for earlier in reversed(before):
        if earlier.step != step or earlier.cause != cause.cause:
            break
        in_vain += 1
    if in_vain > cluster.retries:
        return made(
            EXIT_FAILED,
            "limit",
            f"{in_vain} attempts in a row ended at step {step} without a new checkpoint (cluster.retries="
            f"{cluster.retries}); the last: {cause.said}",
        )
    job = attempt.partition(".")[0]
    jobs = 1 + sum(one.attempt.partition(".")[0] == job for one in before)
    if cluster.continuation == "requeue" and jobs >= cluster.jobs:
        return made(EXIT_FAILED, "limit", f"The job has started {jobs} times (cluster.jobs). {cause.said}")
    return made(EXIT_RESUMABLE, cause.cause, cause.said)


def bad_nodes(found: Sequence[Outcome], cluster: ClusterConfig) -> list[str]:
    """Nodes that later attempts leave out: those that failed too often, and the user's own."""
    failures = Counter(one.node for one in found if one.cause == "machine" and one.node)
    bad = {node for node, count in failures.items() if count >= cluster.bad_node_failures}
    return sorted(bad | set(cluster.exclude))


def main(words: Sequence[str]) -> int:
    """Decide, write it down, and print for the batch script: go-on or stop, nodes to leave out, jobs behind this one.

    Returns:
        What the batch script is to exit with.
    """
    if len(words) != 3 or not re.fullmatch(r"-?\d+", words[2]):
        print("usage: python -m slurm.decide RUN ATTEMPT CODE", file=sys.stderr)
        return EXIT_USAGE
    run, name, code = Path(words[0]), words[1], int(words[2])
    config, cluster, before = read_config(run), read_cluster(run), outcomes(run)
    assert config is not None
    cause = cause_of(code, Attempt(run, name).ends(), config.nodes.actor * config.nodes.gpus_per_node)
    outcome = outcome_of(name, cause, newest_step(run), before, cluster)
    write_outcome(run, outcome)
    goes_on = outcome.code == EXIT_RESUMABLE
    if not goes_on:
        with atomic_file(run / CLUSTER / FINISHED) as handle:
            handle.write(f"{outcome.code}\n")
    exclude = bad_nodes([*before, outcome], cluster)
    print(f"attempt {name}: {outcome.cause}, step {outcome.step}. {outcome.said}", file=sys.stderr)
    ids = submitted_jobs(run)
    job = name.partition(".")[0]
    behind = ids[ids.index(job) + 1 :] if job in ids else []
    print(GO_ON if goes_on else STOP, ",".join(exclude) or "-", *behind)
    return outcome.code


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
