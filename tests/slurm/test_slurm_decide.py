"""What follows when the ranks of a job have ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from submit_helpers import attempt, checkpoint, end, settled_config

from conf.cluster import ClusterConfig
from recipes.run_files import newest_step
from recipes.run_folder import claim
from slurm.attempt import End, Outcome, outcomes
from slurm.decide import bad_nodes, cause_of, main, outcome_of
from slurm.settings import write_cluster
from slurm.submit import training

RANKS = 4
CLUSTER = ClusterConfig(name="test", retries=3, jobs=8, bad_node_failures=2)


def ranks(*codes: int, **changed: End) -> list[End]:
    """All ranks with these codes, one after the other; `rank_2=...` replaces one."""
    found = {f"rank_{number}": end(f"rank_{number}", code, float(number)) for number, code in enumerate(codes)}
    return sorted({**found, **changed}.values(), key=lambda one: one.time)


LOST_CONNECTION = "RuntimeError: Connection closed by peer"
CAUSES = {
    "done": (0, ranks(0, 0, 0, 0), (0, "done", "")),
    "done, its servers ended with it": (
        0,
        [*ranks(0, 0, 0, 0), end("reward_0", 0, 9.0, followed=True), end("rollout_0", 1, 9.0)],
        (0, "done", ""),
    ),
    "told to stop": (75, ranks(75, 75, 75, 75), (75, "stopped", "")),
    # Ranks that had nothing left to save say 0.
    "told to stop with its last step": (75, ranks(75, 0, 0, 0), (75, "stopped", "")),
    "a rank killed, and the others lost it": (
        1,
        ranks(
            1,
            1,
            1,
            1,
            rank_2=end("rank_2", -9, 0.5),
            rank_0=end("rank_0", 1, 1.0, said=LOST_CONNECTION),
            rank_1=end("rank_1", -6, 2.0),
        ),
        (75, "machine", "node-rank_2"),
    ),
    # Its watcher looked later than that of a rank which had lost it, or its node's clock is behind.
    "a rank killed, and seen a moment after the others": (
        1,
        ranks(1, 1, 1, 1, rank_2=end("rank_2", -9, 3.5), rank_3=end("rank_3", -6, 0.1)),
        (75, "machine", "node-rank_2"),
    ),
    "a rank killed long after another had failed": (
        1,
        ranks(1, 1, 1, 1, rank_2=end("rank_2", -9, 30.0)),
        (1, "error", ""),
    ),
    "a rank killed, and the others ended by their watchers": (
        137,
        ranks(
            0,
            0,
            0,
            0,
            rank_2=end("rank_2", -9, 0.5),
            **{f"rank_{n}": end(f"rank_{n}", -9, 20.0, followed=True) for n in (0, 1, 3)},
        ),
        (75, "machine", "node-rank_2"),
    ),
    "a hang of all": (
        137,
        [end(f"rank_{n}", -9, float(n), hung=True, said="at all_reduce") for n in range(RANKS)],
        (75, "machine", ""),
    ),
    # The first to notice ends, the others follow it: nobody knows which of them hung.
    "a hang that one watcher saw": (
        137,
        [end("rank_1", -9, 1.0, hung=True), *(end(f"rank_{n}", -9, 21.0, followed=True) for n in (0, 2, 3))],
        (75, "machine", ""),
    ),
    "a node that vanished": (143, ranks(1, 1)[:2], (75, "machine", "")),
    "a node that vanished, with broken connections first": (
        1,
        [end("rank_0", 1, 1.0, said=LOST_CONNECTION), end("rank_1", 1, 2.0)],
        (75, "machine", ""),
    ),
    "a rank failed by itself, and the others lost it": (
        1,
        ranks(1, 1, 1, 1, rank_3=end("rank_3", 1, 0.5, said="ValueError: no"), rank_0=end("rank_0", -6, 1.0)),
        (1, "error", ""),
    ),
    "a mistake of the user": (2, ranks(2, 1, 1, 1), (2, "error", "")),
    "an error in one rank, whose watchers ended the others": (
        1,
        [end("rank_1", 1, 1.0), *(end(f"rank_{n}", -9, 21.0, followed=True) for n in (0, 2, 3))],
        (1, "error", ""),
    ),
    "an error in one rank, on a node whose clock is late": (
        1,
        [*(end(f"rank_{n}", -9, 21.0, followed=True) for n in (0, 2, 3)), end("rank_1", 1, 22.0)],
        (1, "error", ""),
    ),
    "the critic was killed": (
        1,
        [end("critic_0", -9, 0.5), *ranks(1, 1, 1, 1)],
        (75, "machine", "node-critic_0"),
    ),
    "the critic failed": (1, [end("critic_1", 1, 0.5), *ranks(1, 1, 1, 1)], (1, "error", "")),
    "nobody said anything, srun was killed": (137, [], (75, "machine", "")),
    "nobody said anything, srun failed": (1, [], (1, "error", "")),
    "nobody said anything, and srun is content": (0, [], (75, "machine", "")),  # the only node died
}


@pytest.mark.parametrize("name", CAUSES)
def test_why_an_attempt_ended(name: str) -> None:
    code, ends, (wanted, kind, node) = CAUSES[name]
    cause = cause_of(code, ends, RANKS)
    assert (cause.code, cause.cause, cause.node) == (wanted, kind, node)


@pytest.mark.parametrize(
    "name, said",
    [
        ("a rank killed, and the others lost it", "rank_2 was ended by signal 9"),
        ("a hang of all", "4 ranks gave no sign of life. at all_reduce"),
        ("a node that vanished", "2 of 4 ranks ended without a word"),
        ("a rank failed by itself, and the others lost it", "rank_3 on node-rank_3: ValueError: no"),
        ("nobody said anything, srun was killed", "srun ended with 137, and no rank wrote down why"),
    ],
)
def test_the_cause_is_said(name: str, said: str) -> None:
    code, ends, _ = CAUSES[name]
    assert cause_of(code, ends, RANKS).said.startswith(said)


def machine(name: str, step: int, node: str = "", cause: str = "machine") -> Outcome:
    return Outcome(name, 75, step, cause, node, "", 0.0)


def after(*before: Outcome, step: int = 5, cluster: ClusterConfig = CLUSTER, code: int = 137) -> Outcome:
    """What follows from one more attempt in which all ranks were lost (or, with 75, told to stop)."""
    ends = ranks(75, 75, 75, 75) if code == 75 else []
    return outcome_of("9.0", cause_of(code, ends, RANKS), step, before, cluster)


def test_failures_without_a_new_checkpoint_are_limited() -> None:
    before = [machine(f"{n}.0", 5) for n in range(3)]
    assert (after(*before[:2]).code, after(*before[:2]).cause) == (75, "machine")
    last = after(*before)
    assert (last.code, last.cause) == (1, "limit")
    assert "4 attempts in a row ended at step 5" in last.said and "cluster.retries=3" in last.said
    assert "srun ended with 137" in last.said
    # A checkpoint in between begins the count anew, and so does an attempt that ended otherwise.
    assert after(*before, step=6).code == 75
    assert after(*before[:2], machine("3.0", 5, cause="stopped"), before[2]).code == 75
    assert after(*before[1:], machine("0.0", 4), before[0]).code == 75
    assert after(cluster=replace(CLUSTER, retries=0)).cause == "limit"


def test_attempts_that_were_stopped_before_they_saved_are_limited_too() -> None:
    before = [machine(f"{n}.0", 5, cause="stopped") for n in range(3)]
    assert after(*before, code=75).cause == "limit"
    assert after(*before, code=75, step=6).cause == "stopped"


def test_starts_of_one_job_are_limited_where_it_is_requeued() -> None:
    before = [machine(f"9.{n}", n) for n in range(8)]
    assert after(*before[:6]).code == 75
    last = after(*before[:7])
    assert (last.code, last.cause) == (1, "limit") and "started 8 times (cluster.jobs)" in last.said
    assert after(*(replace(one, attempt=f"8{one.attempt}") for one in before)).code == 75  # another job's
    assert after(*before, cluster=replace(CLUSTER, continuation="chain")).code == 75


def test_an_end_is_an_end_however_many_attempts_there_were() -> None:
    before = [machine(f"9.{n}", 5) for n in range(20)]
    done = outcome_of("9.20", cause_of(0, ranks(0, 0, 0, 0), RANKS), 5, before, CLUSTER)
    assert (done.code, done.cause) == (0, "done")
    failed = outcome_of("9.20", cause_of(2, ranks(2, 2, 2, 2), RANKS), 5, before, CLUSTER)
    assert (failed.code, failed.cause) == (2, "error")


def test_bad_nodes_failed_more_than_once() -> None:
    found = [
        machine("1.0", 1, "n1"), machine("1.1", 2, "n2"), machine("1.2", 3, "n1"), machine("1.3", 3, ""),
        machine("1.4", 3, ""), machine("1.5", 4, "n3", cause="limit"), machine("1.6", 4, "n3"),
    ]  # fmt: skip
    assert bad_nodes(found, CLUSTER) == ["n1"]
    assert bad_nodes(found, replace(CLUSTER, exclude=["n9"], bad_node_failures=1)) == ["n1", "n2", "n3", "n9"]
    assert bad_nodes([], CLUSTER) == []


def test_the_newest_checkpoint(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    checkpoint(tmp_path, 40)
    assert newest_step(tmp_path) == 40


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as `submit` leaves it."""
    out = tmp_path / "run"
    made = settled_config(out, "cluster.bad_node_failures=1", "cluster.retries=1")
    out.mkdir()
    claim(training(made))
    write_cluster(out, made.cluster)
    return out


