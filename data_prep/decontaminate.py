r"""Benchmark questions among the questions to train on, found by 13-grams or, where they are short, by equality.

The paper says that its synthetic QA was decontaminated, not how. These rules are ours, after GPT-3's 13-grams:

- The *words* of a text are its runs of letters or digits (`ngrams.words`): case, spacing and punctuation change
  nothing. Operators are no words either, `x+1` and `x-1` are one: copies rewrite them (`\times`, `×`), and to lose a
  sibling of a benchmark item costs less than to train on the item.
- *Boilerplate* is what does not tell one item from another: stems that a benchmark asks about several sets of options,
  and 13-grams of many questions (module `boilerplate`). An item's other words are its *content*.
- An item of 13 content words or more is hit by a question that shares 13-grams which cover at least `coverage` of the
  content. Options do not count, and the question may be longer than the item.
- A shorter item is hit by a question with the same words and, where the item has options, the same options in any
  order. An item without options is hit by the same question with options or without, provided that it says enough
  (`boilerplate.says_enough`); one that does not is never hit.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.arrays import load_arrays, look_up, save_arrays
from data_prep.benchmarks import BENCHMARKS
from data_prep.boilerplate import Items, N, boilerplate_stems, content_words, options_keys, says_enough
from data_prep.ngrams import NGRAM_VERSION, WordBlock, words
from data_prep.rows import Question

DECONTAMINATE_VERSION = 1  # rises with every change of a rule above; goes into the manifest
SPAN_WORDS = 60  # of a span, at most, that a hit shows
_PRIVATE = frozenset(name for name, benchmark in BENCHMARKS.items() if benchmark.private)
_BITS_PER_GRAM = 16
_VERSION = f"decontaminate {DECONTAMINATE_VERSION}, ngrams {NGRAM_VERSION}"


@dataclass(frozen=True)
class Hit:
    """A question that stands in a benchmark.

    Attributes:
        benchmark: the benchmark of the item that fits best; equality before 13-grams, then the most content covered.
        item: that item's id.
        how: `exact` or `13-gram`, the rule that found it.
        span: the longest run of shared words, lower case, cut after 60; empty where `private`.
        benchmarks: every benchmark that was hit, in the order of the index.
    """

    benchmark: str
    item: str
    how: str
    span: str
    benchmarks: tuple[str, ...]

    @property
    def private(self) -> bool:
        """Whether the question stands in a benchmark whose questions must not be published, nor shown in a report."""
        return not _PRIVATE.isdisjoint(self.benchmarks)


@dataclass(frozen=True)
class _Match:
    """One row against one item: the share of the item's content, and where in the row the longest shared run is."""

    item: int
    exact: bool
    share: float
    begin: int
    end: int


