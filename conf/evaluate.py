"""`crossthink eval`: accuracy of a checkpoint or an endpoint on the benchmarks, or on a pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.reward import RewardConfig
from conf.rollout import LocalRolloutConfig

CHECKPOINTS = ("last", "best", "all")
# AGIEval's English tasks; `math` is asked as a benchmark of its own, agieval_math, and enters no average.
AGIEVAL_TASKS = (
    "aqua-rat", "gaokao-english", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage",
    "sat-math", "math",
)  # fmt: skip


@dataclass
class QuestionsConfig:
    """Which questions are asked, and how they are put."""

    data: str | None = None
    """Pool folder made by prep from held-out rows."""
    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks by name, or [all]: mmlu_test, mmlu_pro, gpqa_diamond, agieval, supergpqa, math500, amc23."""
    benchmarks_path: str | None = None
    """Folder with the benchmarks' rows (NAME.jsonl, NAME.parquet, NAME/); null: from the Hugging Face Hub."""
    agieval_tasks: list[str] = field(default_factory=lambda: list(AGIEVAL_TASKS))
    """Tasks of AGIEval; math becomes the benchmark agieval_math, which enters no average. [ours]"""
    few_shot: int = 0
    """Worked examples before each question of a benchmark, as earlier turns of the chat."""
    few_shot_path: str | None = None
    """Pool folder whose first rows of the question's kind are the examples."""
    answer_template: str = "long"
    """Wording of multiple-choice prompts: long or short, as in training. Label and text are both right either way."""
    prompts: str | None = None
    """Folder with prompt files of your own, as prep's prompts.folder; null: the built-in ones."""
    limit: int | None = None
    """Questions of each benchmark, and of each source of a pool, at most, spread evenly over it; null: all."""


@dataclass
class RequestConfig:
    """How an OpenAI-compatible endpoint is asked."""

    model: str | None = None
    """Model name in requests; null: the only one that the endpoint lists."""
    token: str | None = None
    """API key, or @FILE that holds it."""
    concurrency: int = 32
    """Requests under way at a time."""
    deadline_s: float = 600.0
    """Seconds for one try of one request."""
    retries: int = 4
    """Tries after the first where the endpoint is full, fails or is gone (429, 5xx, no connection, deadline)."""
    tokenizer: str | None = None
    """Folder with the model's tokenizer, to count tokens of prompts, and of answers where the endpoint does not."""


@dataclass
class EvalConfig(QuestionsConfig):
    """Answer questions with a checkpoint's or an endpoint's model, judge the answers, and count what is right."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"rollout": "local"}])

    out: str = MISSING
    """Folder for samples.jsonl and summary.json."""
    checkpoint: str | None = None
    """A run folder, one of its checkpoints, or a Hugging Face model folder. Or give endpoint=."""
    checkpoints: str = "last"
    """Of a run folder: last, best (checkpoint.best in training), or all, each into out/step_NNNNNN."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1. Or give checkpoint=."""
    request: RequestConfig = field(default_factory=RequestConfig)
    runs: int = 3
    """Times that every question is asked; accuracy is the mean over them. [reported]"""
    temperature: float = 0.0
    """0: greedy. [reported]"""
    top_p: float = 1.0
    """Where temperature is above 0: draw from the likeliest tokens that reach this share."""
    seed: int = 0
    """Of the draws where temperature is above 0; every run of a question has numbers of its own."""
    max_prompt_tokens: int = 4000
    """Longer prompts are left out, and counted by benchmark."""
    max_response_tokens: int = 4000
    """Responses are cut off here. [ours]"""
    threads: int | None = None
    """CPU threads of the local engine; null: all cores."""
    rollout: LocalRolloutConfig = field(default_factory=LocalRolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    resume: bool = False
    """Go on with the evaluation in out, which was stopped."""
