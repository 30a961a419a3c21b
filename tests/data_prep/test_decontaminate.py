"""Benchmark items are found in every disguise that the rules promise, and nothing else is."""

import dataclasses
import json
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep.benchmarks import find_benchmarks, read_items
from data_prep.boilerplate import COMMON, MAX_STEM, N, says_enough
from data_prep.decontaminate import Hit, Index
from data_prep.ngrams import words
from data_prep.rows import Question
from data_prep.sources.syn_qa import split_options

LONG = "A farmer walks to the market with seven brown hens and sells three of them before the rain begins"
SHORT = "How many legs has a spider?"


def ask(question, options=None, **meta):
    lettered = options and tuple(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options, strict=False))
    return Question("test", "gpr", "mcq" if options else "open", question, options=lettered, meta=meta)


def index(*items, coverage=0.5):
    """An index of `items`: questions, or (benchmark, question)."""
    named = [item if isinstance(item, tuple) else ("bench", item) for item in items]
    return Index.build([(name, f"{name}:{at}", question) for at, (name, question) in enumerate(named)], coverage)


def found(built, *questions):
    return [hit and hit.item for hit in built.find(questions)]


def spaced(text):
    return re.sub(r"\s+", " \n\t", re.sub(r"([!-/:-@\[-`{-~])", r" \1 ", text))


def changed(question, how):
    """`question` with `how` applied to its text and to its options."""
    options = question.options and tuple((label, how(text)) for label, text in question.options)
    return dataclasses.replace(question, question=how(question.question), options=options)


def reordered(question):
    texts = [text for _, text in question.options or ()][::-1]
    return ask(question.question, texts or None)


def embedded(question):
    return ask(f"Read this with care. {question.question} Give your reasons in full.")


def test_a_long_item_is_found_inside_a_longer_question_with_other_options():
    built = index(ask(LONG, ["4", "3"]))
    assert found(built, ask(LONG), embedded(ask(LONG)), ask(LONG.upper(), ["x", "y"])) == ["bench:0"] * 3
    (hit,) = built.find([embedded(ask(spaced(LONG)))])
    assert hit == Hit("bench", "bench:0", "13-gram", " ".join(words(LONG)), ("bench",))


def test_coverage_counts_the_items_words():
    # 19 words, of which shared 13-grams cover 13, 14, ...
    item = words(LONG)
    assert len(item) == 19
    rows = [ask(" ".join(item[:length])) for length in range(12, 20)]
    for coverage, first in ((0.5, 13), (13 / 19, 13), (0.7, 14), (1.0, 19)):
        hits = found(index(ask(LONG), coverage=coverage), *rows)
        assert [hit is not None for hit in hits] == [12 + at >= first for at in range(8)]


def test_two_overlaps_add_up():
    item = [f"w{chr(97 + at)}" for at in range(26)] * 2
    item = [f"{word}{'xy'[at // 26]}" for at, word in enumerate(item)]
    row = " ".join(item[:15]) + " something else " + " ".join(item[30:45])
    assert found(index(ask(" ".join(item)), coverage=30 / 52), ask(row)) == ["bench:0"]
    assert found(index(ask(" ".join(item)), coverage=31 / 52), ask(row)) == [None]


def test_a_short_item_needs_question_and_options():
    built = index(ask(SHORT, ["six", "eight", "ten"]))
    same = ask(SHORT, ["six", "eight", "ten"])
    assert found(built, same, reordered(same), changed(same, str.upper), changed(same, spaced)) == ["bench:0"] * 4
    assert built.find([same])[0].how == "exact"
    others = [
        ask(SHORT),
        ask(SHORT, ["six", "eight"]),
        ask(SHORT, ["six", "eight", "eleven"]),
        ask(SHORT, ["six", "eight", "eight", "ten"]),
        ask("How many legs has an ant?", ["six", "eight", "ten"]),
        embedded(same),
    ]
    assert found(built, *others) == [None] * len(others)


