"""What rank 0 does while the others wait in a collective may take longer than a collective may."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossthink.procs import free_port

LIMIT_S = 300
JOB = Path(__file__).with_name("waiting_job.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two ranks found: see waiting_job.py."""
    folder = tmp_path_factory.mktemp("waiting")
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    ranks, logs = [], [folder / "rank_0.log", folder / "rank_1.log"]
    try:
        for rank, log in enumerate(logs):
            with open(log, "wb") as output:
                words = [sys.executable, str(JOB), str(folder)]
                environment["RANK"] = str(rank)
                ranks.append(subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT))
        codes = [process.wait(LIMIT_S) for process in ranks]
        assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return [json.loads((folder / f"found_{rank}.json").read_text()) for rank in (0, 1)]


def test_rank_0_makes_it_and_all_have_it(found):
    assert [one["value"][0] for one in found] == ["made", "made"]
    assert all(one["value"][1] > 3 for one in found)  # it has a limit of its own, so they say that they move
    assert [one["made"] for one in found] == [1, 0]


def test_its_failure_is_everybodys(found):
    assert [one["failure"] for one in found] == [["late", 75]] * 2


def test_all_wait_for_a_rollout(found):
    """Only the first rank knows that it failed."""
    assert [one["rollout_failed"] for one in found] == [True, False]


def test_all_wait_for_a_checkpoint(found):
    assert [one["saved"][0] for one in found] == ["step_000001"] * 2


@pytest.mark.parametrize("what", ["saved", "checked"])
def test_none_gives_a_sign_of_life_while_storage_may_hang(found, what):
    assert [one[what] for one in found] == [["step_000001", 0]] * 2


def test_an_evaluation_that_rank_0_cannot_write_ends_all_alike(found):
    for one in found:
        said, code = one["evaluation_unwritten"]["said"]
        assert said.startswith("After step 1 of 3: late (Step 1 is saved in ") and code == 75
        assert one["evaluation_unwritten"]["saved"] == "step_000001"


def test_room_is_asked_for_once_and_refused_to_all(found):
    """A data-parallel copy asks for none; where one rank finds none, all say so, and nothing stays behind."""
    assert [one["copy_needs_no_room"] for one in found] == [None, None]
    assert [one["one_rank_without_room"] for one in found] == [one["no_space"] for one in found]


def test_where_nothing_can_be_allocated_the_shares_of_all_ranks_count(found):
    assert [one["one_share_fits_on_nfs"] for one in found] == [None, None]
    assert [one["two_shares_on_nfs"] for one in found] == [errno.ENOSPC] * 2
