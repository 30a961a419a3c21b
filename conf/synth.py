"""`crossthink synth`: web pages, or personas and skills, to questions with voted answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.cluster import ClusterConfig
from conf.prep import DecontaminateConfig, DedupConfig

KINDS = ("qa", "math")
ROUTERS = ("lexical", "embedding")
JSON_MODES = ("auto", "schema", "prompt")


@dataclass
class CrawlConfig:
    """kind=qa: the WARC or WET files."""

    path: str | None = None
    """Folder of WARC or WET files (local, s3://, https://), or with paths_file what each path in it begins with."""
    paths_file: str | None = None
    """File with one path a line, such as Common Crawl's warc.paths or wet.paths; null: every file of the folder."""
    limit: int = -1
    """Pages that each task reads at most; -1: all."""
    max_bytes: int = 8388608
    """Larger records are dropped."""


@dataclass
class PagesConfig:
    """Which pages are good enough to write a question from."""

    languages: list[str] = field(default_factory=lambda: ["en"])
    """ISO 639-1 codes; prompts, subjects and quality rules are English."""
    language_sure: float = 0.9
    """Least probability of the language."""
    extract_s: float = 10.0
    """Seconds that the extraction of one page may take."""
    max_characters: int = 6000
    """A prompt holds the beginning of a page, so much of it, cut at a paragraph or word."""


@dataclass
class SubjectsConfig:
    """Which subject a page belongs to."""

    file: str | None = None
    """Subjects of your own (YAML, as data_prep/synthesis/subjects.yaml); null: MMLU's 57."""
    router: str = "lexical"
    """lexical (words, no model) or embedding (embeddings.endpoint)."""
    least_score: float = 0.1
    """Pages that are less similar to every subject are dropped. Embedding models need another value."""


@dataclass
class EmbeddingsConfig:
    """subjects.router=embedding: an OpenAI-compatible server with /v1/embeddings."""

    endpoint: str | None = None
    """Base URL, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """Name in requests; null: the only one that the endpoint lists."""
    token: str | None = None
    """API key, or @FILE that holds it."""
    max_characters: int = 2000
    """Of a page's beginning that is sent: such models read few tokens, and servers refuse longer texts."""
    deadline_s: float = 60.0
    """Seconds for one try of a request."""
    retries: int = 4
    """Further tries where the endpoint is full, fails, is gone or is late."""


@dataclass
class BudgetConfig:
    """What the calls of one role may take, over all tasks and starts. Each task has its even share."""

    tokens: int | None = None
    """Of prompts and completions together; null: no limit."""
    cost: float | None = None
    """In the currency of the prices; null: no limit."""
    price_prompt: float = 0.0
    """Of a million prompt tokens."""
    price_completion: float = 0.0
    """Of a million completion tokens."""


@dataclass
class CallsConfig:
    """A model behind an OpenAI-compatible endpoint, and what its calls may take."""

    endpoint: str | None = None
    """Base URL, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """Name in requests; null: the only one that the endpoint lists."""
    token: str | None = None
    """API key, or @FILE that holds it."""
    temperature: float = 0.7
    """Of sampling."""
    top_p: float = 0.95
    """Of sampling."""
    max_tokens: int = 2048
    """Of one reply."""
    json: str = "auto"
    """JSON schemas in requests: auto (until the endpoint refuses them), schema (always) or prompt (never)."""
    json_tries: int = 3
    """Replies that are asked for before one that is no JSON counts as failed."""
    concurrency: int = 64
    """Requests under way at a time, in each task."""
    deadline_s: float = 600.0
    """Seconds for one try of a request."""
    retries: int = 4
    """Further tries where the endpoint is full, fails, is gone or is late."""
    late_in_a_row: int = 32
    """So many late requests in a row mean that the endpoint is lost."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)


def _solver() -> CallsConfig:
    return CallsConfig(max_tokens=8192)


@dataclass
class VoteConfig:
    """Several solutions of one question decide its answer. [reported: majority vote; count and threshold unknown]"""

    solutions: int = 8
    """Solutions that are asked for. [ours]"""
    least_valid: int = 4
    """Fewer readable answers decide nothing. [ours]"""
    threshold: float = 0.5
    """Least share of the readable answers that must agree. [ours]"""
    declined: float = 0.5
    """From this share of solutions on that say so, a question counts as not answerable. [ours]"""


@dataclass
class ChecksConfig:
    """What a question must be like."""

    question_words: int = 5
    """Fewer words are no question. [ours]"""
    answer_words: int = 10
    """Of an open answer at most. [reported]"""
    length_ratio: float = 3.0
    """How many times longer or shorter than every other option the right one may be. [ours]"""


@dataclass
class SynthConfig:
    """Questions written from Common Crawl along MMLU's subjects, or from personas and skills; answers by majority."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"cluster": None}])

    out: str = MISSING
    """Folder for the rows, the data card, logs and stored answers."""
    resume: bool = False
    """Go on with what stands in out; no stored answer is asked for again."""
    kind: str = "qa"
    """qa: pages to multiple choice, in the schema of Syn-QA. math: personas × skills, in PersonaSkill-MATH's."""
    crawl: CrawlConfig = field(default_factory=CrawlConfig)
    pages: PagesConfig = field(default_factory=PagesConfig)
    subjects: SubjectsConfig = field(default_factory=SubjectsConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    personas: str | None = None
    """kind=math: file of personas (lines, or PersonaHub's JSONL); null: the built-in ones."""
    skills: str | None = None
    """kind=math: YAML of areas and skills; null: the built-in ones."""
    problems: int = 1000
    """kind=math: pairs of persona and skill to write a problem for."""
    options: int = 4
    """Options of a multiple-choice question: 4 as MMLU, 10 as MMLU-Pro; any number from 2 to 26."""
    difficulties: list[str] = field(default_factory=lambda: ["high school", "undergraduate", "graduate"])
    """Asked for in turn. [reported: conditioned on difficulty; the levels are ours]"""
    prompts: str | None = None
    """Folder with prompt files of your own; null: the built-in ones."""
    writer: CallsConfig = field(default_factory=CallsConfig)
    solver: CallsConfig = field(default_factory=_solver)
    vote: VoteConfig = field(default_factory=VoteConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    retry_failed: bool = False
    """Ask again for what failed before (no JSON, refused, cut off, late)."""
    documents: int = 64
    """Pages or problems of a task that are worked on at a time."""
    tasks: int = 1
    """Parts that the work is cut into; every WARC file belongs to one. A resumed run keeps the number."""
    workers: int = 2
    """Tasks at a time; on a cluster, jobs of the array at a time."""
    seed: int = 0
    """Of pairs, of the order of options, and sent with every request."""
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(name=""))
    """Submit every stage as an array of jobs; null: run them here."""