def test_options_without_words_count_as_they_are():
    built = index(ask("Which sign is less than?", ["<", ">"]))
    assert found(built, ask("Which sign is less than?", [">", "<"])) == ["bench:0"]
    assert found(built, ask("Which sign is less than?", ["=", "<"])) == [None]


def test_a_short_item_without_options_is_found_with_any_options_or_none():
    built = index(ask(r"Compute $\sin 135^\circ$."))
    assert found(built, ask(r"compute \(\sin{135}^{\circ}\)"), ask(r"Compute $\sin 135^\circ$.", ["1", "2"])) == [
        "bench:0",
        "bench:0",
    ]
    assert found(built, ask(r"Compute $\sin 35^\circ$."), embedded(ask(r"Compute $\sin 135^\circ$."))) == [None, None]


@pytest.mark.parametrize(
    ("question", "enough"),
    [
        ("Simplify.", False),
        ("Find $x$.", False),
        ("Simplify $2$", False),
        (r"Simplify $\sqrt{192}$.", True),
        ("Why is the sky blue?", True),
        ("Solve the following equation.", False),
        ("", False),
    ],
)
def test_what_says_too_little_is_not_found_and_counted(question, enough):
    assert says_enough(question) == enough
    built = index(ask(question), ask(LONG))
    assert found(built, ask(question)) == ["bench:0" if enough else None]
    assert built.counts() == {"bench": {"items": 2, "unfindable": 0 if enough else 1}}


STEM = "Which one of the following, if true, most seriously weakens the argument that the author makes in this passage?"


def passage(number):
    return " ".join(f"p{chr(97 + number)}{chr(97 + at)}" for at in range(16))


def after_passage(number, stem=STEM):
    return ask(f"{passage(number)}.\n{stem}", [f"because {number}", "or not"], passage=f"{passage(number)}.")


def test_a_stem_shared_after_passages_never_hits_alone():
    assert N <= len(words(STEM)) <= MAX_STEM
    built = index(*[after_passage(number) for number in range(3)])
    others = [
        ask(STEM),
        ask(STEM, ["because 0", "or not"]),
        ask(f"Quite another text. {STEM}", ["because 0", "or not"]),
        ask(f"{passage(0).split()[-1]} {STEM}"),
    ]
    assert found(built, *others) == [None] * len(others)
    # Its passage is what tells an item: with the stem or another, and no matter how long the stem is.
    assert found(built, after_passage(1), embedded(after_passage(2)), ask(f"{passage(0)} Why?")) == [
        "bench:1",
        "bench:2",
        "bench:0",
    ]


def test_a_stem_shared_after_passages_is_boilerplate_where_it_stands_alone_too():
    alone = ask(STEM, ["because 7", "or not"])
    built = index(after_passage(0), after_passage(1), alone)
    assert found(built, alone, reordered(alone), ask(STEM), ask(STEM, ["because 8", "or not"])) == [
        "bench:2",
        "bench:2",
        None,
        None,
    ]


def test_a_question_asked_twice_with_other_distractors_is_no_boilerplate():
    built = index(*[ask(LONG, [f"distractor {number}", "three"]) for number in range(3)])
    assert found(built, ask(LONG)) == ["bench:0"]
    built = index(*[ask(LONG, [f"distractor {number}", "three"]) for number in range(4)])
    assert found(built, ask(LONG)) == [None]
    long = f"{LONG} {passage(0)}"
    assert len(words(long)) > MAX_STEM
    assert found(index(*[ask(long, [f"{number}", "x"]) for number in range(9)]), ask(long)) == ["bench:0"]


def test_the_stem_of_two_benchmarks_is_no_boilerplate():
    built = index(*[(f"bench{number}", ask(LONG, ["one", f"two {number}"])) for number in range(6)])
    (hit,) = built.find([ask(LONG)])
    assert (hit.benchmark, hit.benchmarks) == ("bench0", tuple(f"bench{number}" for number in range(6)))


