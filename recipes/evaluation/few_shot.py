r"""Worked examples before a question, as earlier turns of the chat.

The examples are rows of a pool. Nobody has written down the reasoning of a pool's row, so an example answers with an
empty think block and the gold in a box: it shows the form, not the thought. By default there are none (`few_shot=0`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from crossthink.errors import ConfigError
from data_prep.pool import Pool
from data_prep.rows import KINDS, PoolRow, Question
from data_prep.templates import Prompts
from reward_server.scoring.extract import extract_answer


@dataclass(frozen=True)
class Example:
    """A question of a pool and the answer shown for it."""

    question: Question
    answer: str


@dataclass(frozen=True)
class FewShot:
    """The examples of an evaluation.

    Attributes:
        count: how many stand before each question.
        path: the pool.
        pool_sha256: which pool that is.
        examples: by kind, one more than `count` where the pool has so many: a question is no example of itself.
    """

    count: int
    path: str
    pool_sha256: str
    examples: Mapping[str, Sequence[Example]]

    def turns(self, question: Question, prompts: Prompts, answer_template: str) -> list[dict[str, str]]:
        """The chat messages before `question`: a user's and an assistant's for each example.

        Raises:
            ConfigError: the pool has too few rows of the question's kind.
        """
        others = (one for one in self.examples[question.kind] if not _same(one.question, question))
        chosen = list(islice(others, self.count))
        if len(chosen) < self.count:
            raise ConfigError(
                f"few_shot={self.count}, but the pool few_shot_path={self.path} has only {len(chosen)} rows of kind "
                f"{question.kind} that can be examples."
            )
        return [
            message
            for one in chosen
            for message in (
                {"role": "user", "content": prompts.user_message(one.question, answer_template)},
                {"role": "assistant", "content": example_response(one.answer)},
            )
        ]


def example_response(answer: str) -> str:
    """The assistant's turn that answers `answer` in the form that the reward server asks for."""
    return f"<think>\n\n</think>\n\n\\boxed{{{answer}}}"


def read_examples(path: str, count: int, answer_template: str) -> FewShot:
    """The first rows of each kind in a pool that can be examples.

    Args:
        path: folder of the pool.
        count: examples before each question.
        answer_template: what an answer to multiple choice is: `long` (label and text) or `short` (the label).

    Raises:
        UserError: `path` is no pool.
    """
    pool = Pool.open(path)
    found: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    for row in pool.rows():
        if all(len(examples) > count for examples in found.values()):
            break
        if len(found[row.kind]) > count:
            continue
        example = _example(row, answer_template)
        if example is not None and not any(_same(one.question, example.question) for one in found[row.kind]):
            found[row.kind].append(example)
    return FewShot(count, path, pool.sha256, found)


def _example(row: PoolRow, answer_template: str) -> Example | None:
    options = tuple(row.options.items()) if row.options else None
    question = Question(row.source, row.domain, row.kind, row.question, options=options)
    answer = row.ground_truth[0] if row.ground_truth else ""
    if row.kind == "mcq":
        # The pool's own answer template need not be ours.
        answer = next(
            (
                f"{label}. {text}" if answer_template == "long" else label
                for label, text in options or ()
                if answer in (label, f"{label}. {text}")
            ),
            "",
        )
    # Braces that do not match would make another answer of it.
    return Example(question, answer) if answer and extract_answer(example_response(answer)) == answer else None


def _same(one: Question, other: Question) -> bool:
    return one.normal_question == other.normal_question
