from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.rows import Question
from data_prep.steps import SHOWN, STEPS, Tally, readable

# Few kinds, so that most examples have more rows of one than are shown.
ROWS = st.lists(st.sampled_from([None, ("parse", "a"), ("parse", "b"), ("sample", "a")]), min_size=20, max_size=60)


def tally_of(rows, first=0):
    tally = Tally(rows_in=len(rows))
    for number, drop in enumerate(rows, first):
        if drop is not None:
            tally.drop(*drop, {"row": number})
    return tally


@settings(deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_parts_add_up_to_the_whole_however_it_is_cut(rows, cuts):
    whole, total = tally_of(rows), Tally()
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, end in zip(edges, edges[1:], strict=False):
        total.add(Tally.from_json(tally_of(rows[start:end], start).to_json()))
    assert (total.rows_in, total.dropped) == (whole.rows_in, whole.dropped)
    by_kind = Counter((row["step"], row["reason"]) for row in total.shown)
    assert by_kind == {kind: min(SHOWN, count) for kind, count in Counter(filter(None, rows)).items()}
    assert sorted(row["row"] for row in total.shown) == sorted(row["row"] for row in whole.shown), "the first of each"
    counts = total.counts()
    assert [step["step"] for step in counts] == list(STEPS)
    assert counts[0]["in"] == len(rows) and counts[-1]["out"] == total.rows_out == rows.count(None)


def test_a_dropped_row_can_be_read_whatever_is_in_it():
    question = Question(
        *("s", "gpr", "mcq", "a\ud800" + "x" * 5000),
        options=(("A", "\udfff"), ("B", "b")),
        gold_label="B",
        gold_text="b",
        file="f.jsonl",
        row=7,
    )
    shown = readable(question)
    assert shown["question"].startswith("a\\ud800x") and len(shown["question"]) < 2100
    assert shown["options"] == {"A": "\\udfff", "B": "b"} and (shown["gold"], shown["gold_text"]) == (["B"], "b")
    assert (shown["source"], shown["file"], shown["row"]) == ("s", "f.jsonl", 7)
    str(shown).encode("utf-8")
