"""`crossthink prep`: sources, templates, filters, pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class SourceConfig:
    """One raw source, read by the reader of the same name."""

    path: str | None = None
    """File or folder with the rows (.jsonl, .jsonl.gz, .parquet); null downloads them from the Hugging Face Hub."""
    revision: str | None = None
    """Commit on the hub; null takes the reader's pinned one, or where there is none the newest, which is recorded."""
    licence: str | None = None
    """Licence of your rows (SPDX), where they are not under the public dataset's."""
    limit: int | None = None
    """Read at most this many rows; null reads all."""
    sample: int | None = None
    """Keep at most this many of the rows that pass, chosen by the seed; null keeps all."""


@dataclass
class PromptConfig:
    """The wording around a question."""

    folder: str | None = None
    """Folder with your own system.txt, mcq_short.txt, mcq_long.txt, open.txt, math.txt; null takes the built-in."""
    tokenizer: str | None = None
    """Model folder or tokenizer.json whose tokens and chat template measure a prompt; null measures none."""
    max_tokens: int = 1000
    """Prompts of more tokens are dropped, where a tokenizer is given. [ours: the paper gives only the total of 5000]"""


@dataclass
class FilterConfig:
    """The filter H of the paper, and ours."""

    max_answer_words: int = 10
    """Open answers of more whitespace-separated words are dropped. [reported]"""
    math_levels: list[int] | None = field(default_factory=lambda: [3, 4, 5])
    """Difficulty levels (1 to 5) to keep of a source that states them (MATH does); null keeps all. [inferred]"""
    gold: bool = True
    """Drop rows whose ground truth the reward server could not judge (bad_gold)."""


@dataclass
class DedupConfig:
    """Deduplication across sources; the first of its kind stays."""

    exact: bool = True
    """Drop a question that stood before: the same normalised text and the same set of options, in any order."""
    near: bool = False
    """Drop near-duplicates by MinHash over word 5-grams, too."""
    threshold: float = 0.72
    """Jaccard similarity from which two questions are near-duplicates. [ours]"""


@dataclass
class DecontaminateConfig:
    """Benchmarks whose questions must not be trained on."""

    path: str | None = None
    """Folder with the benchmarks' rows: NAME.jsonl, NAME.parquet or NAME/, such as math500.jsonl; null checks none."""
    coverage: float = 0.5
    """Share of a benchmark question's words that shared 13-grams must cover. [ours]"""


@dataclass
class PrepConfig:
    """Raw sources to a pool of verifiable questions (Parquet), its manifest and its data card."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"sources": []}, {"recipe": None}])

    out: str = MISSING
    """The pool's folder. It must not exist."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Which sources, as a list: sources=[math,mmlu_train]; then sources.NAME.path=..."""
    question_template: str = "mixed"
    """mixed: every row in its own form. open: multiple choice without its options (T_Open). mcq: rows with options."""
    answer_template: str = "long"
    """What a multiple-choice ground truth is: long (label and text) or short (the label). [derived]"""
    licence: str = "any"
    """any, or commercial: leave out sources whose licence forbids commercial use."""
    bad_rows: str = "stop"
    """What a row that cannot be read does: stop, naming file and line, or drop, counted."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    export: list[str] = field(default_factory=list)
    """Row shapes of other trainers to write beside the pool: verl, nemo_rl, trl, openrlhf."""
    workers: int | None = None
    """Worker processes; null: one per core. The pool's bytes do not depend on it."""
    seed: int = 0
    """Seeds whatever a source samples."""
    recipe: str | None = None
    """Preset of all of the above: the ablations of the paper's Tables 3, 5 and 6."""
