"""`crossthink difficulty` as a user runs it: marks, the pool of what is left, a run on it; killed and gone on with."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from train_helpers import TinyWorld, metrics, started, succeed, wait_for

from data_prep.pool import Pool
from recipes.cli import main

pytestmark = pytest.mark.timeout(300, func_only=True)


def words(world: TinyWorld, out: Path, *more: str) -> list[str]:
    return [
        "difficulty", f"checkpoint={world.base}", f"data={world.held_out}", f"out={out}", "threads=1",
        "max_response_tokens=40", world.judged, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("difficulty") / "out"
    done = succeed(*words(tiny_world, out))
    assert "pass rate of the rows asked" in done.stdout
    return out


def test_marks_manifest_and_card_agree(tiny_world: TinyWorld, finished: Path) -> None:
    parent, left = Pool.open(tiny_world.held_out), Pool.open(finished / "pool")
    facts = left.manifest["difficulty"]
    total = facts["total"]
    assert total["rows_in"] == len(parent) == 360 and total["rows_out"] == len(left)
    assert total["unasked"] == 180 and total["kept"] + total["dropped"] == 180
    assert 0 < total["kept"] < 180, "the small model is right now and then"
    marks = pq.read_table(finished / "marks.parquet").to_pylist()
    assert len(marks) == 180
    assert {one["id"] for one in marks if one["pass_rate"] == 0} | {
        row.id for row in parent.rows() if row.domain == "math"
    } == {row.id for row in left.rows()}
    assert facts["parent"] == {"sha256": parent.sha256, "rows": 360}
    assert facts["answerer"]["checkpoint"] == str(tiny_world.base) and facts["rules_hash"]
    assert left.manifest["licence"] == parent.manifest["licence"]
    assert left.manifest["config"]["answer_template"] == "short"
    card = (finished / "pool" / "card.html").read_text()
    assert "Filtered by difficulty" in card and parent.sha256[:16] in card
    assert sum(facts["pass_rates"].values()) == 180
    assert (finished / "pass_rates.svg").read_text().startswith("<svg")


def test_a_run_trains_on_what_is_left(tiny_world: TinyWorld, finished: Path, tmp_path: Path) -> None:
    filtered = ("steps=1", "blend=gpr_up", f"data={finished / 'pool'}", tiny_world.judged)
    succeed(*tiny_world.train_words(tmp_path / "run", *filtered))
    assert len(metrics(tmp_path / "run")) == 1
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["facts"]["pool_sha256"] == Pool.open(finished / "pool").sha256


def test_killed_and_gone_on_with_gives_the_same_files(tiny_world: TinyWorld, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answers = out / "answers" / "answers.jsonl"
    with started(*words(tiny_world, out)) as process:
        wait_for(lambda: answers.is_file() and answers.stat().st_size > 0, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert answers.read_bytes().count(b"\n") < 180 and not (out / "pool").exists()
    succeed(*words(tiny_world, out, "resume=true"))
    for name in (
        "marks.parquet",
        "pass_rates.svg",
        "pool/manifest.json",
        "pool/syn_qa.parquet",
        "answers/samples.jsonl",
    ):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 2, "Add resume=true to go on"),
        (["resume=true"], 0, "is finished"),
        (["resume=true", "keep=range"], 2, "another keep: it was [0.0, 0.0], now it is [0.0, 0.5]"),
    ],
)
def test_a_finished_folder(
    tiny_world: TinyWorld, finished: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(words(tiny_world, finished, *more)) == code
    assert said in capsys.readouterr().err
