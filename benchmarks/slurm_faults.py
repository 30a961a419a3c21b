"""Training on a real SLURM cluster of four nodes, with harm done to it: every run ends complete, equal to a quiet one.

    python benchmarks/slurm_faults.py OUT [--only NAME ...]

Starts `slurm/local_cluster.sh` on this machine, trains the demo's task without SLURM at TP2 × PP2, then the same as
jobs with actor, rollout and reward nodes of their own, and compares each with the quiet run: token ids, verdicts and
counts must be the same, other numbers to 1e-6, and how far log-probs of rollout and actor are apart to 5e-5. A run that
parts from the quiet one where a single draw fell on the border of two tokens is repeated, and its row says where.
Prints a Markdown table; exits with 1 where a run differs.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compare_runs import border_draw, differences
from slurm_cluster import Cluster, Stuck, Submitted, kill, local_cluster, submit

LIMIT_S = 900.0
"""Seconds for one run."""
SHORT, LONG = 16, 70
"""Steps of a run with a fault, and of the demo's."""
LAYOUT = ["actor.tensor_parallel=2", "actor.pipeline_parallel=2", "actor.threads=1"]
ONE_NODE = ("nodes.actor=1", "nodes.gpus_per_node=4", "rollout.servers=2", "cluster.bad_node_failures=1")
SHORT_TIME = ("cluster.time=00:02:00", "cluster.signal_s=20", "checkpoint.margin_s=5")
NODES = ["nodes.actor=2", "nodes.gpus_per_node=2", "nodes.rollout=1", "nodes.reward=1"]


@dataclass(frozen=True)
class Fault:
    """What is done to a run.

    Attributes:
        name: in the table.
        harm: does it, when the run has done a few steps.
        words: more settings of the run.
        steps: of the run.
        attempts: how many starts of the job are expected.
    """

    name: str
    harm: Callable[[Submitted], None] | None
    words: tuple[str, ...] = ()
    steps: int = SHORT
    attempts: int = 1


def usr1(run: Submitted) -> None:
    """SLURM's signal to all steps of the job."""
    run.cluster.call("scancel", "--signal=USR1", run.job)


def requeue(run: Submitted) -> None:
    """An administrator's, or a preemption's, requeue."""
    run.cluster.call("scontrol", "requeue", run.job)


def lose_node(run: Submitted) -> None:
    """The machine under ranks 2 and 3 loses power; it is back when SLURM has noticed."""
    before = run.attempt
    run.cluster.script("kill-node", "n2")
    _until(lambda: "PENDING" in _state(run), 120.0, "the requeue of the job on the lost node")
    run.cluster.script("start-node", "n2")
    run.wait_attempt(before, 240.0)


def lose_daemon(run: Submitted) -> None:
    """slurmd of that machine dies alone: SLURM gives the node up, but its ranks live on."""
    before = run.attempt
    run.cluster.script("kill-node", "n2", "--daemon-only")
    _until(lambda: "PENDING" in _state(run), 120.0, "the requeue of the job on the lost node")
    run.cluster.script("start-node", "n2")
    run.wait_attempt(before, 240.0)


def kill_rank(run: Submitted) -> None:
    """As the kernel does where memory is short."""
    kill(run.rank(3))


def hang_rank(run: Submitted) -> None:
    """A rank that answers nobody: its collectives hang, and so do the others."""
    run.rank(1).send_signal(signal.SIGSTOP)


def bad_node(run: Submitted) -> None:
    """A rank is killed, and its node left out of the next start."""
    before = run.attempt
    kill(run.rank(3))
    run.wait_attempt(before, 240.0)
    bad = run.outcomes()[0]["node"]
    nodes = run.cluster.call("squeue", "--noheader", f"--jobs={run.job}", "--format=%N").split()
    if bad in run.cluster.call("scontrol", "show", "hostnames", ",".join(nodes)).split():
        raise Stuck(f"{bad}, where a rank was killed, is among the nodes of the next start: {nodes}")


def kill_reward(run: Submitted) -> None:
    """The reward server's process."""
    for process in run.processes("recipes.cli", "serve-reward"):
        kill(process)


def kill_rollout(run: Submitted) -> None:
    """Every rollout server's process at once: nobody has the weights any more."""
    for process in run.processes("recipes.cli", "serve-rollout"):
        kill(process)