def test_13_grams_of_many_questions_do_not_count():
    scenario = (
        "For which of these two scenarios does the main character do something that is clearly morally wrong today"
    )
    items = [ask(f"{scenario} {passage(number)}", ["first", "second"]) for number in range(COMMON + 1)]
    assert found(index(*items), ask(scenario), ask(f"{scenario} and so on")) == [None, None]
    assert found(index(*items), *items[:2], ask(passage(3))) == ["bench:0", "bench:1", "bench:3"]
    assert found(index(*items[:-1]), ask(scenario)) == ["bench:0"], "so few may be one passage"


def test_the_better_match_is_named_and_all_benchmarks_are():
    half = " ".join(words(LONG)[:13])
    built = index(("b", ask(f"{half} while his wife stays")), ("a", ask(LONG)), ("b", ask(LONG)), ("c", ask(SHORT)))
    (hit,) = built.find([ask(LONG)])
    assert (hit.benchmark, hit.item, hit.benchmarks) == ("a", "a:1", ("b", "a"))


def test_nothing_of_a_private_benchmark_is_shown():
    built = index(("gpqa_diamond", ask(LONG)), ("mmlu_test", ask(LONG)), ("mmlu_test", ask(passage(1))))
    (hit,) = built.find([ask(LONG)])
    assert hit.private and hit.span == "" and hit.benchmarks == ("gpqa_diamond", "mmlu_test")
    (hit,) = built.find([ask(passage(1))])
    assert not hit.private and hit.span == passage(1)


def test_repeated_words_and_empty_questions():
    zeros = "0 " * 3000
    built = index(ask(zeros), ask(""), ask("", ["a", "b"]), ask(LONG))
    assert found(built, ask(zeros), ask(""), ask("0 " * 12), ask("?", ["b", "a"])) == [
        "bench:0",
        None,
        None,
        "bench:2",
    ]
    assert built.find([]) == []
    assert Index.build([], 0.5).find([ask(LONG), ask(SHORT, ["a"])]) == [None, None]


def test_an_index_comes_back_from_its_file(tmp_path):
    built = index(after_passage(0), after_passage(1), ask(LONG), ("other", ask(SHORT, ["six", "eight"])))
    built.save(tmp_path / "index.npz")
    again = Index.load(tmp_path / "index.npz")
    for field in dataclasses.fields(Index):
        one, other = getattr(built, field.name), getattr(again, field.name)
        assert type(one) is type(other)
        assert one == other if field.name == "coverage" else (one.dtype == other.dtype and (one == other).all())
    rows = [after_passage(1), ask(LONG), ask(SHORT, ["eight", "six"]), ask(SHORT)]
    assert built.find(rows) == again.find(rows)


def test_a_damaged_or_foreign_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "index.npz"
    index(ask(LONG)).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:-200] + bytes(200)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="index.npz is damaged"):
            Index.load(path)
    path.write_bytes(whole)
    monkeypatch.setattr("data_prep.decontaminate._VERSION", "decontaminate 99")
    with pytest.raises(UserError, match="was written by another version"):
        Index.load(path)


def covered(item, row):
    """The share of the item's words that 13-grams of the row cover, the slow way."""
    grams = {tuple(row[at : at + N]) for at in range(len(row) - N + 1)}
    marks = [False] * len(item)
    for at in range(len(item) - N + 1):
        if tuple(item[at : at + N]) in grams:
            marks[at : at + N] = [True] * N
    return Fraction(sum(marks), len(item))


# Two letters and pieces of one tape, so that texts often share long runs and repeat their own.
TAPE = [("a", "b")[bit == "1"] for bit in "0110100110010110100101100110100110010110011010010110100110010110"]
TEXT = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 24)).map(lambda cut: TAPE[cut[0] : sum(cut)]), min_size=1, max_size=4
).map(lambda pieces: sum(pieces, []))


@settings(deadline=None, max_examples=200)
@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4), st.sampled_from([0.3, 0.5, 0.9]))
def test_coverage_is_that_of_a_plain_count(items, rows, coverage):
    built = index(*[(f"b{at}", ask(" ".join(item))) for at, item in enumerate(items)], coverage=coverage)
    for row, hit in zip(rows, built.find([ask(" ".join(row)) for row in rows]), strict=True):
        expected = {
            f"b{at}"
            for at, item in enumerate(items)
            if (covered(item, row) >= Fraction(str(coverage)) if len(item) >= N else item == row and len(item) >= 4)
        }
        assert set(hit.benchmarks if hit else ()) == expected


