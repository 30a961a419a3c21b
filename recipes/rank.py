"""One rank of a training run: builds the parts, runs the loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.actor import OptimizerConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, UserError
from crossthink.procs import die_with_told_parent
from recipes.checks import has_rollout_servers
from recipes.launch import ADDRESSES, Addresses, reward_client
from recipes.machine import threads
from recipes.nodes import has_critic_server
from recipes.own_critic import Critic
from recipes.quiet import quiet_libraries
from recipes.run_folder import held_out_pool, model_folder, read_config, training_pool
from recipes.signs_of_life import silence_s


def run_rank(config: TrainConfig, addresses: Addresses) -> None:
    """Train as the rank that RANK and WORLD_SIZE name (alone where they are unset).

    Args:
        config: the run's config; `config.out` is claimed and holds everything that was prepared.
        addresses: its servers; ranks other than the first need not know them.

    Raises:
        StoppedEarly: stopped on request, resumable.
        UserError: what a user can mend.
    """
    import torch

    from recipes.actors.stack import prepare_stack

    quiet_libraries()
    prepare_stack()
    from recipes.actors.mcore.mesh import TIMEOUT_S, join_mesh, leave_mesh

    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    torch.set_num_threads(threads(config.actor.threads, local_world))
    # The other ranks wait in a collective while rank 0 waits for the critic server, or twice for rollout servers: until
    # they are ready for new weights, and until they have them.
    patience_s = TIMEOUT_S
    if has_critic_server(config):
        patience_s = max(patience_s, config.critic.deadline_s + 60.0)
    if has_rollout_servers(config):
        patience_s = max(patience_s, 2 * config.rollout.refit_deadline_s + 120.0)
    # Where a rank hangs, a job's watchers are to find out which: the others must not give up before them.
    patience_s = max(patience_s, silence_s() + 120.0)
    mesh = join_mesh(config.actor.tensor_parallel, config.actor.pipeline_parallel, timeout_s=patience_s)
    try:
        _train(config, addresses, mesh)
    finally:
        leave_mesh()


def _train(config: TrainConfig, addresses: Addresses, mesh: Any) -> None:
    from data_prep.blends import blend_weights
    from data_prep.pool import Pool
    from recipes.models.tokenizer import load_tokenizer, stop_ids
    from recipes.progress import RunProgress
    from recipes.rl.loop import train
    from recipes.rl.parts import Parts
    from recipes.rl.prompts import PromptStream
    from recipes.rl.records import Records
    from recipes.rollout.interface import SamplingParams

    out, folder = Path(config.out), model_folder(config)
    tokenizer = load_tokenizer(folder)
    pool = Pool.open(training_pool(config))
    shares = blend_weights(pool.counts, pool.groups, config.blend, str(pool.path))
    prompts = PromptStream(pool, pool.sampler(shares, config.seed), tokenizer, config.max_prompt_tokens)
    actor = _actor(config, folder, mesh, tokenizer)
    critic = _critic(config, folder, mesh, actor.pad_id, addresses.critic) if config.algorithm.name == "ppo" else None
    state = _load_newest(out, actor, critic, prompts)
    start = state["step"] if state else 0
    first = mesh.rank == 0
    engine = _rollout_engine(config, folder, mesh, addresses.rollout)
    client = reward_client(config.reward, addresses.reward) if first else None
    records = Records(out, start, _trackers(config)) if first else None
    progress = RunProgress(config, start) if first else None
    parts = Parts(
        actor=actor,
        engine=engine,
        prompts=prompts,
        tokenizer=tokenizer,
        params=SamplingParams(
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_tokens=config.max_response_tokens,
            stop_ids=stop_ids(tokenizer, folder),
            vocabulary=actor.vocabulary,
            seed=config.seed,
            step=start,
        ),
        client=client,
        records=records,
        progress=progress,
        evaluate=None,
        critic=critic,
        throughput=_throughput(config, folder, mesh, actor.passes),
    )
    if config.eval.every:
        parts = replace(parts, evaluate=_evaluator(config, parts))
    try:
        train(config, parts, start, state)
    finally:
        if has_rollout_servers(config):
            engine.close()  # first: a rollout under way still asks for rewards
        for part in (progress, records, client):
            if part:
                part.close()


def _load_newest(out: Path, actor: Any, critic: Any, prompts: Any) -> dict[str, Any] | None:
    """Load the newest whole checkpoint. Returns the trainer's state in it; None where there is none."""
    from recipes.rl import checkpoints

    checkpoint = checkpoints.newest_whole(out)
    if checkpoint is None:
        return None
    state = checkpoint.trainer_state()
    actor.load(checkpoint.folder)
    if critic:
        critic.load(checkpoint.folder)
    prompts.load_state_dict(state["prompts"])
    return state


