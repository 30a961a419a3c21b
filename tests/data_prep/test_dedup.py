"""Exact and near duplicates: what counts as one question, and that the state comes back."""

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import dedup
from data_prep.dedup import PERMUTATIONS, NearDedup, exact_key, signatures
from data_prep.rows import Question


def signature(question):
    return signatures([question])[0]


def ask(question, options=None, labels="ABCDEFGHIJ", source="one", kind="open"):
    lettered = options and tuple(zip(labels, options, strict=False))
    return Question(source, "gpr", kind, question, options=lettered)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ask("What is x?"), ask(" What\n is \t x? ")),
        (ask("What is x?"), ask("What is x?", source="two", kind="math")),
        (ask("Naïve?"), ask(unicodedata.normalize("NFD", "Naïve?"))),
        (ask("Is １ ﬁne?"), ask("Is 1 fine?")),
        (ask("1 − 2"), ask("1 - 2")),
        (ask("x² + 1"), ask("x^2 + 1")),
        (ask("Q?", ["a", "b"]), ask("Q?", ["b", " a "])),
        (ask("Q?", ["a", "b"]), ask("Q?", ["b", "a"], labels="XY")),
        (ask("Q?", []), ask("Q?")),
    ],
)
def test_equal_questions_have_one_key(one, other):
    assert exact_key(one) == exact_key(other)
    assert len(exact_key(one)) == 16


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Let N be 2", "Let n be 2"),
        ("x+1", "x-1"),
        ("x + 1", "x+1"),
        ("10² = ?", "102 = ?"),
        ("a₁ = ?", "a1 = ?"),
        ("x² = ?", "x₂ = ?"),
        ("1.5", "15"),
        ("a < b", "a > b"),
    ],
)
def test_different_mathematics_has_different_keys(one, other):
    assert exact_key(ask(one)) != exact_key(ask(other))
    assert exact_key(ask("Q?", [one, "0"])) != exact_key(ask("Q?", [other, "0"]))


def test_options_enter_the_key():
    questions = [
        ask("Q?"),
        ask("Q?", ["a"]),
        ask("Q?", ["a", "b"]),
        ask("Q?", ["a", "b", "b"]),
        ask("Q? a", ["b"]),
        ask("Q?", ["a 1:b"]),
        ask("Q?", ["a1", "b"]),
    ]
    assert len({exact_key(question) for question in questions}) == len(questions)


def test_a_key_is_the_same_on_every_machine():
    key = exact_key(ask("How many legs has a spider?", ["six", "eight"]))
    assert key.hex() == "72cd0667a262c384fd6d7fc27bebf75f", "raise DEDUP_VERSION with every change"


TEXT = st.text(alphabet="ab1:+ \n\0", max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3)), max_size=30))
def test_keys_are_equal_exactly_for_equal_content(rows):
    contents = [(" ".join(q.split()), tuple(sorted(" ".join(o.split()) for o in options))) for q, options in rows]
    keys = [exact_key(ask(question, options)) for question, options in rows]
    assert len(set(zip(contents, keys, strict=True))) == len(set(contents)) == len(set(keys))


WORDS = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("an", "el", "im", "or", "ut")]


def sentence(rng, length=60):
    return " ".join(rng.choices(WORDS, k=length))


def edited(text, rng, edits):
    found = text.split()
    for at in rng.sample(range(len(found)), edits):
        found[at] = "changed"
    return " ".join(found)