@dataclass(frozen=True)
class Index:
    """Benchmark items, ready to be looked up. Arrays only: a process that is forked shares them.

    Attributes:
        coverage: share of an item's content that shared 13-grams must cover.
        benchmarks: names, in the order in which the items came.
        ids: id of each item.
        benchmark: number of each item's benchmark.
        findable: False for an item that says too little to be found.
        starts: int64 [items + 1]; item i has the words `starts[i]` up to `starts[i + 1]`.
        content: int32 [words + 1]; content words before each word, over all items.
        grams: uint64, ascending; the 13-grams of the items of 13 content words or more.
        places: int32; the first word of each of `grams`.
        equal: uint64, ascending; what a question must equal, for the shorter items.
        equal_items: int32; the item of each of `equal`.
        stems: uint64, ascending; the questions among these that have options.
        bitmap: uint8; bits that are set for `grams`. Nearly every other 13-gram is turned away here, at one memory
            access instead of twenty.
    """

    coverage: float
    benchmarks: np.ndarray
    ids: np.ndarray
    benchmark: np.ndarray
    findable: np.ndarray
    starts: np.ndarray
    content: np.ndarray
    grams: np.ndarray
    places: np.ndarray
    equal: np.ndarray
    equal_items: np.ndarray
    stems: np.ndarray
    bitmap: np.ndarray

    @classmethod
    def build(cls, items: Iterable[tuple[str, str, Question]], coverage: float) -> Index:
        """The index of `items`: benchmark, item id and question each (see `benchmarks.read_items`)."""
        names, ids, questions = [], [], []
        for name, item, question in items:
            names.append(name)
            ids.append(item)
            questions.append(question)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        found = Items.of([numbers[name] for name in names], questions)
        block = found.block
        content = np.zeros(int(block.starts[-1]) + 1, np.int32)
        stems = boilerplate_stems(found)
        np.cumsum(content_words(found, stems), out=content[1:])
        long = content[block.starts[1:]] - content[block.starts[:-1]] >= N
        grams, places = _grams_of(block, content, long)
        equal, equal_items = _equal_of(found, questions, stems, ~long)
        findable = long.copy()
        findable[equal_items] = True
        return cls(
            coverage=coverage,
            benchmarks=np.array(list(numbers), np.str_),
            ids=np.array(ids, np.str_),
            benchmark=found.benchmark.astype(np.int16),
            findable=findable,
            starts=block.starts,
            content=content,
            grams=grams,
            places=places,
            equal=equal,
            equal_items=equal_items,
            stems=np.unique(block.texts()[~long & (found.options != 0)]),
            bitmap=_bitmap(grams),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """For each benchmark its `items`, and how many of them are too short and general to be found (`unfindable`)."""
        items, lost = (Counter(self.benchmark[which].tolist()) for which in (self.benchmark >= 0, ~self.findable))
        return {
            str(name): {"items": items[number], "unfindable": lost[number]}
            for number, name in enumerate(self.benchmarks)
        }

    def save(self, path: Path | str) -> None:
        """Write the index to `path` as .npz; whole or not at all."""
        save_arrays(
            path, _VERSION, {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        )

    @classmethod
    def load(cls, path: Path | str) -> Index:
        """The index that `save` wrote.

        Raises:
            UserError: the file is damaged, or was written under other rules.
        """
        arrays = load_arrays(path, _VERSION)
        return cls(float(arrays.pop("coverage")), **arrays)

    def find(self, questions: Sequence[Question]) -> list[Hit | None]:
        """For every question how it stands in a benchmark, or None. Some thousand at a time are fastest."""
        block = WordBlock.of(question.question for question in questions)
        matches: dict[int, list[_Match]] = defaultdict(list)
        for row, match in (*self._equal(questions, block), *self._overlapping(block)):
            matches[row].append(match)
        return [self._hit(question, matches[row]) if row in matches else None for row, question in enumerate(questions)]

    def _hit(self, question: Question, matches: Sequence[_Match]) -> Hit:
        best = min(matches, key=lambda match: (not match.exact, -match.share, match.item))
        numbers = sorted({int(self.benchmark[match.item]) for match in matches})
        hit = Hit(
            benchmark=str(self.benchmarks[self.benchmark[best.item]]),
            item=str(self.ids[best.item]),
            how="exact" if best.exact else f"{N}-gram",
            span="",
            benchmarks=tuple(str(self.benchmarks[number]) for number in numbers),
        )
        if hit.private:
            return hit
        return dataclasses.replace(hit, span=" ".join(words(question.question)[best.begin : best.end][:SPAN_WORDS]))

    def _equal(self, questions: Sequence[Question], block: WordBlock) -> Iterator[tuple[int, _Match]]:
        """Rows that equal one of the shorter items."""
        keys = block.texts()
        # Options are hashed only where the question alone equals an item's.
        asked, _ = look_up(self.stems, keys)
        options = options_keys([questions[row] for row in asked])
        rows = np.concatenate([np.arange(len(questions)), asked[options != 0]])
        keys = np.concatenate([keys, _with_options(keys[asked], options)[options != 0]])
        at, places = look_up(self.equal, keys)
        for row, item in zip(rows[at].tolist(), self.equal_items[places].tolist(), strict=True):
            yield row, _Match(item, True, 1.0, 0, int(block.lengths[row]))

    def _overlapping(self, block: WordBlock) -> Iterator[tuple[int, _Match]]:
        """Rows that share enough 13-grams with one of the longer items."""
        row, at = block.grams(N)
        hashes = block.spans(at, at + N)
        seen = _bits(self.bitmap, hashes)
        row, at, hashes = row[seen], at[seen], hashes[seen]
        # A gram that a row repeats counts once, or rows of zeros would multiply with items of zeros.
        order = np.lexsort((at, hashes, row))
        first = _changes(row[order], hashes[order])
        row, at, hashes = (array[order][first] for array in (row, at, hashes))
        which, places = look_up(self.grams, hashes)
        row, at, place = row[which], at[which], self.places[places].astype(np.int64)
        item = np.searchsorted(self.starts, place, side="right") - 1
        order = np.lexsort((place, item, row))
        row, at, item, place = (array[order] for array in (row, at, item, place))
        groups = np.flatnonzero(_changes(row, item))
        if not len(groups):
            return
        begins, ends = self.starts[item[groups]], self.starts[item[groups] + 1]
        shares = self._covered(place, groups) / (self.content[ends] - self.content[begins])
        stop = np.append(groups[1:], len(row))
        for group in np.flatnonzero(shares >= self.coverage).tolist():
            found = slice(groups[group], stop[group])
            begin, end = _longest_run(at[found] - block.starts[row[groups[group]]])
            yield int(row[groups[group]]), _Match(int(item[groups[group]]), False, float(shares[group]), begin, end)

    def _covered(self, place: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Content words that the 13-grams at `place` cover, added up for each group; ascending within a group."""
        begin = place.copy()
        begin[1:] = np.maximum(place[1:], place[:-1] + N)  # what the gram before it has covered does not count again
        begin[groups] = place[groups]
        return np.add.reduceat(self.content[place + N] - self.content[np.minimum(begin, place + N)], groups)


def _grams_of(block: WordBlock, content: np.ndarray, long: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending hashes and first words of the 13-grams of the `long` items that hold content."""
    item, at = block.grams(N)
    at = at[long[item] & (content[np.minimum(at + N, len(content) - 1)] > content[at])]
    hashes = block.spans(at, at + N)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], at[order].astype(np.int32)


def _equal_of(
    items: Items, questions: Sequence[Question], stems: np.ndarray, short: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending keys of the `short` items that can be found, and the items; `stems` marks boilerplate."""
    with_options = items.options != 0
    alone = short & ~with_options & ~stems
    for item in np.flatnonzero(alone).tolist():
        alone[item] = says_enough(questions[item].question)
    keys = np.where(with_options, _with_options(items.block.texts(), items.options), items.block.texts())
    found = np.flatnonzero(alone | (short & with_options))
    order = np.argsort(keys[found], kind="stable")
    return keys[found][order], found[order].astype(np.int32)


def _with_options(texts: np.ndarray, options: np.ndarray) -> np.ndarray:
    """The keys of questions that count with their options."""
    return texts * np.uint64(3) + options


def _changes(*columns: np.ndarray) -> np.ndarray:
    """True where a row differs from the row before it, and for the first."""
    changes = np.ones(len(columns[0]), bool)
    changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changes


def _longest_run(at: np.ndarray) -> tuple[int, int]:
    """The longest stretch of words that n-grams beginning at `at` cover without a gap, as (first, after the last)."""
    at = np.unique(at)
    runs = np.split(at, np.flatnonzero(np.diff(at) > N) + 1)
    best = max(runs, key=lambda run: run[-1] - run[0])
    return int(best[0]), int(best[-1]) + N


def _bitmap(hashes: np.ndarray) -> np.ndarray:
    size = max(10, (len(hashes) * _BITS_PER_GRAM).bit_length())
    bits = np.zeros(1 << size, bool)
    bits[hashes >> np.uint64(64 - size)] = True
    return np.packbits(bits)


def _bits(bitmap: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Whether the bit of each hash is set."""
    at = hashes >> np.uint64(64 - (len(bitmap) * 8).bit_length() + 1)
    return (bitmap[at >> np.uint64(3)] >> (7 - (at & np.uint64(7)).astype(np.uint8)) & 1).astype(bool)