def _rollout_engine(config: TrainConfig, folder: Path, mesh: Any, urls: Sequence[str]) -> Any:
    if has_rollout_servers(config):
        from recipes.rollout.served import ServedRollouts

        return ServedRollouts(urls, config.rollout)
    from recipes.rollout.local.engine import LocalEngine

    return LocalEngine(folder, mesh.device, config.rollout.batch_size)


def _actor(config: TrainConfig, folder: Path, mesh: Any, tokenizer: Any) -> Any:
    engine: Callable[..., Any]
    if config.actor.name == "aligner":
        from recipes.actors.aligner.actor import AlignerActor

        engine = AlignerActor
    else:
        from recipes.actors.megatron.actor import MegatronActor

        engine = MegatronActor

    return engine(
        folder,
        mesh,
        config.optimizer,
        vocabulary=len(tokenizer),
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        temperature=config.sampling.temperature,
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        with_reference=config.algorithm.kl > 0,
        settings=config.actor,
    )


def _critic(config: TrainConfig, folder: Path, mesh: Any, pad_id: int, server: Critic | None) -> Any:
    if has_critic_server(config):
        from recipes.actors.aligner.critic import AlignerCritic

        server = server or Critic("", "")  # on ranks that do not ask it
        return AlignerCritic(server.url, config.critic.deadline_s, server.last_words)
    from recipes.actors.megatron.critic import MegatronCritic

    return MegatronCritic(
        folder,
        mesh,
        critic_adam(config),
        pad_id=pad_id,
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        settings=config.actor,
    )


def critic_adam(config: TrainConfig) -> OptimizerConfig:
    """The critic's Adam: the policy's, but for what `critic.*` states."""
    return replace(config.optimizer, lr=config.critic.lr, clip_grad=config.critic.clip_grad)


def _trackers(config: TrainConfig) -> list[Any]:
    """The trackers that the config asks for; they get all of it but its secrets and their own section."""
    import yaml

    from conf.compose import to_yaml
    from recipes.reporting.facts import without_secrets
    from recipes.rl.trackers import start_trackers

    shown = without_secrets(yaml.safe_load(to_yaml(config)))
    del shown["tracking"]
    return start_trackers(Path(config.out), config.tracking, shown)


def _throughput(config: TrainConfig, folder: Path, mesh: Any, passes: Any) -> Any:
    """What MFU and FLOP/s are computed from; says at the start where there will be no MFU."""
    import torch

    from recipes.actors.mcore.precision import has_transformer_engine, resolve_precision
    from recipes.models.families import read_shape
    from recipes.models.model_folder import read_model_config
    from recipes.models.peaks import peak_tflops
    from recipes.rl.throughput import Throughput

    on_gpu = mesh.device.type == "cuda"
    precision = resolve_precision(config.actor, on_gpu, has_transformer_engine())
    number_format = precision.dtype if precision.fp8 == "off" else "fp8"
    device = torch.cuda.get_device_name(mesh.device) if on_gpu else "the CPU"
    peak = peak_tflops(device, number_format)
    if mesh.rank == 0 and peak is None:
        print(f"mfu stays null: no peak of {device} in {number_format} is known.", file=sys.stderr)
    return Throughput(
        shape=read_shape(read_model_config(folder), str(folder)),
        devices=mesh.world,
        data=mesh.data,
        micro_batch_tokens=config.micro_batch_tokens,
        multiple=passes.multiple,
        packed=passes.packed,
        peak_tflops=peak,
    )


def _evaluator(config: TrainConfig, parts: Any) -> Any:
    from data_prep.pool import Pool
    from recipes.rl.evaluation import evaluate, pool_prompts

    prompts, _ = pool_prompts(Pool.open(held_out_pool(config)), parts.tokenizer, config.max_prompt_tokens)

    def run(step: int) -> dict[str, Any]:
        summary, _ = evaluate(
            parts.engine, parts.client, parts.tokenizer, prompts, parts.params, config.reward.think_prefilled
        )
        return {"step": step, **summary}

    return run


def main() -> int:
    """Entry of a rank process: `python -m recipes.rank RUN_FOLDER`."""
    die_with_told_parent()
    config = read_config(Path(sys.argv[1]))
    assert config is not None
    try:
        run_rank(config, Addresses.from_json(os.environ[ADDRESSES]))
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
