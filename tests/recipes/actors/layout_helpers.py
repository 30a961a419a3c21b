"""Training the same model in several parallel layouts: what each rank process does, and how a test starts them.

`python layout_helpers.py FOLDER` is one rank: it runs every job of FOLDER/jobs.json in turn, joining a mesh for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from uneven_helpers import make_uneven

from conf.actor import ActorConfig, OptimizerConfig
from crossthink.procs import free_port
from recipes.actors.interface import TokenizedSample, save

VOCABULARY = 90  # of the 97 rows of the embedding, which tensor parallelism pads to 98
LAYERS = 5  # not a multiple of any pipeline tested here
LIMIT_S = 240
LR = 1e-3
CLIP, KL = 0.2, 0.05
# Entries with a gradient of rounding size would move by their rounding's sign; this holds them still.
EPSILON = 1e-5


@dataclass(frozen=True)
class Job:
    """A few training steps in one layout.

    Attributes:
        name: of the results.
        model: folder of the model.
        tensor: tensor-parallel size.
        pipeline: pipeline-parallel size.
        settings: of `actor.*`.
        updates: optimizer steps of a rollout batch.
        critic: train the critic in place of the policy.
        first: number of the first step.
        last: number of the last step.
        load: checkpoint to begin with.
        save: where the state after step `save_after` is saved.
        save_after: see `save`.
        aside: copy the state there and then, and write it after the next step.
        bucket: parameters in a gradient bucket, so that overlapping has several; None: megatron-core's choice.
        actor: the engine, whose environment `run_layouts` must be given.
    """

    name: str
    model: str
    tensor: int = 1
    pipeline: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    updates: int = 1
    critic: bool = False
    first: int = 1
    last: int = 3
    load: str | None = None
    save: str | None = None
    save_after: int = 0
    aside: bool = False
    bucket: int | None = None
    actor: str = "megatron"


def write_model(folder: Path, tied: bool, **changes: object) -> Qwen2ForCausalLM:
    """A random Qwen2 with uneven biases and norms, so that a forgotten or swapped one shows."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2} | changes
    config = Qwen2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, dtype="float32", **shape,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    make_uneven(model)
    model.save_pretrained(folder)
    return model


