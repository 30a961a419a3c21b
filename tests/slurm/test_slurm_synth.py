"""`crossthink synth cluster=` on a real SLURM: the rows of a run without one; stages that fail, and go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")
from slurm_cluster import Cluster
from synth_brain import BRAIN, SHARES
from synth_endpoint import Running, synth_endpoint
from synth_helpers import MATH_FILE, QA_FILE, foretold, heard, math_words, qa_words
from synth_world import crawl
from train_helpers import succeed

from conf.cluster import ClusterConfig
from conf.synth import SynthConfig
from crossthink.errors import EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from data_prep.synthesis.slurm_executor import slurm_executor
from data_prep.synthesis.stages import stages
from recipes import cli
from recipes.synth_jobs import last_error

LIMIT_S = 400.0
POLL_S = 2.0
QA_STAGES = ("pages", "signatures", "buckets", "clusters", "questions", "rows")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES) as running:
        yield running


def synth(cluster: Cluster, words: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    return cluster.try_call(sys.executable, "-m", "recipes.cli", *words, "cluster=local", *more)


def until_no_job(cluster: Cluster) -> None:
    end = time.monotonic() + LIMIT_S
    while cluster.call("squeue", "--noheader", "--format=%A %T %r"):
        assert time.monotonic() < end, cluster.call("squeue")
        time.sleep(POLL_S)


def to_the_end(cluster: Cluster, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Look again until it is done."""
    end = time.monotonic() + LIMIT_S
    while (seen := synth(cluster, words, "resume=true")).returncode == EXIT_RESUMABLE:
        assert time.monotonic() < end, seen.stderr
        time.sleep(POLL_S)
    return seen


def submissions(said: str) -> list[str]:
    """Stages that a call has submitted."""
    return [line.split()[2].rstrip(":") for line in said.splitlines() if "submitted as job" in line]


def test_problems_as_jobs_give_the_rows_of_a_run_here(quiet_cluster: Cluster, server: Running, tmp_path: Path) -> None:
    words = math_words(tmp_path / "jobs", server.url, 24)
    first = synth(quiet_cluster, words)
    assert first.returncode == EXIT_RESUMABLE and submissions(first.stderr) == ["questions", "rows"], first.stderr
    again = synth(quiet_cluster, words, "resume=true")
    assert not submissions(again.stderr), "submitted twice"
    done = to_the_end(quiet_cluster, words)
    assert done.returncode == EXIT_DONE, done.stderr
    assert (tmp_path / "jobs" / "card.html").is_file()
    calls = heard(server)
    assert calls == foretold(tmp_path / "jobs", SHARES).lines
    succeed(*math_words(tmp_path / "here", server.url, 24))
    rows = (tmp_path / "jobs" / MATH_FILE).read_bytes()
    assert rows == (tmp_path / "here" / MATH_FILE).read_bytes() and rows


@pytest.mark.slow
def test_pages_as_jobs_give_the_rows_of_a_run_here(quiet_cluster: Cluster, server: Running, tmp_path: Path) -> None:
    world = crawl(tmp_path / "crawl")
    words = qa_words(tmp_path / "jobs", server.url, world.folder)
    first = synth(quiet_cluster, words)
    assert submissions(first.stderr) == list(QA_STAGES), first.stderr
    done = to_the_end(quiet_cluster, words)
    assert done.returncode == EXIT_DONE, done.stderr
    assert heard(server) == foretold(tmp_path / "jobs", SHARES, world).lines
    succeed(*qa_words(tmp_path / "here", server.url, world.folder))
    rows = (tmp_path / "jobs" / QA_FILE).read_bytes()
    assert rows == (tmp_path / "here" / QA_FILE).read_bytes() and rows


@pytest.mark.slow
def test_a_stage_that_stops_is_said_and_submitted_again(
    quiet_cluster: Cluster, server: Running, tmp_path: Path
) -> None:
    words = math_words(tmp_path / "jobs", server.url, 24)
    first = synth(quiet_cluster, words, "solver.budget.tokens=2000")
    assert first.returncode == EXIT_RESUMABLE, first.stderr
    until_no_job(quiet_cluster)  # the stage behind it is cancelled, too
    seen = synth(quiet_cluster, words, "resume=true")
    assert "stage questions: 0 of 2 tasks done, job" in seen.stderr and "solver.budget.tokens=" in seen.stderr
    assert submissions(seen.stderr) == ["questions", "rows"]
    assert to_the_end(quiet_cluster, words).returncode == EXIT_DONE
    assert heard(server) == foretold(tmp_path / "jobs", SHARES).lines
    succeed(*math_words(tmp_path / "here", server.url, 24))
    assert (tmp_path / "jobs" / MATH_FILE).read_bytes() == (tmp_path / "here" / MATH_FILE).read_bytes()


def test_what_a_job_said_last(tmp_path: Path) -> None:
    said = (
        "0: Traceback (most recent call last):\n0:   File x\n0: a.b.Stopped: The budget is reached.\nsrun: error: n1\n"
    )
    (tmp_path / "7_0.out").write_text(said)
    assert last_error(tmp_path) == "The budget is reached."
    (tmp_path / "7_0.out").write_text("0: all is well\nslurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***\n")
    assert last_error(tmp_path) == "*** JOB 7 CANCELLED DUE TO TIME LIMIT ***"
    (tmp_path / "7_0.out").write_text("0: all is well\n")
    assert last_error(tmp_path) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["writer.token=abc"], "writer.token: with cluster= the key must be @FILE"),
        (["cluster.style=pyxis"], "cluster.style=pyxis: synth's jobs run without containers"),
    ],
)
def test_what_no_job_can_take_is_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*math_words(tmp_path / "out", "http://127.0.0.1:9/v1", 24), "cluster=local", *given]
    assert cli.main(words) == EXIT_USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_a_cluster_reach_sbatch(tmp_path: Path) -> None:
    cluster = replace(
        ClusterConfig(name="x"),
        account="rl",
        mem="8G",
        constraint="cpu",
        exclude=["n1", "n2"],
        options=["--comment=rl"],
    )
    config = replace(SynthConfig(out=str(tmp_path)), kind="math", cluster=cluster, tasks=2500)
    executor = slurm_executor(config, stages(config)[0], "12")
    found = executor.get_sbatch_args(3)
    wanted = {
        "account": "rl",
        "mem": "8G",
        "constraint": "cpu",
        "exclude": "n1,n2",
        "comment": "rl",
        "time": "04:00:00",
    }
    assert wanted.items() <= found.items()
    assert not {"mem-per-cpu", "partition", "qos", "reservation"} & found.keys()
    assert executor.dependency == "afterok:12" and executor.tasks_per_job == 3