FAULTS = (
    Fault("quiet, the demo to its end", None, steps=LONG),
    Fault("`scancel --signal=USR1`", usr1, attempts=2),
    Fault("`scontrol requeue`", requeue, attempts=2),
    Fault("a node lost", lose_node, attempts=2),
    # SLURM takes half a minute to notice, in which the ranks go on.
    Fault("slurmd lost, ranks live on", lose_daemon, steps=LONG, attempts=2),
    Fault("a rank killed", kill_rank, attempts=2),
    Fault("a rank hangs", hang_rank, ("cluster.hang_s=30",), attempts=2),
    Fault("a bad node, left out", bad_node, ONE_NODE, attempts=2),
    Fault("reward server killed", kill_reward),
    Fault("all rollout servers killed", kill_rollout),
    Fault("walltime of 2 minutes", None, SHORT_TIME, LONG, attempts=2),
)


def main() -> int:
    """Run all faults, or those named; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    asked = parser.parse_args()
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    faults = [fault for fault in FAULTS if not asked.only or any(part in fault.name for part in asked.only)]
    rows = [("run", "steps", "starts of the job", "causes", "seconds", "against the run without SLURM")]
    failed = False
    with local_cluster(out / "slurm") as cluster:
        for steps in sorted({fault.steps for fault in faults}):
            train_without(out, steps)
        for fault in faults:
            name = f"fault_{FAULTS.index(fault)}"
            row, good = run_fault(cluster, fault, out, name)
            if not good and (place := border_draw(out / f"without_{fault.steps}", out / name)) is not None:
                row, good = run_fault(cluster, fault, out, f"{name}_again")
                row = (*row[:-1], f"{row[-1]}; a run before it parted on a border of two tokens: {place}")
            rows.append(row)
            failed = failed or not good
            print(" | ".join(row), file=sys.stderr, flush=True)
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows[1:]:
        print(f"| {' | '.join(row)} |")
    return int(failed)


def words(out: Path, steps: int) -> list[str]:
    """Settings of every run; those of the demo, on the model and the data of the first."""
    base = out / "without_16"
    made = [] if not base.is_dir() else [f"model={base / 'base'}", f"data={base / 'demo' / 'pool'}"]
    return ["recipe=tiny", f"steps={steps}", "checkpoint.every=5", *LAYOUT, *made]


def train_without(out: Path, steps: int) -> None:
    """The run that the others are held to: ranks started by `train`, no servers but the reward server."""
    folder = out / f"without_{steps}"
    if folder.is_dir():
        return
    subprocess.run(
        [sys.executable, "-m", "recipes.cli", "train", f"out={folder}", *words(out, steps)], check=True, timeout=LIMIT_S
    )


def run_fault(cluster: Cluster, fault: Fault, out: Path, name: str) -> tuple[tuple[str, ...], bool]:
    """One run: its row of the table, and whether it is as it should be."""
    began = time.monotonic()
    base = out / f"without_{fault.steps}"
    settings = [*words(out, fault.steps), *NODES, "cluster=local", *fault.words]
    run = submit(cluster, out / name, *settings)
    try:
        if fault.harm is not None:
            run.wait_step(7, LIMIT_S)  # after the first checkpoint, before the second
            fault.harm(run)
        code = run.wait_done(LIMIT_S)
        found = differences(base, run.out) if code == 0 else [f"ended with {code}"]
    except Stuck as error:
        found = [str(error).splitlines()[0]]
        print(error, file=sys.stderr)
    attempts = sorted(path.name for path in (run.out / "cluster" / "attempts").iterdir())
    starts = len(attempts)
    if not found and starts < fault.attempts:
        found = [f"{starts} starts where {fault.attempts} were expected: nothing happened to it"]
    decided = {one["attempt"]: one["cause"] for one in run.outcomes()}
    causes = ", ".join(decided.get(attempt, "taken back") for attempt in attempts)  # SLURM asks nobody
    verdict = "equal" if not found else f"DIFFERS: {'; '.join(found[:3])}"
    row = (fault.name, str(fault.steps), str(starts), causes, f"{time.monotonic() - began:.0f}", verdict)
    return row, not found


def _state(run: Submitted) -> str:
    return run.cluster.call("squeue", "--noheader", f"--jobs={run.job}", "--format=%T")


def _until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise Stuck(f"{what}: not seen within {limit_s:g} s")
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