def jaccard(one, other):
    sets = [{tuple(text.split()[at : at + 5]) for at in range(len(text.split()) - 4)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def agreement(one, other):
    return float((signature(ask(one)) == signature(ask(other))).mean())


def test_signatures_estimate_the_jaccard_similarity_of_word_5_grams():
    rng = random.Random(1)
    errors = []
    for edits in [0, 1, 2, 3, 4, 6, 8] * 12:
        one = sentence(rng)
        other = edited(one, rng, edits)
        errors.append(agreement(one, other) - jaccard(one, other))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.05


def test_signatures_of_many_are_those_of_each():
    rng = random.Random(2)
    questions = [ask(sentence(rng, length), [sentence(rng, 7), "x"] if length % 2 else None) for length in range(1, 40)]
    questions += [ask(""), ask("∫"), ask("?", ["∫", "∑"])]
    block = signatures(questions)
    assert block.dtype == np.uint32 and block.shape == (len(questions), PERMUTATIONS)
    assert all((row == signature(question)).all() for row, question in zip(block, questions, strict=True))
    assert signatures([]).shape == (0, PERMUTATIONS)


def test_what_changes_a_signature_and_what_does_not():
    text = "Find all real numbers that solve this"
    assert agreement(text, "find  ALL real numbers, that solve this!") == 1
    assert agreement(f"{text} x+1", f"{text} x-1") < 1
    stem = "Which of the following statements about the reading passage above is true?"
    one = signature(ask(stem, ["the sun is a star of medium size", "the moon"]))
    assert (one == signature(ask(stem, ["the moon", "the sun is a star of medium size"]))).all()
    assert (one == signature(ask(stem, ["a cat has four legs and one long tail", "a dog"]))).mean() < 0.72
    assert agreement("∫", "∑") == 0


def test_a_signature_is_the_same_on_every_machine():
    row = signature(ask("How many legs has a spider that lost one of them?"))
    assert row[:3].tolist() == [3294290685, 3270308860, 3269275543], "raise DEDUP_VERSION, or pin rensa"


def family(rng, sizes=(1, 2, 3, 4)):
    """Texts in families of near-duplicates, shuffled."""
    texts = []
    for _ in range(60):
        first = sentence(rng)
        texts += [first, *(edited(first, rng, rng.choice(sizes)) for _ in range(rng.randrange(4)))]
    rng.shuffle(texts)
    return signatures([ask(text) for text in texts])


def plain_near(rows, threshold):
    """`NearDedup.keep`, the slow way."""
    result = []
    for at, row in enumerate(rows):
        bands = row.reshape(14, 8)
        candidates = [
            other
            for other in range(at)
            if result[other] is None
            and (bands == rows[other].reshape(14, 8)).all(axis=1).any()
            and (row == rows[other]).sum() >= threshold * PERMUTATIONS - 1e-9
        ]
        result.append(candidates[0] if candidates else None)
    return result


@pytest.mark.parametrize("threshold", [0.5, 0.72, 0.75, 1.0])
def test_near_is_what_a_plain_search_finds_however_the_rows_are_cut(threshold, monkeypatch):
    rows = family(random.Random(3))
    expected = plain_near(rows, threshold)
    assert 5 < sum(earlier is not None for earlier in expected) < len(rows) or threshold == 1.0
    assert NearDedup(threshold).keep(rows) == expected
    assert NearDedup(threshold).keep(list(rows)) == expected
    monkeypatch.setattr(dedup, "_BLOCK", 7)
    monkeypatch.setattr(dedup, "_PAIRS", 3)
    state = NearDedup(threshold)
    assert [earlier for at in range(0, len(rows), 10) for earlier in state.keep(rows[at : at + 10])] == expected
    assert len(state._runs) < 10


def test_only_kept_rows_make_duplicates():
    # b is near a and near c, but c is not near a: b goes, so c stays.
    rows = np.zeros((3, PERMUTATIONS), np.uint32)
    rows[1, :24] = 1
    rows[2, :48] = 1
    assert NearDedup(0.75).keep(rows) == [None, 0, None]
    state = NearDedup(0.75)
    assert [state.keep(row[None]) for row in rows] == [[None], [0], [None]]
    assert NearDedup(0.5).keep(rows) == [None, 0, 0]


@pytest.mark.parametrize(("agreeing", "duplicate"), [(84, True), (83, False)])
def test_the_threshold_itself_is_enough(agreeing, duplicate):
    rows = np.zeros((2, PERMUTATIONS), np.uint32)
    rows[1, agreeing:] = 1
    assert NearDedup(0.75).keep(rows) == [None, 0 if duplicate else None]


def test_near_without_rows():
    state = NearDedup(0.72)
    assert state.keep([]) == [] and state.keep(np.empty((0, PERMUTATIONS))) == []
