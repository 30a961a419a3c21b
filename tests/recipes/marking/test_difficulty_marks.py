"""Marks, what follows from them, and the pool that is left."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_helpers import write_pool

from crossthink.errors import UserError
from data_prep.pool import Pool
from data_prep.rows import PoolRow
from recipes.evaluation.questions import from_pool
from recipes.marking import show
from recipes.marking.filtered_pool import FACTS, write_filtered, write_marks
from recipes.marking.marks import Counts, Mark, Rule, histogram, marks_of, outcome, stays

UNSOLVED = Rule(0.0, 0.0)
ABOUT = {"parent": {"sha256": "0" * 64}, "domains": ["gpr"], "samples": 1, "keep_range": [0, 0], "answerer": {}}
MARKS = st.builds(
    Mark,
    st.just("s"),
    st.just("i"),
    st.sampled_from([(), ("correct",), ("wrong", "bad_gold")]),
    st.one_of(st.none(), st.floats(0, 1)),
)


def row(source, number, domain):
    kind = "math" if domain == "math" else "open"
    return PoolRow(f"{source}{number}", source, domain, kind, f"Question {number}?", None, ["x"],
                   [{"role": "user", "content": f"Question {number}?"}])  # fmt: skip


def sample(source, number, *statuses):
    return [
        {
            "benchmark": source, "id": f"{source}{number}", "run": run,
            "verdict": {
                "reward": None if status in ("bad_gold", "error") else float(status == "correct"),
                "accuracy": None if status in ("bad_gold", "error") else int(status in ("correct", "bad_format")),
                "status": status,
            },
        }
        for run, status in enumerate(statuses)
    ]  # fmt: skip


@pytest.fixture
def parent(tmp_path):
    rows = [row("easy", i, "gpr") for i in range(3)] + [row("hard", i, "gpr") for i in range(5)]
    return write_pool(tmp_path / "parent", [*rows, *(row("sums", i, "math") for i in range(4))])


@pytest.fixture
def marks(parent):
    """Three solved; of five: unsolved, unjudgeable, too long, half solved, right in the wrong form."""
    asked = [one for one in from_pool(parent.path, None).asked if one.row.domain == "gpr"]
    samples = [line for number in range(3) for line in sample("easy", number, "correct", "correct")]
    samples += sample("hard", 0, "wrong", "no_box") + sample("hard", 1, "bad_gold", "error")
    samples += sample("hard", 3, "correct", "wrong") + sample("hard", 4, "bad_format", "bad_gold")
    return marks_of(asked, samples)


def test_marks_in_the_order_of_the_questions(marks):
    assert [(mark.id, mark.pass_rate) for mark in marks] == [
        ("easy0", 1.0), ("easy1", 1.0), ("easy2", 1.0), ("hard0", 0.0), ("hard1", None), ("hard2", None),
        ("hard3", 0.5), ("hard4", 1.0),
    ]  # fmt: skip
    assert marks[4].statuses == ("bad_gold", "error") and marks[5].statuses == ()


@pytest.mark.parametrize(
    ("rule", "kept"),
    [(UNSOLVED, ["hard0", "hard2"]), (Rule(0.5, 0.5), ["hard2", "hard3"]), (Rule(0, 0.5), ["hard0", "hard2", "hard3"])],
)
def test_the_filtered_pool(tmp_path, parent, marks, rule, kept):
    counts = write_filtered(tmp_path / "out" / "pool", parent, marks, ["gpr"], rule, ABOUT)
    made = Pool.open(tmp_path / "out" / "pool")
    assert [one.id for one in made.rows()] == [*kept, "sums0", "sums1", "sums2", "sums3"]
    assert list(made.counts) == ["hard", "sums"]  # nothing stays of easy
    wanted = {one.id: one for one in parent.rows()}
    assert all(one == wanted[one.id] for one in made.rows())
    facts = made.manifest[FACTS]
    assert facts["by_source"] == {name: asdict(one) for name, one in counts.items()}
    assert facts["total"]["rows_in"] == len(parent) and facts["total"]["rows_out"] == len(made)
    assert made.manifest["command"] == "difficulty"
    for name, one in facts["by_source"].items():
        assert one["rows_in"] == parent.counts[name] and one["rows_out"] == made.counts.get(name, 0)
    assert counts["hard"].invalid == counts["hard"].too_long == 1 and counts["sums"].unasked == 4


def test_the_same_marks_give_the_same_bytes(tmp_path, parent, marks):
    for name in ("one", "two"):
        write_filtered(tmp_path / name / "pool", parent, marks, ["gpr"], UNSOLVED, ABOUT)
        write_marks(tmp_path / name / "marks.parquet", marks, UNSOLVED)
    for file in ("pool/manifest.json", "pool/hard.parquet", "marks.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_marks_file(tmp_path, marks):
    write_marks(tmp_path / "marks.parquet", marks, UNSOLVED)
    rows = pq.read_table(tmp_path / "marks.parquet").to_pylist()
    assert [one["outcome"] for one in rows] == ["dropped"] * 3 + ["kept", "invalid", "too_long", "dropped", "dropped"]
    assert rows[4] == {"source": "hard", "id": "hard1", "pass_rate": None, "samples": 2,
                       "statuses": ["bad_gold", "error"], "outcome": "invalid"}  # fmt: skip


def test_an_empty_pool_is_refused(tmp_path, parent):
    solved = [Mark(one.source, one.id, ("correct",), 1.0) for one in parent.rows()]
    with pytest.raises(UserError, match="No row of .*parent stays: 12 of 12 have a pass rate outside 0 to 0"):
        write_filtered(tmp_path / "pool", parent, solved, ["gpr", "math"], UNSOLVED, ABOUT)
    assert not (tmp_path / "pool").exists()


@given(st.lists(st.one_of(st.none(), MARKS)), st.floats(0, 1), st.floats(0, 1))
def test_every_row_is_counted_once(marks, one, other):
    rule, counts = Rule(min(one, other), max(one, other)), Counts()
    for mark in marks:
        counts.count(outcome(mark, rule))
    parts = asdict(counts)
    assert parts.pop("rows_in") == len(marks)
    assert parts.pop("rows_out") == sum(stays(outcome(mark, rule)) for mark in marks)
    assert sum(parts.values()) == len(marks)
    assert asdict(counts + counts) == {name: 2 * value for name, value in asdict(counts).items()}


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_histogram_counts_every_rate(rates):
    found = histogram(rates)
    assert sum(count for _, count in found) == len(rates) and len(found) <= 11


def test_bars_and_picture():
    counts = histogram([0.0, 0.0, 0.5, 1.0])
    assert counts == [("0.00", 2), ("0.50", 1), ("1.00", 1)]
    lines = show.bars(counts).splitlines()
    assert lines[1].count("█") == 2 * lines[2].count("█") and lines[1].endswith(" 2")
    picture = ElementTree.fromstring(show.svg(counts, "a <b> & c"))
    assert len(picture.findall("{http://www.w3.org/2000/svg}rect")) == 3
