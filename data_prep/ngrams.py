"""Words of texts, and 64-bit hashes of words and of runs of words, over whole blocks of texts at once.

A word is a run of letters or a run of digits, after NFKC and case folding. Hashes are the same on every machine.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.arrays import ragged

NGRAM_VERSION = 1  # rises with every change of what a word is or how it is hashed

_OPERATORS = "+-*/=<>^"
# Chinese and Japanese put no blanks between words: there every character is one.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W0-9_{_IDEOGRAPHS}]+|[0-9]+")
_WORD_OR_OPERATOR = re.compile(rf"{_WORD.pattern}|[{re.escape(_OPERATORS)}]")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"  # soft hyphen, blanks and joiners of no width
_MINUS = "\u2212"
_TO_REWRITE = re.compile(f"[{_SUPERSCRIPTS}]+|[{_SUBSCRIPTS}]+|[{_INVISIBLE}]+|{_MINUS}")

_CHUNK = 1 << 18  # bytes of text hashed at a time: the arrays of a chunk stay in the processor's cache
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse mod 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)


def compatible(text: str) -> str:
    """NFKC for mathematics: `x²` as `x^2` (NFKC alone: `x2`), the minus U+2212 as `-`, no invisible characters."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _TO_REWRITE.sub(_rewrite, text))


def _rewrite(found: re.Match[str]) -> str:
    run = found[0]
    if run[0] in _INVISIBLE:
        return ""
    mark = "^" if run[0] in _SUPERSCRIPTS else "_" if run[0] in _SUBSCRIPTS else ""
    return mark + unicodedata.normalize("NFKC", run).replace(_MINUS, "-")


def words(text: str, operators: bool = False) -> list[str]:
    """The words of `text`: `2x`, `2 X` and `(2)·x` are the same two. With `operators` each of `+-*/=<>^` is one too."""
    return (_WORD_OR_OPERATOR if operators else _WORD).findall(compatible(text).casefold())


@dataclass(frozen=True)
class WordBlock:
    """The words of many texts, one after another, as hashes.

    Attributes:
        starts: int64 [texts + 1]; the words of text i stand at `starts[i]` up to `starts[i + 1]`.
        prefix: uint64 [words + 1]; from its differences come the hashes of spans.
    """

    starts: np.ndarray
    prefix: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str], operators: bool = False) -> WordBlock:
        """The block of `texts`, cut into words as `words` does."""
        counts, hashes = [np.zeros(1, np.int64)], [np.empty(0, np.uint64)]
        for data, ends in _chunks(texts, operators):
            begin, end = _find_words(data, operators)
            hashes.append(_span_hashes(_prefix(_CHARACTERS[data]), begin, end))
            counts.append(np.diff(np.searchsorted(begin, ends), prepend=0))
        return cls(np.cumsum(np.concatenate(counts)), _prefix(np.concatenate(hashes)))

    @property
    def lengths(self) -> np.ndarray:
        """Words of each text, int64 [texts]."""
        return np.diff(self.starts)

    def spans(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The hash of the words from `begin[i]` up to `end[i]`, uint64: equal for equal words, wherever they stand.

        Words are not compared once their hashes are equal. With 4 million n-grams indexed and 40 million looked up, the
        chance that any two of them meet by accident is about one in 100,000.
        """
        return _span_hashes(self.prefix, begin, end)

    def texts(self) -> np.ndarray:
        """The hash of each whole text, uint64 [texts]."""
        return self.spans(self.starts[:-1], self.starts[1:])

    def grams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Every run of n words inside a text: its text and its first word, both int64, ascending."""
        return ragged(self.starts[:-1], np.maximum(self.lengths - n + 1, 0))


def text_hashes(block: WordBlock, texts: Sequence[str]) -> np.ndarray:
    """`block.texts()`, but that each of `texts` without any word, such as `<`, has a hash of its own."""
    hashes = block.texts()
    for at in np.flatnonzero(block.lengths == 0).tolist():
        content = texts[at].strip().encode("utf-8", "surrogatepass")
        hashes[at] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return hashes


def _chunks(texts: Iterable[str], operators: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Texts as bytes in which words are what `_KINDS` says, and where each text ends; about `_CHUNK` bytes a time."""
    parts: list[bytes] = []
    size = 0
    for text in texts:
        if not text.isascii():
            text = " ".join(words(text, operators))
        # Unpaired surrogates are in no word, and so never left here.
        parts.append(text.encode())
        size += len(parts[-1])
        if size > _CHUNK:
            yield _joined(parts)
            parts, size = [], 0
    yield _joined(parts)


def _joined(parts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
    return np.frombuffer(b"\n".join(parts), np.uint8), ends


_NONE, _LETTER, _DIGIT, _OPERATOR = range(4)


def _kinds(operators: bool) -> np.ndarray:
    """What each byte is. Those of non-ASCII characters are letters: `_chunks` has left them in words only."""
    letters = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") | set(range(128, 256))
    special = set(_OPERATORS.encode()) if operators else set()
    return np.array(
        [
            _LETTER if b in letters else _DIGIT if b in b"0123456789" else _OPERATOR if b in special else _NONE
            for b in range(256)
        ],
        np.uint8,
    )


_KINDS = {operators: _kinds(operators) for operators in (False, True)}
# A random number for every byte; the same for both cases of a letter.
_CHARACTERS = np.frombuffer(
    b"".join(hashlib.blake2b(bytes([b]).lower(), digest_size=8).digest() for b in range(256)), "<u8"
).astype(np.uint64)


def _find_words(data: np.ndarray, operators: bool) -> tuple[np.ndarray, np.ndarray]:
    """First byte of each word, and the byte after its last one; int64."""
    kinds = np.zeros(len(data) + 2, np.uint8)
    kinds[1:-1] = _KINDS[operators][data]
    changes = kinds[1:] != kinds[:-1]
    alone = kinds == _OPERATOR
    begin = (changes | alone[1:]) & (kinds[1:] != _NONE)
    end = (changes | alone[:-1]) & (kinds[:-1] != _NONE)
    return np.flatnonzero(begin), np.flatnonzero(end)


def _prefix(values: np.ndarray) -> np.ndarray:
    """Sums of values[i] * base**i mod 2**64 over the first 0, 1, ... values; from them come the hashes of spans."""
    prefix = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(_BASE, len(values)), out=prefix[1:])
    return prefix


def _span_hashes(prefix: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    spans = (prefix[end] - prefix[begin]) * _powers(_INVERSE, len(prefix))[begin]
    # A polynomial mod 2**64 mixes its low bits badly, and words must not look like sums of their letters.
    spans ^= spans >> np.uint64(32)
    spans *= np.uint64(_BASE)
    return spans ^ (spans >> np.uint64(29))


_tables: dict[int, np.ndarray] = {}


def _powers(base: int, count: int) -> np.ndarray:
    """base**0, base**1, ... mod 2**64, `count` of them, from a table that grows by doubling."""
    table = _tables.get(base)
    if table is None or len(table) < count:
        steps = np.full(max(1 << 16, 1 << count.bit_length()), base, np.uint64)
        steps[0] = 1
        table = _tables[base] = np.cumprod(steps)
    return table[:count]