def rollout_samples(step: int, count: int = 10) -> list[TokenizedSample]:
    """The samples of a step: lengths of 4 to 28 tokens, advantages and rollout log-probs drawn at random."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for number in range(count):
        prompt, response = 2 + number % 4, 2 + (number * 7 + step) % 23
        ids = torch.randint(0, VOCABULARY, (prompt + response,), generator=generator).tolist()
        advantage = torch.randn((), generator=generator).expand(response)
        returns = torch.randn(response, generator=generator)
        weights = torch.full((response,), 1.0 / (count * response))
        found.append(TokenizedSample(ids, prompt, {"advantages": advantage, "returns": returns, "weights": weights}))
    return found


def with_tensors(samples: Sequence[TokenizedSample], name: str, values: Sequence[Tensor]) -> list[TokenizedSample]:
    """The samples with one more tensor each."""
    return [
        TokenizedSample(s.token_ids, s.prompt_length, {**s.per_token, name: v})
        for s, v in zip(samples, values, strict=True)
    ]


def run_layouts(
    world: int, jobs: Sequence[Job], folder: Path, python: str = sys.executable
) -> dict[str, list[dict[str, float]]]:
    """Run jobs, one after the other, in one launch of `world` ranks. Returns the metrics of each step by job."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(["", str(Path(__file__).parents[3])]).lstrip(os.pathsep),
    }  # fmt: skip
    logs = [folder / f"rank_{rank}.log" for rank in range(world)]
    ranks: list[subprocess.Popen] = []
    try:
        for rank in range(world):
            with open(logs[rank], "wb") as log:
                ranks.append(
                    subprocess.Popen(
                        [python, __file__, str(folder)],
                        env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        codes = [process.wait(timeout=LIMIT_S) for process in ranks]
        assert codes == [0] * world, "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return json.loads((folder / "metrics.json").read_text())


def final_weights(folder: Path, job: str) -> dict[str, Tensor]:
    """The policy's weights at the end of a job."""
    return load_file(folder / f"{job}.safetensors")


def step_log_probs(folder: Path, job: str) -> dict[str, Tensor]:
    """The policy's log-probs of all response tokens before each step of a job, by step."""
    return load_file(folder / f"{job}.log_probs.safetensors")


def _rank(folder: Path) -> None:
    import torch.distributed as dist

    from recipes.actors.stack import prepare_stack

    torch.set_num_threads(1)
    prepare_stack()
    from megatron.core import parallel_state

    from recipes.actors.mcore.mesh import join_mesh, leave_mesh

    jobs = [Job(**fields) for fields in json.loads((folder / "jobs.json").read_text())]
    metrics = {}
    for job in jobs:
        mesh = join_mesh(job.tensor, job.pipeline, timeout_s=60)
        if job.actor == "megatron":
            _set_bucket_size(job.bucket)
        metrics[job.name] = (_train_critic if job.critic else _train_policy)(job, mesh, folder)
        parallel_state.destroy_model_parallel()
    if dist.get_rank() == 0:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    dist.barrier()
    leave_mesh()


def _set_bucket_size(parameters: int | None) -> None:
    from megatron.core.distributed import DistributedDataParallelConfig

    from recipes.actors.megatron import optimizer

    optimizer.DistributedDataParallelConfig = partial(DistributedDataParallelConfig, bucket_size=parameters)


def _settings(job: Job) -> ActorConfig:
    return ActorConfig(tensor_parallel=job.tensor, pipeline_parallel=job.pipeline, **job.settings)


def _train_policy(job: Job, mesh: Any, folder: Path) -> list[dict[str, float]]:
    from recipes.rl.losses import GrpoLoss

    if job.actor == "aligner":
        from recipes.actors.aligner.actor import AlignerActor as Engine
    else:
        from recipes.actors.megatron.actor import MegatronActor as Engine

    actor = Engine(
        Path(job.model), mesh, OptimizerConfig(lr=LR, epsilon=EPSILON, clip_grad=0.5), vocabulary=VOCABULARY, pad_id=0,
        temperature=0.9, micro_batch_tokens=60, seed=0, with_reference=True, settings=_settings(job),
    )  # fmt: skip
    if job.load:
        actor.load(Path(job.load))
    loss = GrpoLoss(clip=CLIP, kl=KL)
    found, log_probs = [], {}
    for step in range(job.first, job.last + 1):
        samples = rollout_samples(step)
        actor.offload()
        samples = with_tensors(samples, "reference_log_probs", actor.log_probs(samples, reference=True))
        old = actor.log_probs(samples)
        log_probs[str(step)] = torch.cat(old)
        samples = with_tensors(samples, "rollout_log_probs", old)
        actor.onload()
        if job.updates > 1:
            samples = with_tensors(samples, "old_log_probs", old)
        size = len(samples) // job.updates
        for part in range(job.updates):
            result = actor.train_step(
                samples[part * size : (part + 1) * size],
                lambda log_probs_bt, batch: loss(log_probs_bt, batch.per_token_bt),
                LR,
            )
            found.append({"grad_norm": result.grad_norm, **result.sums})
        _save(job, actor, step)
    weights = {name: tensor.contiguous() for name, tensor in actor.weights()}
    if mesh.rank == 0:
        save_file(weights, folder / f"{job.name}.safetensors")
        save_file(log_probs, folder / f"{job.name}.log_probs.safetensors")
    return found


def _train_critic(job: Job, mesh: Any, folder: Path) -> list[dict[str, float]]:
    from recipes.rl.losses import ValueLoss

    if job.actor == "aligner":
        from recipes.actors.aligner.critic_model import ValueEngine as Engine

        words: dict[str, Any] = {}
    else:
        from recipes.actors.megatron.critic import MegatronCritic as Engine

        words = {"pad_id": 0}
    critic = Engine(
        Path(job.model), mesh, OptimizerConfig(lr=LR, epsilon=EPSILON, clip_grad=0.5), micro_batch_tokens=60, seed=0,
        settings=_settings(job), **words,
    )  # fmt: skip
    if job.load:
        critic.load(Path(job.load))
    loss = ValueLoss(clip=0.2)
    found = []
    for step in range(job.first, job.last + 1):
        samples = rollout_samples(step)
        values = critic.values(samples)
        samples = with_tensors(samples, "values", values)
        for part in range(job.updates):
            size = len(samples) // job.updates
            result = critic.train_step(
                samples[part * size : (part + 1) * size],
                lambda values_bt, batch: loss(values_bt, batch.per_token_bt),
                LR,
            )
            value = float(torch.cat(values).double().square().sum())
            found.append({"grad_norm": result.grad_norm, "squared_values": value, **result.sums})
        _save(job, critic, step)
    return found


_staged: dict[str, Any] = {}  # by job: what is written after the next step


def _save(job: Job, engine: Any, step: int) -> None:
    if job.save and step == job.save_after:
        if torch.distributed.get_rank() == 0:
            Path(job.save).mkdir()
        torch.distributed.barrier()
        if not job.aside:
            save(engine, Path(job.save))
        else:
            _staged[job.name] = engine.stage(Path(job.save))
    elif job.name in _staged:
        staged = _staged.pop(job.name)
        staged.write()
        torch.distributed.barrier()
        staged.finish()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]))
