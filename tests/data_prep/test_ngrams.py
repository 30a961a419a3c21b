"""Words and their hashes: the vectorised cut agrees with the regular expression, and spelling changes nothing."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.arrays import look_up
from data_prep.ngrams import WordBlock, compatible, text_hashes, words

ANY = st.text(max_size=40) | st.text(alphabet="aB1 .+-²₂−é中あ\u0301\u00adＡ½٣", max_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How many?", ["how", "many"]),
        ("2x", ["2", "x"]),
        ("2 x", ["2", "x"]),
        ("(2)·X", ["2", "x"]),
        (r"\frac{1}{20}", ["frac", "1", "20"]),
        ("don't don’t", ["don", "t", "don", "t"]),
        ("x² = 10²", ["x", "2", "10", "2"]),
        ("x¹² H₂O", ["x", "12", "h", "2", "o"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("Ｆｕｌｌ ﬁt", ["full", "fit"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("下列各项", ["下", "列", "各", "项"]),
        ("____ ", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_operators_are_words_on_request():
    assert words("x−1<=2^n", operators=True) == ["x", "-", "1", "<", "=", "2", "^", "n"]
    assert words("x²", operators=True) == words("x^2", operators=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("x²", "x^2"), ("x⁻¹⁰", "x^-10"), ("a₁₂", "a_12"), ("1−2", "1-2"), ("𝑥 N", "x N"), ("a b", "a b")],
)
def test_compatible_keeps_exponents(text, expected):
    assert compatible(text) == expected


@settings(deadline=None)
@given(st.lists(ANY, max_size=8), st.booleans())
def test_a_block_cuts_as_words_does(texts, operators):
    block = WordBlock.of(texts, operators)
    lists = [words(text, operators) for text in texts]
    assert block.lengths.tolist() == [len(one) for one in lists]
    flat = [word for one in lists for word in one]
    at = np.arange(len(flat))
    hashes = block.spans(at, at + 1).tolist()
    assert len(set(zip(flat, hashes, strict=True))) == len(set(flat)) == len(set(hashes))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab ", max_size=12), min_size=1, max_size=8), st.integers(1, 4))
def test_spans_hash_their_words_wherever_they_stand(texts, n):
    block = WordBlock.of(texts)
    lists = [words(text) for text in texts]
    expected = [(number, tuple(one[at : at + n])) for number, one in enumerate(lists) for at in range(len(one) - n + 1)]
    text, at = block.grams(n)
    hashes = block.spans(at, at + n).tolist()
    assert text.tolist() == [number for number, _ in expected]
    grams = [gram for _, gram in expected]
    assert len(set(zip(grams, hashes, strict=True))) == len(set(grams)) == len(set(hashes))
    alone = [int(WordBlock.of([" ".join(gram)]).texts()[0]) for gram in grams]
    assert alone == hashes


@settings(deadline=None)
@given(ANY)
def test_canonical_forms_and_case_change_no_word(text):
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) == words(text)
    if text.isascii():
        assert words(text.upper()) == words(text)


def test_a_hash_is_the_same_on_every_machine():
    hashes = WordBlock.of(["Hello, World 42", "naïve 中"]).texts().tolist()
    assert hashes == [0x32CB157F858B637C, 0xC64D30DA82005B68], "raise NGRAM_VERSION with every change"


def test_texts_of_many_chunks(monkeypatch):
    texts = [f"text number {number} é" * (number % 5) for number in range(50)]
    whole = WordBlock.of(texts)
    monkeypatch.setattr("data_prep.ngrams._CHUNK", 16)
    pieces = WordBlock.of(texts)
    assert pieces.starts.tolist() == whole.starts.tolist()
    assert pieces.texts().tolist() == whole.texts().tolist()


def test_texts_without_a_word_differ_by_what_they_are():
    texts = ["<", ">", " <", "", "a"]
    hashes = text_hashes(WordBlock.of(texts), texts)
    assert hashes[0] == hashes[2] and len(set(hashes.tolist())) == 4


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 6), max_size=12))
def test_look_up_finds_all_pairs(table, keys):
    table = np.sort(np.array(table, np.uint64))
    at, places = look_up(table, np.array(keys, np.uint64))
    expected = [(i, j) for i, key in enumerate(keys) for j, other in enumerate(table.tolist()) if key == other]
    assert list(zip(at.tolist(), places.tolist(), strict=True)) == expected