@settings(deadline=None)
@given(st.data(), st.lists(st.text(alphabet="abc1 .+é中", max_size=30), min_size=2, max_size=5))
def test_an_item_with_options_is_found_in_any_order_and_spelling(data, texts):
    item = ask(f"Which {texts[0]} is it?", texts[1:])
    row = changed(ask(item.question, data.draw(st.permutations(texts[1:]))), str.upper)
    assert found(index(item), row) == ["bench:0"]


@pytest.fixture(scope="module")
def real(shared_data):
    """The real benchmark rows, and their index."""
    items = list(read_items(find_benchmarks(shared_data)))
    return items, Index.build(items, 0.5)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda question: question,
        lambda question: changed(question, str.upper),
        lambda question: changed(question, spaced),
        reordered,
    ],
    ids=["exact", "re-cased", "re-spaced", "options re-ordered"],
)
def test_every_real_item_is_found(real, disguise):
    items, built = real
    hits = built.find([disguise(question) for _, _, question in items])
    missed = [item for (name, item, _), hit in zip(items, hits, strict=True) if not hit or name not in hit.benchmarks]
    assert missed == []


def test_every_real_stem_of_13_words_is_found_inside_a_longer_question(real):
    items, built = real
    long = [(name, item, question) for name, item, question in items if len(words(question.question)) >= N]
    assert len(long) > 3000
    hits = built.find([embedded(question) for _, _, question in long])
    missed = [item for (name, item, _), hit in zip(long, hits, strict=True) if not hit or name not in hit.benchmarks]
    assert missed == []


def test_real_short_stems_never_hit_without_their_options(real):
    items, built = real
    short = [question for _, _, question in items if question.options and len(words(question.question)) < N]
    assert len(short) > 500
    # A few are also asked by a benchmark without options.
    assert sum(hit is not None for hit in built.find([ask(question.question) for question in short])) <= 1


def unrelated(folder):
    """Real rows that are in no benchmark, as far as is known."""

    def rows(name):
        return map(json.loads, (folder / f"{name}.jsonl").open(encoding="utf-8"))

    for name in ("gsm8k_train_sample", "gsm8k_test_sample"):
        yield from (ask(row["question"]) for row in rows(name))
    for name in ("deepmath_roll_transformed", "multi_subject_rlvr_open_qa_roll_transformed"):
        yield from (ask(json.loads(row["messages"])[-1]["content"]) for row in rows(name))
    yield from (ask(row["question"], row["choices"]) for row in rows("mmlu_auxiliary_train_science"))
    for row in rows("nemotron_crossthink_qa_roll_transformed"):
        stem, options = split_options(row["prompt"].split("inside \\boxed{}. \n", 1)[1])
        yield ask(stem, [text for _, text in options])


def test_at_most_one_unrelated_row_in_a_thousand_is_hit(real, shared_data):
    _, built = real
    rows = list(unrelated(shared_data))
    assert len(rows) == 3516
    assert sum(hit is not None for hit in built.find(rows)) <= 3


def test_the_known_copies_in_math_train_are_found(real, shared_data):
    items, built = real
    problems = [
        json.loads(line)["problem"] for line in (shared_data / "math_train_sample.jsonl").open(encoding="utf-8")
    ]
    asked = {}
    for name, _, question in items:
        asked.setdefault(tuple(words(question.question)), set()).add(name)
    copies = hits = 0
    for problem, hit in zip(problems, built.find([ask(problem) for problem in problems]), strict=True):
        known = asked.get(tuple(words(problem)), set())
        copies += bool(known)
        hits += hit is not None
        assert known <= set(hit.benchmarks if hit else ())
    assert copies >= 5
    assert hits <= 20, "siblings of MATH test problems, which share more than half of their words, are taken out, too"
