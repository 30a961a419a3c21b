"""`crossthink train` and `crossthink demo`: model, algorithm, engines, batch, run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.actor import ActorConfig, OptimizerConfig
from conf.algorithm import AlgorithmConfig, CriticConfig
from conf.blend import BlendConfig
from conf.nodes import NodesConfig
from conf.reward import RewardConfig
from conf.rollout import RolloutConfig


@dataclass
class ModelConfig:
    """The model that training starts from."""

    name: str = MISSING
    """tiny, folder (what `model=FOLDER` sets), or a published model: qwen2_5_7b, qwen2_5_32b."""
    path: str | None = None
    """Hugging Face folder: config.json, safetensors, tokenizer. tiny makes its own in out/base."""
    hub_id: str | None = None
    """The published model on the Hugging Face Hub that path holds a copy of. Nothing is downloaded."""
    shape: dict[str, int] = field(default_factory=dict)
    """What config.json in path must state; empty takes any."""


@dataclass
class WarmStartConfig:
    """The supervised warm start that stands in for pretraining where a model is made from nothing (model=tiny)."""

    steps: int = 400
    """Supervised steps."""
    batch_size: int = 64
    """Worked examples in a step."""
    lr: float = 3e-3
    """Peak learning rate: linear warm-up, cosine to a tenth."""
    right_share: float = 0.4
    """Share of worked examples that follow the right procedure; the others make the task's one slip."""


@dataclass
class SamplingConfig:
    """How responses are drawn."""

    temperature: float = 1.0
    """Softmax temperature, 0.01 to 100. [reported]"""
    top_p: float = 1.0
    """Nucleus sampling; 1 draws from the whole distribution. [reported]"""


# Of an evaluation's summary: shares of questions, more is better.
BEST_METRICS = ("reward", "accuracy", "format", "answer_accuracy")


@dataclass
class CheckpointConfig:
    """When a run saves, and what it keeps."""

    every: int = 50
    """Steps between checkpoints; the last step always saves."""
    keep: int = 2
    """Newest checkpoints kept."""
    best: str | None = None
    """Also save and keep the best by this metric of eval.every: reward, accuracy, format, answer_accuracy. [ours]"""
    asynchronous: bool = True
    """Training goes on once the state is copied to host memory, while it is written; false: it waits. [ours]"""
    margin_s: float = 60.0
    """Seconds that a save is thought to take until one was measured, for CROSSTHINK_JOB_END. [ours]"""


@dataclass
class EvalDuringConfig:
    """Greedy evaluation inside a training run."""

    every: int = 0
    """Steps between evaluations; 0 never."""
    data: str | None = None
    """Pool of held-out questions; the demo makes its own."""


@dataclass
class TrackingConfig:
    """Where metrics go beside metrics.jsonl and TensorBoard."""

    wandb: bool = False
    """Also to Weights & Biases (extra wandb), as its WANDB_ variables say. [ours]"""
    mlflow: bool = False
    """Also to MLflow (extra mlflow). [ours]"""
    mlflow_uri: str | None = None
    """MLflow's server or store. null: MLFLOW_TRACKING_URI, else MLflow's own default. [ours]"""
    project: str = "crossthink"
    """Project of W&B, experiment of MLflow. [ours]"""
    name: str | None = None
    """What the run is called there. null: as the run folder. [ours]"""


@dataclass
class ProfileConfig:
    """torch.profiler's traces of training steps."""

    steps: list[int] | None = None
    """[a, b]: trace the steps a to b into out/profile/, one Chrome trace a rank. null: none. [ours]"""


def _train_defaults(recipe: str | None) -> list[Any]:
    """Hydra's defaults list: which option of each config group stands where none is chosen."""
    return [
        "_self_",
        {"model": None},
        {"algorithm": "grpo"},
        {"actor": "megatron"},
        {"rollout": "local"},
        {"blend": "gpr_up"},
        {"recipe": recipe},
    ]


@dataclass
class TrainConfig:
    """Reinforcement learning from verifiable rewards; starts its own workers and reward server where none are given."""

    defaults: list[Any] = field(default_factory=lambda: _train_defaults(recipe=None))

    out: str = MISSING
    """The run folder."""
    resume: bool = False
    """Continue the run in out from its newest checkpoint; begin it where out holds none."""
    data: str | None = None
    """Pool folder made by prep; recipe=tiny makes its own demo pool."""
    seed: int = 0
    """Seeds blend order, sampling and whatever is generated."""
    steps: int = 650
    """Training steps: one rollout batch each. [reported]"""
    prompts_per_step: int = 128
    """Prompts in a rollout batch. [reported]"""
    samples_per_prompt: int = 8
    """Responses to each prompt: the group of GRPO. [reported]"""
    updates_per_rollout: int = 1
    """Equal parts, by prompts, that a rollout batch is cut into; one optimizer step each. [derived]"""
    micro_batch_tokens: int = 16384
    """Most tokens, padding included, of a micro-batch of one rank. Never changes the result. [ours]"""
    max_prompt_tokens: int = 1000
    """Longer prompts are passed over, and counted. [ours: the paper gives only the total of 5000]"""
    max_response_tokens: int = 4000
    """Responses are cut off here, stop token included. [ours]"""
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalDuringConfig = field(default_factory=EvalDuringConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    nodes: NodesConfig = field(default_factory=NodesConfig)
    pool_templates: dict[str, str] = field(default_factory=dict)
    """question_template and answer_template that the pool must have been prepared with; empty takes any pool."""
    recipe: str | None = None
    """Preset of all of the above: the demo's, the paper's at 7B or 32B, or an ablation of its Tables 3, 5 and 6."""


@dataclass
class DemoConfig(TrainConfig):
    """The whole job on this machine: data, warm start, reward server, training, evaluation, report.

    The defaults below are those of train. The demo is always recipe=tiny, which sets smaller ones (70 steps of 32 × 8
    samples, for example): `crossthink demo --cfg` prints what it runs with. Your own key=value wins.
    """

    defaults: list[Any] = field(default_factory=lambda: _train_defaults(recipe="tiny"))

    out: str = "runs/demo"
    """The run folder. A finished demo in it is kept under another name."""
    recipe: str | None = "tiny"
    """Preset; the demo is always tiny."""
