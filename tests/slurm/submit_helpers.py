"""Configs of `submit`, a made-up SLURM on the path, and run folders as jobs leave them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conf.cluster import SubmitConfig
from conf.compose import resolve
from crossthink.files import write_json
from slurm.attempt import CLUSTER, CURRENT, ENDS, Attempt, End
from slurm.submit import settled

PARTITIONS = ("batch|batch*|4|infinite", "cpu|cpu|2|2:00:00")
"""As sinfo shows them: a default one of 4 nodes, and one of 2 with a limit of two hours."""
_TOOL = """#!/bin/bash
# Says what lies beside it, and keeps its words.
here="$(dirname "$0")/../$(basename "$0")"
for word in "$@"; do printf '%s\\t' "$word"; done >>"$here.calls"
echo >>"$here.calls"
[[ -f "$here.err" ]] && cat "$here.err" >&2
[[ -f "$here.out" ]] && cat "$here.out"
[[ -f "$here.code" ]] && exit "$(cat "$here.code")"
exit 0
"""
_SBATCH = """#!/bin/bash
# A number for each job; fails from the job on that `fail_from` names.
here="$(dirname "$0")/../sbatch"
for word in "$@"; do printf '%s\\t' "$word"; done >>"$here.calls"
echo >>"$here.calls"
if [[ " $* " == *" --test-only "* ]]; then
    cp "${!#}" "$here.tested"
    [[ -f "$here.refuses" ]] && cat "$here.refuses" >&2 && exit 1
    exit 0
fi
number=$(($(cat "$here.number" 2>/dev/null || echo 100) + 1))
if [[ -f "$here.fail_from" && "$number" -ge "$(cat "$here.fail_from")" ]]; then
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
    exit 1
fi
echo "$number" >"$here.number"
echo "$number;local"
"""


@dataclass(frozen=True)
class FakeSlurm:
    """Scripts called sinfo, squeue and sbatch, first on the path. They say what the test puts beside them."""

    folder: Path

    def says(self, tool: str, out: str = "", err: str = "", code: int = 0) -> None:
        """What a tool answers from now on."""
        for kind, text in (("out", out), ("err", err), ("code", str(code))):
            (self.folder / f"{tool}.{kind}").write_text(text)

    def sbatch(self, **settings: str) -> None:
        """`refuses`: words with which --test-only fails. `fail_from`: number of the first job that is not taken."""
        for name, value in settings.items():
            (self.folder / f"sbatch.{name}").write_text(value)

    def calls(self, tool: str) -> list[list[str]]:
        """The words of each call."""
        path = self.folder / f"{tool}.calls"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line.split("\t")[:-1] for line in lines]

    @property
    def submitted(self) -> list[list[str]]:
        """The words of each sbatch that was to queue something."""
        return [words for words in self.calls("sbatch") if "--test-only" not in words]


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A SLURM with the partitions of `PARTITIONS` and no jobs."""
    tools = folder / "bin"
    tools.mkdir(parents=True)
    for name, text in (("sinfo", _TOOL), ("squeue", _TOOL), ("scontrol", _TOOL), ("sbatch", _SBATCH)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    made = FakeSlurm(folder)
    made.says("sinfo", "\n".join(PARTITIONS) + "\n")
    return made


def hide_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without any of SLURM's commands."""
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))


def config(out: Path | str, *words: str) -> SubmitConfig:
    """A run of the tiny recipe as the command line gives it: one CPU node of 4 ranks, TP 2 × PP 2."""
    return resolve(
        "submit",
        SubmitConfig,
        [
            "recipe=tiny", "cluster=bare", "cluster.gres=null", f"out={out}", "nodes.gpus_per_node=4",
            "actor.tensor_parallel=2", "actor.pipeline_parallel=2", *words,
        ],
    )  # fmt: skip


def settled_config(out: Path | str, *words: str) -> SubmitConfig:
    """The same after `slurm.submit.settled`."""
    return settled(config(out, *words))


def attempt(run: Path, name: str, *ends: End) -> Attempt:
    """An attempt as the batch script begins it, the current one, with tasks that have ended."""
    made = Attempt(run, name)
    for folder in (made.folder / ENDS, made.logs):
        folder.mkdir(parents=True)
    (run / CLUSTER / CURRENT).write_text(name + "\n")
    for end in ends:
        made.ended(end)
    return made


def end(task: str, code: int, time: float = 0.0, **more: Any) -> End:
    """How a task ended, on a node that is called as it is."""
    return End(task, f"node-{task}", code, time, **more)


def checkpoint(run: Path, step: int) -> None:
    """A checkpoint as far as `latest` tells of it."""
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "latest").write_text(f"step_{step:06d}\n")


def submitted(run: Path, *ids: str) -> None:
    """What `submit` leaves of its jobs."""
    write_json(run / CLUSTER / "submission.json", {"jobs": list(ids), "time": 0.0, "cluster": "bare"})


def everything(folder: Path) -> list[str]:
    """Whatever is in a folder, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)
