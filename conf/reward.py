"""The reward server and its client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ShapingConfig:
    """What may be added to R = R_acc ∧ R_format. All off by default: the paper's reward is 0 or 1."""

    format_credit: float = 0.0
    """Reward of a response that keeps the format and whose answer is wrong."""
    length_penalty: float = 0.0
    """Most that is taken off a long response; grows linearly from length_free to length_limit tokens."""
    length_free: int = 0
    """Response tokens that cost nothing."""
    length_limit: int = 0
    """Response tokens from which on the whole length_penalty is taken off."""
    source_weights: dict[str, float] = field(default_factory=dict)
    """Factor on the reward of a source's items, by source name; sources not named keep 1."""


@dataclass
class PyTritonConfig:
    """NeMo-Aligner's PyTriton protocol beside HTTP. Its requests carry tokens only; the gold is found by the prompt."""

    port: int | None = None
    """Port of the PyTriton endpoint; absent: none is started. NeMo-Aligner's own default is 5555."""
    data: str | None = None
    """Where prompts and golds are found: a pool folder, or a JSONL file of the rows that the trainer reads."""
    tokenizer: str | None = None
    """Folder with the tokenizer that made the tokens."""
    model: str = "reward_model"
    """Name under which PyTriton serves."""
    allow_open: bool = False
    """Serve on a non-loopback host although PyTriton has no authentication."""


@dataclass
class ServeRewardConfig:
    """Score boxed answers over HTTP: POST /v1/score, adapters for other trainers, a page at /, API docs at /docs."""

    host: str = "127.0.0.1"
    """Address to bind. Any other than loopback needs token=."""
    port: int = 8900
    """TCP port; 0 takes a free one and prints it."""
    workers: int = 2
    """Processes that judge mathematical equivalence. Multiple-choice and open items never wait for them."""
    match: str = "equivalent"
    """equivalent: mathematical and label-or-text equality. exact: the paper's character-for-character rule."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    deadline_s: float = 1.0
    """CPU seconds that one answer may use up in a worker before it is judged timeout."""
    worker_memory_mb: int = 1024
    """MiB that one answer may take in a worker before it is judged timeout; a worker that keeps half is replaced."""
    warm_up: bool = True
    """Build the math parser's tables at the start (two seconds), instead of at the first sight of each shape."""
    max_items: int = 8192
    """Items accepted in one request."""
    max_body_mb: int = 64
    """Size limit of one request, MiB."""
    max_response_chars: int = 1_000_000
    """Characters accepted in one response."""
    max_queue: int = 65_536
    """Items that may be under way; a request that would pass it is answered 429 with Retry-After."""
    drain_s: float = 30.0
    """Seconds that requests under way are given after SIGTERM."""
    token: str | None = None
    """Shared secret, or @FILE that holds it; sent by clients as `Authorization: Bearer TOKEN` or in the path,
    /t/TOKEN/v1/score."""
    invalid_as: float | None = None
    """Number that stands for an invalid item (bad_gold, error) in protocols that have no null: OpenRLHF, NeMo-Gym,
    NeMo-Aligner. Absent: the request fails and names the items."""
    log_responses: bool = False
    """Write responses and ground truths into the log, item by item."""
    pytriton: PyTritonConfig = field(default_factory=PyTritonConfig)


@dataclass
class RewardConfig:
    """Where rewards come from, and when the trainer gives up."""

    url: list[str] = field(default_factory=list)
    """Reward servers, such as http://127.0.0.1:8900; empty: the command starts one of its own."""
    match: str = "equivalent"
    """Rule of the own server: equivalent or exact."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    think_prefilled: bool = False
    """The prompt already ends in <think>, so the response starts inside it."""
    workers: int = 1
    """Math workers of the own server."""
    deadline_s: float = 60.0
    """Seconds for one request; a server that takes longer is given up and another is asked."""
    outage_limit_s: float = 300.0
    """Seconds without an answer from any server before the run stops, resumable."""
    max_invalid: float = 0.01
    """Largest share of invalid verdicts (bad_gold, error) of a step before the run stops."""
    token: str | None = None
    """Shared secret of the servers in url, or @FILE that holds it."""


@dataclass
class RescoreConfig:
    """Score a run's dumped rollouts again under other rules; says what changed and why, and overwrites nothing."""

    run: str = "???"
    """The run folder whose rollouts/ are read."""
    out: str | None = None
    """Folder for the new verdicts and the summary; absent: RUN/rescore/RULES_HASH."""
    match: str = "equivalent"
    """equivalent or exact."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    steps: list[int] = field(default_factory=list)
    """Steps to score; empty: all that were dumped."""
    think_prefilled: bool | None = None
    """As in training; absent: as the run's config says."""
    workers: int = 2
    """Math workers."""
    deadline_s: float = 1.0
    """CPU seconds for one answer."""
    show: int = 10
    """Changed samples to print, with the reason."""
