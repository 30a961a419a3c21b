"""The stages of a run, each a datatrove pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.synth import SynthConfig
from data_prep.synthesis.yields import barren, read_yields

PAGES, SIGNATURES, BUCKETS, CLUSTERS, QUESTIONS, ROWS = (
    "pages", "signatures", "buckets", "clusters", "questions", "rows",
)  # fmt: skip
LOGS, ANSWERS = "logs", "answers"
MINHASH_BUCKETS = 14


@dataclass(frozen=True)
class Stage:
    """A pipeline over a number of tasks.

    Attributes:
        name: of its folder of logs.
        tasks: that it is cut into.
        steps: makes its steps, which import what they need.
    """

    name: str
    tasks: int
    steps: Callable[[SynthConfig], list[Any]]


def stages(config: SynthConfig) -> list[Stage]:
    """In their order; each begins when the one before it has ended."""
    questions = Stage(QUESTIONS, config.tasks, _questions if config.kind == "qa" else _problems)
    rows = Stage(ROWS, 1, _rows)
    if config.kind == "math":
        return [questions, rows]
    return [
        Stage(PAGES, config.tasks, _pages),
        Stage(SIGNATURES, config.tasks, _signatures),
        Stage(BUCKETS, MINHASH_BUCKETS, _buckets),
        Stage(CLUSTERS, 1, _clusters),
        questions,
        rows,
    ]


def logs_of(config: SynthConfig, stage: str) -> Path:
    """A stage's folder of logs, statistics and marks of finished tasks."""
    return Path(config.out) / LOGS / stage


def steps_of(config: SynthConfig, stage: Stage) -> list[Any]:
    """The steps of a stage, behind the guard that looks at the stage before."""
    from data_prep.synthesis.guards import Guard

    before = [one.name for one in stages(config)]
    at = before.index(stage.name)
    return [Guard(str(logs_of(config, before[at - 1])) if at else None), *stage.steps(config)]


def _folder(config: SynthConfig, name: str) -> str:
    return os.path.join(config.out, "work", name)


def _answers(config: SynthConfig) -> Path:
    return Path(config.out) / ANSWERS


def _pages(config: SynthConfig) -> list[Any]:
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.writers import JsonlWriter

    from data_prep.synthesis.pages import Extract, Language, PageReader

    crawl, pages = config.crawl, config.pages
    return [
        PageReader(crawl.path, crawl.paths_file, crawl.max_bytes, crawl.limit),
        Extract(pages.extract_s),
        Language(pages.languages, pages.language_sure),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        JsonlWriter(_folder(config, PAGES), compression=None),
    ]


def _read_pages(config: SynthConfig) -> Any:
    from datatrove.pipeline.readers import JsonlReader

    return JsonlReader(_folder(config, PAGES), compression=None)


def _signatures(config: SynthConfig) -> list[Any]:
    from datatrove.pipeline.dedup import MinhashDedupSignature

    return [_read_pages(config), MinhashDedupSignature(_folder(config, SIGNATURES), _minhash())]


def _buckets(config: SynthConfig) -> list[Any]:
    from datatrove.pipeline.dedup import MinhashDedupBuckets

    return [MinhashDedupBuckets(_folder(config, SIGNATURES), _folder(config, BUCKETS), config=_minhash())]


def _clusters(config: SynthConfig) -> list[Any]:
    from datatrove.pipeline.dedup import MinhashDedupCluster

    return [MinhashDedupCluster(_folder(config, BUCKETS), _folder(config, CLUSTERS), config=_minhash())]


def _minhash() -> Any:
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    # datatrove's default, xxhash, must be of a version below the one that others here need.
    return MinhashConfig(num_buckets=MINHASH_BUCKETS, hash_config=HashConfig(hash_fc="sha1"))


def _questions(config: SynthConfig) -> list[Any]:
    from data_prep.synthesis.duplicates import Unrepeated
    from data_prep.synthesis.steps import Subject

    return [
        _read_pages(config),
        Unrepeated(_folder(config, CLUSTERS)),
        Subject(config, _answers(config)),
        *_written(config),
    ]


def _problems(config: SynthConfig) -> list[Any]:
    from data_prep.synthesis.steps import Pairs

    return [Pairs(config), *_written(config)]


def _written(config: SynthConfig) -> list[Any]:
    from datatrove.pipeline.writers import JsonlWriter

    from data_prep.synthesis.steps import Write

    return [
        Write(config, _answers(config)),
        JsonlWriter(_folder(config, QUESTIONS), compression=None),
    ]


def _rows(config: SynthConfig) -> list[Any]:
    from data_prep.synthesis.finish import Rows

    return [Rows(config, _folder(config, QUESTIONS))]


def check_yield(logs: Path) -> str | None:
    """What to say where a stage let nothing through; None where it did."""
    step = barren(read_yields(logs))
    if step is None:
        return None
    why = ", ".join(f"{reason} {count}" for reason, count in sorted(step.dropped.items(), key=lambda one: -one[1]))
    return (
        f"Stage {logs.name}, step {step.step}: none of {step.taken} documents is left ({why or 'no reason counted'})."
    )
