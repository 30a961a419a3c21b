"""`crossthink eval` killed, stopped, left by its endpoint, and continued: the files of one that was never stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from eval_helpers import boxed, counts, endpoint, row
from pool_helpers import write_pool
from train_helpers import TinyWorld, crossthink, started, succeed, wait_for

from crossthink.errors import EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from recipes.evaluation.folder import ANSWERS
from recipes.run_files import SAMPLES, SUMMARY

pytestmark = pytest.mark.timeout(300, func_only=True)


def local_words(world: TinyWorld, out: Path) -> list[str]:
    """Few answers at a time, so that there is a middle to be killed in."""
    return [
        "eval", f"checkpoint={world.base}", f"data={world.held_out}", f"out={out}", world.judged, "limit=12", "runs=2",
        "max_response_tokens=40", "rollout.batch_size=2", "threads=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of 144 answers that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "e"
    succeed(*local_words(tiny_world, out))
    return out


def lines(out: Path) -> int:
    """Whole lines of the record."""
    path = out / ANSWERS
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def assert_same_files(one: Path, other: Path) -> None:
    for name in (SAMPLES, SUMMARY):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("how", "count"),
    [
        pytest.param("KILL", 0, marks=pytest.mark.slow),
        ("KILL", 1),
        pytest.param("KILL", 90, marks=pytest.mark.slow),
        ("TERM", 40),
    ],
)
def test_a_stopped_evaluation_ends_as_one_that_was_not(
    tiny_world: TinyWorld, straight: Path, tmp_path: Path, how: str, count: int
) -> None:
    out = tmp_path / "e"
    words = local_words(tiny_world, out)
    with started(*words) as process:
        wait_for(lambda: (out / ANSWERS).is_file() and lines(out) >= count, process)
        process.send_signal(getattr(signal, f"SIG{how}"))
        _, err = process.communicate(timeout=100)
    assert process.returncode == (-signal.SIGKILL if how == "KILL" else EXIT_RESUMABLE), err[-2000:]
    kept = lines(out)
    assert count <= kept < 144 and not (out / SUMMARY).exists()
    if how != "KILL":
        assert f"{kept} of 144 answers are kept in {out}" in err and "resume=true" in err
    with open(out / ANSWERS, "ab") as file:
        file.write(b'{"benchmark": "mmlu_tr')  # what a kill in the middle of a write leaves
    refused = crossthink(*words)
    assert refused.returncode == EXIT_USAGE and "resume=true" in refused.stderr
    succeed(*words, "resume=true", "rollout.batch_size=64")
    assert_same_files(straight, out)


def test_a_finished_evaluation_says_so(tiny_world: TinyWorld, straight: Path) -> None:
    before = (straight / SUMMARY).stat().st_mtime_ns
    done = succeed(*local_words(tiny_world, straight), "resume=true")
    assert done.returncode == EXIT_DONE and f"{straight} is finished" in done.stderr
    assert (straight / SUMMARY).stat().st_mtime_ns == before


def test_an_endpoint_that_dies_midway(tiny_world: TinyWorld, tmp_path: Path) -> None:
    rows = [row(number, gold="ABCD"[number % 4]) for number in range(20)]
    write_pool(tmp_path / "pool", rows)
    script = {"replies": {one.question: boxed(one.ground_truth[0]) for one in rows[:15]}, "default": "I do not know"}

    def words(out: Path, url: str) -> list[str]:
        return [
            "eval", f"endpoint={url}", f"data={tmp_path / 'pool'}", f"out={out}", tiny_world.judged, "runs=2",
            "request.retries=0", "request.concurrency=2",
        ]  # fmt: skip

    with endpoint(tmp_path, **script) as url:
        succeed(*words(tmp_path / "straight", url))
    with endpoint(tmp_path, **script, dies_after=25) as url:
        gone = crossthink(*words(tmp_path / "e", url))
    assert gone.returncode == EXIT_RESUMABLE and f"endpoint={url} did not answer" in gone.stderr
    assert "resume=true" in gone.stderr and "Traceback" not in gone.stderr
    kept = lines(tmp_path / "e")
    assert 20 <= kept <= 25
    with endpoint(tmp_path, **script) as url:
        succeed(*words(tmp_path / "e", url), "resume=true")
        assert counts(url)["requests"] == 40 - kept
    # But for its address, which is another, nothing tells the two apart.
    assert (tmp_path / "e" / SAMPLES).read_bytes() == (tmp_path / "straight" / SAMPLES).read_bytes()
    done = succeed(*words(tmp_path / "e", url), "resume=true")
    assert "is finished" in done.stderr, "the endpoint of a finished evaluation need not be there"