def test_a_finished_run_is_written_down(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(run, "7.0", *ranks(0, 0, 0, 0))
    checkpoint(run, 70)
    assert main([str(run), "7.0", "0"]) == 0
    [outcome] = outcomes(run)
    assert (outcome.attempt, outcome.code, outcome.step, outcome.cause) == ("7.0", 0, 70, "done")
    assert (run / "cluster" / "finished").read_text() == "0\n"
    said = capsys.readouterr()
    assert said.out == "stop -\n" and "attempt 7.0: done, step 70" in said.err


def test_a_run_that_lost_a_rank_goes_on_without_its_node(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(run, "7.0", *ranks(1, 1, 1, 1, rank_1=end("rank_1", -9, 1.0)))
    assert main([str(run), "7.0", "1"]) == 75
    assert capsys.readouterr().out == "go-on node-rank_1\n"
    assert not (run / "cluster" / "finished").exists()
    attempt(run, "7.1", *ranks(75, 75, 75, 75))
    assert main([str(run), "7.1", "75"]) == 75
    assert capsys.readouterr().out == "go-on node-rank_1\n"
    assert [(one.attempt, one.cause) for one in outcomes(run)] == [("7.0", "machine"), ("7.1", "stopped")]


def test_a_run_that_fails_again_and_again_ends(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code, answer in (("7.0", 75, "go-on -\n"), ("7.1", 1, "stop -\n")):
        attempt(run, name)
        assert main([str(run), name, "137"]) == code
        assert capsys.readouterr().out == answer
    assert (run / "cluster" / "finished").read_text() == "1\n"
    assert [one.cause for one in outcomes(run)] == ["machine", "limit"]


def test_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["run", "7.0"], ["run", "7.0", "x"], ["run", "7.0", "1", "2"]):
        assert main(words) == 2
        assert "usage" in capsys.readouterr().err
