"""What an evaluation asks: the rows of a pool, or the questions of benchmarks rendered as rows of a pool.

Benchmarks are asked in the words of training. A multiple-choice question's ground truth is its label, of which the
reward server takes label, text or both: the rule of the paper's evaluation, whatever the wording asks for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from crossthink.errors import ConfigError, did_you_mean
from crossthink.files import sha256_file
from data_prep.benchmarks import BENCHMARKS, agieval
from data_prep.benchmarks.access import Copy, open_copies
from data_prep.pool import Pool
from data_prep.rows import PoolRow, Question
from data_prep.templates import ANSWER_TEMPLATES, Prompts, load_prompts, render
from recipes.evaluation.few_shot import FewShot, read_examples

if TYPE_CHECKING:
    from conf.evaluate import QuestionsConfig

ALL = "all"
AGIEVAL = agieval.BENCHMARK.name
AGIEVAL_MATH = f"{AGIEVAL}_{agieval.MATH_TASK}"
"""AGIEval's open task, apart: it asks MATH over again and enters no average."""


@dataclass(frozen=True)
class Asked:
    """One question of an evaluation.

    Attributes:
        benchmark: a key of BENCHMARKS, AGIEVAL_MATH, or the source of a pool's row.
        row: the question as a row of a pool; `row.id` is unique within `benchmark`.
        groups: named categories that it is in, such as `{"subject": "law"}`.
        private: no text of it may be published.
    """

    benchmark: str
    row: PoolRow
    groups: Mapping[str, str]
    private: bool = False


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the order in which they are recorded, and by benchmark what is known of them.

    `facts[name]["absent"]` is None, or why nothing of that benchmark is asked.
    """

    asked: tuple[Asked, ...]
    facts: dict[str, Any]

    @cached_property
    def sha256(self) -> str:
        """Identity of the set: SHA-256 over benchmarks, ids, prompts, ground truths and options, in order."""
        digest = hashlib.sha256()
        for one in self.asked:
            row = one.row
            options = None if row.options is None else list(row.options.items())
            digest.update(orjson.dumps([one.benchmark, row.id, row.prompt, row.ground_truth, options]) + b"\n")
        return digest.hexdigest()

    @property
    def absent(self) -> dict[str, str]:
        """Why nothing of a benchmark is asked, by the names of those benchmarks."""
        return {name: facts["absent"] for name, facts in self.facts.items() if facts["absent"]}


def join(sets: Sequence[QuestionSet]) -> QuestionSet:
    """One set of several, in order.

    Raises:
        ConfigError: two of them have questions of the same name.
    """
    names = Counter(name for one in sets for name in one.facts)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is a benchmark and a source of the pool, too. Evaluate one at a time.")
    return QuestionSet(
        tuple(asked for one in sets for asked in one.asked),
        {name: facts for one in sets for name, facts in one.facts.items()},
    )


def from_pool(path: Path, limit: int | None) -> QuestionSet:
    """The rows of a pool as they are, at most `limit` of each source.

    Raises:
        ConfigError: `limit` is below 1.
        UserError: `path` is no pool.
    """
    pool = Pool.open(path)
    asked: list[Asked] = []
    facts: dict[str, Any] = {}
    for source, count in pool.counts.items():
        chosen = set(spread(count, limit))
        rows = [row for at, row in enumerate(pool.rows(source)) if at in chosen]
        asked += (Asked(source, row, {"domain": row.domain, "kind": row.kind}) for row in _unique(rows))
        facts[source] = {
            "pool": str(path),
            "pool_sha256": pool.sha256,
            "rows": count,
            "expected_rows": count,
            "asked": len(rows),
            "absent": None,
        }
    return QuestionSet(tuple(asked), facts)


def from_benchmarks(config: QuestionsConfig) -> QuestionSet:
    """The questions of the benchmarks that the settings name, in the order of the paper's tables.

    With `benchmarks=[all]` a benchmark that is not here is left out and its absence stated; a named one is needed.

    Raises:
        ConfigError: a setting that is impossible.
        Absent: a benchmark that was named is not here.
        UserError: rows that cannot be read or downloaded.
    """
    names = _names(config.benchmarks)
    tasks = _tasks(config.agieval_tasks)
    style = _Style.of(config)
    asked: list[Asked] = []
    facts: dict[str, Any] = {}
    for copy in open_copies(names, config.benchmarks_path, tasks):
        if not isinstance(copy, Copy):
            name, why = copy
            if ALL not in config.benchmarks:
                raise why
            facts[name] = BENCHMARKS[name].describe() | {"revision": None, "rows": 0, "asked": 0, "absent": str(why)}
            continue
        benchmark = BENCHMARKS[copy.name]
        for name, questions in _parts(copy, tasks).items():
            facts[name] = _facts(copy, name, questions, tasks) | style.describe()
            rows = list(_unique(map(style.row, questions)))
            chosen = spread(len(rows), config.limit)
            asked += (Asked(name, rows[at], benchmark.groups(questions[at]), benchmark.private) for at in chosen)
            facts[name] |= {"asked": len(chosen), "duplicates": sum(1 for row in rows if "." in row.id)}
    return QuestionSet(tuple(asked), facts)


def spread(count: int, limit: int | None) -> range | list[int]:
    """Which of `count` questions are asked: all of them, or `limit` spread evenly over them. Always the same.

    Raises:
        ConfigError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: allowed is null or a whole number from 1.")
    if limit is None or limit >= count:
        return range(count)
    return [at * count // limit for at in range(limit)]


@dataclass(frozen=True)
class _Style:
    """How a question is put: the wording and the examples before it."""

    prompts: Prompts
    answer_template: str
    few_shot: FewShot | None

    @classmethod
    def of(cls, config: QuestionsConfig) -> _Style:
        template, count = config.answer_template, config.few_shot
        if template not in ANSWER_TEMPLATES:
            raise ConfigError(f"answer_template={template}: allowed are {', '.join(ANSWER_TEMPLATES)}.")
        if count < 0:
            raise ConfigError(f"few_shot={count}: allowed is a whole number from 0.")
        if count and config.few_shot_path is None:
            raise ConfigError(f"few_shot={count} needs few_shot_path=FOLDER, a pool whose rows are the examples.")
        few_shot = read_examples(str(config.few_shot_path), count, template) if count else None
        return cls(load_prompts(config.prompts, "prompts"), template, few_shot)

    def row(self, question: Question) -> PoolRow:
        """The question as a row. One without a gold is asked, too: the reward server calls it `bad_gold`."""
        if question.kind == "mcq" and question.gold_label is None:
            question = dataclasses.replace(question, gold_label="")
        row = render(question, self.prompts, "short")
        *system, _ = row.prompt
        turns = self.few_shot.turns(question, self.prompts, self.answer_template) if self.few_shot else []
        user = {"role": "user", "content": self.prompts.user_message(question, self.answer_template)}
        return dataclasses.replace(row, prompt=[*system, *turns, user])

    def describe(self) -> dict[str, Any]:
        few_shot = self.few_shot
        return {
            "answer_template": self.answer_template,
            "prompts": {name: text["sha256"] for name, text in self.prompts.describe().items()},
            "few_shot": few_shot and {"count": few_shot.count, "pool_sha256": few_shot.pool_sha256},
        }


def _names(wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name == AGIEVAL_MATH:
            raise ConfigError(f"benchmarks: {name} comes with {AGIEVAL}, where agieval_tasks has {agieval.MATH_TASK}.")
        if name != ALL and name not in BENCHMARKS:
            allowed = [*BENCHMARKS, ALL]
            raise ConfigError(
                f"benchmarks: there is no {name}.{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}."
            )
    return [name for name in BENCHMARKS if ALL in wanted or name in wanted]


def _tasks(wanted: Sequence[str]) -> list[str]:
    tasks = [task.replace("_", "-") for task in wanted]
    for task in tasks:
        if task not in agieval.TASKS:
            near = did_you_mean(task, agieval.TASKS)
            raise ConfigError(f"agieval_tasks: there is no {task}.{near} Allowed: {', '.join(agieval.TASKS)}.")
    if not tasks:
        raise ConfigError(f"agieval_tasks=[] names none. Allowed: {', '.join(agieval.TASKS)}.")
    return tasks


def _parts(copy: Copy, tasks: Sequence[str]) -> dict[str, list[Question]]:
    """A benchmark's questions by the name under which they are counted: AGIEval's task math is counted apart."""
    parts: dict[str, list[Question]] = {name: [] for name in _tasks_by_name(copy, tasks)}
    for question in copy.questions():
        if copy.name == AGIEVAL and agieval.task_of(question.file) == agieval.MATH_TASK:
            parts[AGIEVAL_MATH].append(dataclasses.replace(question, source=AGIEVAL_MATH, domain="math"))
        else:
            parts[copy.name].append(question)
    return parts


def _tasks_by_name(copy: Copy, tasks: Sequence[str]) -> dict[str, list[str]]:
    if copy.name != AGIEVAL:
        return {copy.name: []}
    named: dict[str, list[str]] = {AGIEVAL: [], AGIEVAL_MATH: []}
    for task in agieval.TASKS:
        if task in tasks:
            named[AGIEVAL_MATH if task == agieval.MATH_TASK else AGIEVAL].append(task)
    return {name: mine for name, mine in named.items() if mine}


def _facts(copy: Copy, name: str, questions: Sequence[Question], tasks: Sequence[str]) -> dict[str, Any]:
    """What is known of the rows that were read.

    Raises:
        ConfigError: there are none, or more of them than the benchmark has.
    """
    facts = BENCHMARKS[copy.name].describe() | {"revision": copy.revision, "absent": None}
    files: Sequence[Path] = copy.files
    if copy.name == AGIEVAL:
        mine = _tasks_by_name(copy, tasks)[name]
        files = [file for file in files if agieval.task_of(file.name) in mine]
        facts |= {"tasks": mine, "expected_rows": sum(agieval.TASKS[task] for task in mine)}
    if name == AGIEVAL_MATH:
        facts["overlaps"] = [agieval.MATH_OVERLAP]
    if not 0 < len(questions) <= facts["expected_rows"]:
        raise ConfigError(
            f"Benchmark {name} has {facts['expected_rows']:,} rows, but {', '.join(map(str, files))} "
            f"{'has' if len(files) == 1 else 'have'} {len(questions):,}. A part of them will do, but no second copy."
        )
    return facts | {
        "files": [{"name": file.name, "sha256": sha256_file(file)} for file in files],
        "rows": len(questions),
        "without_gold": sum(1 for one in questions if not (one.gold_label or one.answers)),
        "gold_text_differs": sum(
            1 for one in questions if one.gold_text not in (None, one.option_text(one.gold_label))
        ),
    }


def _unique(rows: Iterable[PoolRow]) -> Iterator[PoolRow]:
    """The rows, the second one of an id as `ID.2` and so on."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.id] += 1
        yield row if seen[row.id] == 1 else dataclasses.replace(row, id=f"{row.id}.{seen[row.id]}")
