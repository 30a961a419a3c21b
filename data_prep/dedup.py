"""Duplicates across sources: exact ones by a key, near ones by MinHash. The first of its kind stays.

Ours: the paper says nothing of deduplication. Near-duplicates are looked for only on request, because two problems that
differ in one number are near-duplicates and two different problems.

Workers compute keys and signatures; the main process goes through them in the order of the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy as np
from rensa import RMinHash

from data_prep.arrays import look_up, ragged
from data_prep.ngrams import WordBlock, compatible, text_hashes
from data_prep.rows import Question

DEDUP_VERSION = 1  # rises with every change of a rule below; goes into the manifest

KEY_BYTES = 16
SHINGLE = 5  # words
# 14 bands of 8 rows: two questions of Jaccard similarity s meet with probability 1 - (1 - s**8)**14, which is 0.54 at
# 0.70, 0.93 at 0.80 and 1.00 at 0.90.
BANDS, BAND_ROWS = 14, 8
PERMUTATIONS = BANDS * BAND_ROWS
_SEED = 1
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1024  # rows compared with one another at a time
_PAIRS = 1 << 14  # pairs of signatures compared at a time


def exact_key(question: Question) -> bytes:
    """16 bytes that are equal for equal questions: NFKC, any whitespace as one blank, options in any order.

    Labels, source and kind do not enter. Case and punctuation do: in mathematics N is not n, and x+1 not x-1.
    """
    options = [
        _plain(text, normal) for (_, text), normal in zip(question.options or (), question.normal_options, strict=True)
    ]
    # With lengths, so that no text can imitate the border between two.
    texts = [_plain(question.question, question.normal_question), *sorted(options)]
    content = "".join([f"{len(text)}:{text}" for text in texts])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _plain(text: str, normal: str) -> str:
    """`text` under NFKC, with any whitespace as one blank; `normal` is the same under NFC."""
    return normal if text.isascii() else " ".join(compatible(text).split())


def signatures(questions: Sequence[Question]) -> np.ndarray:
    """MinHash signatures, uint32 [questions, 112], of the sets of word 5-grams of a question and of each option.

    Words are those of `ngrams.words` with operators, so `x+1` and `x-1` differ. A text of fewer than 5 words is one
    shingle. The order of the options changes nothing.
    """
    texts = [(question.question, *(text for _, text in question.options or ())) for question in questions]
    owner = np.repeat(np.arange(len(texts)), [len(parts) for parts in texts])  # the question of each text
    flat = list(chain.from_iterable(texts))
    block = WordBlock.of(flat, operators=True)
    text, at = block.grams(SHINGLE)
    short = np.flatnonzero(block.lengths < SHINGLE)
    shingles = np.concatenate([block.spans(at, at + SHINGLE), text_hashes(block, flat)[short]])
    owners = np.concatenate([owner[text], owner[short]])
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(texts) + 1)).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles[order], offsets, PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(-1, PERMUTATIONS)


class NearDedup:
    """Remembers the signatures of all questions kept.

    A question is a near-duplicate of an earlier one that was kept if they agree in a band, and in at least `threshold`
    of the 112 minima, which estimates their Jaccard similarity with a standard error of at most 0.05. About 600 bytes
    a question kept.

    Args:
        threshold: see above, above 0 and at most 1.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.rows = 0  # seen so far
        self._signatures = np.empty((0, PERMUTATIONS), np.uint32)  # of those kept, and room for more
        self._numbers = np.empty(0, np.int64)  # of those kept, counted over all rows seen
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # see _add_run

    def keep(self, signatures: Sequence[np.ndarray] | np.ndarray) -> list[int | None]:
        """For each row the number of the earliest kept row that it duplicates, or None: it is kept.

        Rows are numbered from 0 in the order in which they came, over all calls.
        """
        rows = np.asarray(signatures, np.uint32).reshape(-1, PERMUTATIONS)
        return list(chain.from_iterable(self._keep(rows[at : at + _BLOCK]) for at in range(0, len(rows), _BLOCK)))

    def _keep(self, new: np.ndarray) -> list[int | None]:
        """`keep` for at most `_BLOCK` rows."""
        keys = _band_keys(new)
        place = self._earliest(new, keys)  # among those kept; their number if there is none
        number: list[int | None] = [
            int(self._numbers[at]) if at < len(self._numbers) else None for at in place.tolist()
        ]
        alive = np.flatnonzero(place == len(self._numbers))
        pairs = _pairs_within(new[alive], keys[:, alive], self.threshold)
        for row, before in sorted(pairs.items()):
            # Only rows that are kept themselves make another one a duplicate.
            earlier = next((other for other in sorted(before) if number[alive[other]] is None), None)
            if earlier is not None:
                number[alive[row]] = self.rows + int(alive[earlier])
        kept = np.flatnonzero([earlier is None for earlier in number])
        self._add(new[kept], keys[:, kept], self.rows + kept)
        self.rows += len(new)
        return number

    def _earliest(self, new: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """For each new row the first place of a near-duplicate among those kept, or their number; int64."""
        earliest = np.full(len(new), len(self._numbers))
        for run_keys, places in self._runs:
            for band in range(BANDS):
                row, at = look_up(run_keys[band], keys[band])
                place = places[band][at]
                near = _similar(new, row, self._signatures, place, self.threshold)
                np.minimum.at(earliest, row[near], place[near])
        return earliest

    def _add(self, signatures: np.ndarray, keys: np.ndarray, numbers: np.ndarray) -> None:
        first, last = len(self._numbers), len(self._numbers) + len(numbers)
        if last > len(self._signatures):
            grown = np.empty((max(last, 2 * len(self._signatures)), PERMUTATIONS), np.uint32)
            grown[:first] = self._signatures[:first]
            self._signatures = grown
        self._signatures[first:last] = signatures
        self._numbers = np.concatenate([self._numbers, numbers])
        self._add_run(keys, first)

    def _add_run(self, keys: np.ndarray, first: int) -> None:
        """Add `keys` [14, rows] of rows at the places from `first` on.

        A run is keys in ascending order, band by band, and their places. A run joins the one before it as soon as it is
        half as long, so that there are never more than some twenty.
        """
        places = np.broadcast_to(np.arange(first, first + keys.shape[1], dtype=np.int32), keys.shape)
        while True:
            order = np.argsort(keys, axis=1, kind="stable")
            keys, places = np.take_along_axis(keys, order, 1), np.take_along_axis(places, order, 1)
            if not self._runs or self._runs[-1][0].shape[1] > 2 * keys.shape[1]:
                break
            earlier = self._runs.pop()
            keys, places = np.hstack([earlier[0], keys]), np.hstack([earlier[1], places])
        self._runs.append((keys, places))


def _band_keys(signatures: np.ndarray) -> np.ndarray:
    """A hash of each band of each row, uint64 [14, rows]. Rows that meet by accident are told apart by `_similar`."""
    bands = signatures.reshape(-1, BANDS, BAND_ROWS)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(BAND_ROWS):
        keys = (keys ^ bands[:, :, row]) * _MIX
        keys ^= keys >> np.uint64(29)
    return np.ascontiguousarray(keys.T)


def _pairs_within(rows: np.ndarray, keys: np.ndarray, threshold: float) -> dict[int, set[int]]:
    """For each row of a block that has any: the near-duplicates before it."""
    pairs: dict[int, set[int]] = defaultdict(set)
    for band in keys:
        order = np.argsort(band, kind="stable")  # stable: of equal keys the earlier row comes first
        ordered = band[order]
        first = np.searchsorted(ordered, ordered, side="left")
        later, earlier = ragged(first, np.arange(len(band)) - first)
        later, earlier = order[later], order[earlier]
        near = _similar(rows, later, rows, earlier, threshold)
        for row, other in zip(later[near].tolist(), earlier[near].tolist(), strict=True):
            pairs[row].add(other)
    return pairs


def _similar(
    some: np.ndarray, which: np.ndarray, others: np.ndarray, which_others: np.ndarray, threshold: float
) -> np.ndarray:
    """Whether some[which[i]] and others[which_others[i]] agree in at least `threshold` of the minima; bool."""
    agreeing = [
        (some[which[at : at + _PAIRS]] == others[which_others[at : at + _PAIRS]]).sum(axis=1)
        for at in range(0, len(which), _PAIRS)
    ]
    # The smallest number of minima that is `threshold` of them; 0.75 of 112 is 84 and not, by rounding, 85.
    needed = math.ceil(threshold * PERMUTATIONS - 1e-9)
    return np.concatenate([np.empty(0, np.int64), *agreeing]) >= needed
