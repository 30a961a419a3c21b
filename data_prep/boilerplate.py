"""What of a benchmark item tells it from every other item (its content), and what many questions share.

A *stem* is the question without its reading passage. Measured on samples of the benchmarks: AGIEval has stems of up to
22 words after many passages ("Which one of the following arguments exhibits ..."), and MMLU-Pro asks some dozen
questions of up to 243 words twice, with other distractors. The latter must stay content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.ngrams import WordBlock, text_hashes, words
from data_prep.rows import Question

N = 13  # words of an n-gram
COMMON = 12  # different questions with one n-gram, beyond which it is boilerplate: no passage has so many questions
MAX_STEM = 30  # words of a boilerplate stem
SETS_AFTER_PASSAGE = 2  # different sets of options from which a stem that follows a passage is boilerplate
SETS = 4  # and one that never does
MIN_WORDS = 4  # of a question that may be compared without options

# Stems that say nothing alone, even if a benchmark asks them once. As `words` writes them.
STEMS = frozenset(
    {
        "all of the following are correct except",
        "all of the following are true except",
        "choose the best answer",
        "choose the correct answer",
        "choose the correct option",
        "evaluate the expression",
        "evaluate the following expression",
        "find the value of x",
        "simplify the expression",
        "simplify the following expression",
        "solve for x",
        "solve the equation",
        "solve the following equation",
        "what does the passage mainly discuss",
        "what is the answer to the question",
        "what is the correct answer",
        "what is the main idea of the passage",
        "what is the value of x",
        "which of the following is correct",
        "which of the following is false",
        "which of the following is incorrect",
        "which of the following is not correct",
        "which of the following is not true",
        "which of the following is true",
        "which of the following statements are true",
        "which of the following statements is correct",
        "which of the following statements is false",
        "which of the following statements is incorrect",
        "which of the following statements is not true",
        "which of the following statements is true",
        "which one of the following is correct",
        "which one of the following is true",
        "which one of the following statements is correct",
        "which one of the following statements is true",
    }
)


@dataclass(frozen=True)
class Items:
    """Benchmark items as arrays, one element an item unless said otherwise.

    Attributes:
        benchmark: number of the benchmark.
        block: the words of the questions.
        stems: first word of the stem, counted over the whole block.
        options: see `options_keys`.
    """

    benchmark: np.ndarray
    block: WordBlock
    stems: np.ndarray
    options: np.ndarray

    @classmethod
    def of(cls, benchmark: Sequence[int], questions: Sequence[Question]) -> Items:
        """The items that `questions` are, each of the benchmark of the same place."""
        block = WordBlock.of(question.question for question in questions)
        passages = WordBlock.of(str(question.meta.get("passage", "")) for question in questions)
        return cls(
            np.array(benchmark, np.int64),
            block,
            block.starts[:-1] + passages.lengths,
            options_keys(questions),
        )


def options_keys(questions: Sequence[Question]) -> np.ndarray:
    """For each question a hash of its options, uint64; 0 where it has none.

    Neither the options' order nor their labels, case, spacing or punctuation change it.
    """
    texts = [text for question in questions for _, text in question.options or ()]
    keys = text_hashes(WordBlock.of(texts), texts)
    sums = np.zeros(len(keys) + 1, np.uint64)
    np.cumsum(keys, out=sums[1:])
    counts = np.array([len(question.options or ()) for question in questions], np.int64)
    ends = np.cumsum(counts)
    return sums[ends] - sums[ends - counts]


def boilerplate_stems(items: Items) -> np.ndarray:
    """Which items ask a stem of `STEMS`, or one that its benchmark asks about several sets of options; bool [items]."""
    ends = items.block.starts[1:]
    keys = items.block.spans(items.stems, ends)
    listed = np.isin(keys, WordBlock.of(STEMS).texts())
    after_passage = items.stems > items.block.starts[:-1]
    shared = np.zeros(len(keys), bool)
    for number in np.unique(items.benchmark):
        mine = items.benchmark == number
        sets = np.unique(np.stack([keys[mine], items.options[mine]]), axis=1)[0]
        stems, count = np.unique(sets, return_counts=True)
        with_passage = np.isin(stems, keys[mine & after_passage])
        several = stems[count >= np.where(with_passage, SETS_AFTER_PASSAGE, SETS)]
        shared |= mine & np.isin(keys, several)
    # Without options there is one set only, the empty one: such a stem is shared by equal questions alone.
    return listed | (shared & (ends - items.stems <= MAX_STEM))


def common_grams(block: WordBlock) -> np.ndarray:
    """The n-grams that stand in more than `COMMON` different texts, as ascending hashes."""
    _, first = np.unique(block.texts(), return_index=True)
    different = np.zeros(len(block.lengths), bool)
    different[first] = True
    text, at = block.grams(N)
    text, at = text[different[text]], at[different[text]]
    hashes = block.spans(at, at + N)
    order = np.argsort(hashes, kind="stable")  # stable: the occurrences of one text stay together
    hashes, text = hashes[order], text[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    grams, texts = np.unique(hashes[new], return_counts=True)
    return grams[texts > COMMON]


def content_words(items: Items, stems: np.ndarray) -> np.ndarray:
    """Which words of the block are no boilerplate, given `boilerplate_stems`; bool [words]."""
    block = items.block
    content = np.ones(int(block.starts[-1]), bool)
    for item in np.flatnonzero(stems):
        content[items.stems[item] : block.starts[item + 1]] = False
    _, at = block.grams(N)
    at = at[np.isin(block.spans(at, at + N), common_grams(block))]
    for offset in range(N):
        content[at + offset] = False
    return content


def says_enough(question: str) -> bool:
    """Whether a short question without options tells which one it is: by 4 words, or by a number of two digits.

    "Simplify." does not, "Simplify $\\sqrt{192}$." does.
    """
    found = words(question)
    if len(found) >= MIN_WORDS:
        return " ".join(found) not in STEMS
    return any(word.isdigit() and len(word) > 1 for word in found)
