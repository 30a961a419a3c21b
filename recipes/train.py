"""`crossthink train`: check, prepare, start what is needed, train."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, ConfigError
from crossthink.files import sha256_file
from data_prep.blends import BY, blend_weights, describe_blend
from data_prep.pool import Pool
from recipes import launch, prepare
from recipes.actor_checks import check_actor
from recipes.actors.mcore.limits import Machine
from recipes.checks import (
    check_algorithm,
    check_checkpoint,
    check_model,
    check_numbers,
    check_profile,
    check_reward,
    check_rollout,
    check_tracking,
)
from recipes.models.model_folder import check_model_folder, weights_key
from recipes.rl.walltime import job_end
from recipes.run_files import LOGS
from recipes.run_folder import (
    claim,
    locked,
    model_folder,
    record_manifest,
    training_pool,
)

POOL_TEMPLATES = ("question_template", "answer_template")  # keys of prep that a run may insist on


def run(config: TrainConfig, servers: launch.Servers | None = None) -> int:
    """Train a policy. Returns the exit code.

    Args:
        config: the run's.
        servers: where its servers are from; absent: it starts its own.

    Raises:
        ConfigError: an impossible config, before anything starts.
        UserError: what a user can mend, later; whatever was finished is saved.
        StoppedEarly: SIGINT or SIGTERM; resumable.
    """
    servers = servers or launch.OwnServers()
    check(config)
    servers.check(config)
    out = Path(config.out)
    if outside_rank() > 0:  # an outside launcher's other ranks wait in the rendezvous for rank 0's preparations
        from recipes.rank import run_rank
        from recipes.rl import checkpoints

        if not checkpoints.is_finished(out, config.steps):  # else rank 0 never comes
            run_rank(config, launch.Addresses())
        return EXIT_DONE
    with locked(out):
        claim(config)
        if is_finished(config):
            return EXIT_DONE
        (out / LOGS).mkdir(exist_ok=True)
        with servers.reward(config, out / LOGS / "reward_server.log") as urls:
            return run_claimed(config, urls, servers)


def is_finished(config: TrainConfig) -> bool:
    """Whether the run has all its steps, which is then said."""
    from recipes.rl import checkpoints

    finished = checkpoints.is_finished(Path(config.out), config.steps)
    if finished:
        print(f"{config.out} is finished: it has its {config.steps} steps. Raise steps= to train on.", file=sys.stderr)
    return finished


def run_claimed(config: TrainConfig, urls: list[str], servers: launch.Servers) -> int:
    """Train in a claimed run folder with running reward servers. Returns the exit code."""
    out = Path(config.out)
    print(plan(config), file=sys.stderr)
    rules = _rules(config, urls)  # asked now: an unreachable server should be known before anything is made
    prepare.prepare(config)
    pool = check_pool(config)
    print(blend_plan(config, pool), file=sys.stderr)
    facts = {"pool_sha256": pool.sha256, "model_sha256": _model_hash(config), **rules}
    record_manifest(out, facts)
    with (
        servers.critic(config, world_size(config)) as critic,
        servers.rollout(config, model_folder(config)) as rollout_urls,
    ):
        addresses = launch.Addresses(urls, rollout_urls, critic)
        if world_size(config) > 1 and "WORLD_SIZE" not in os.environ:
            return launch.run_ranks(out, world_size(config), addresses)
        from recipes.rank import run_rank

        run_rank(config, addresses)
        return EXIT_DONE


@dataclass(frozen=True)
class Elsewhere:
    """Where a run is to start, if not here: its ranks, and what their nodes have."""

    world: int
    machine: Machine


def check(config: TrainConfig, elsewhere: Elsewhere | None = None) -> None:
    """Refuse what cannot work, naming key, value and what is allowed.

    Args:
        config: the run's.
        elsewhere: where it is to start; absent: in this process, on this machine.

    Raises:
        ConfigError: see above.
        UserError: this environment is not the actor's.
    """
    check_numbers(config)
    check_algorithm(config)
    check_profile(config)
    check_tracking(config)
    check_checkpoint(config)
    check_rollout(config)
    job_end(os.environ)
    check_reward(config.reward)
    if config.blend.by not in BY:
        raise ConfigError(f"blend.by={config.blend.by} is not allowed. Allowed: {', '.join(BY)}.")
    check_model(config)
    world = world_size(config) if elsewhere is None else elsewhere.world
    check_actor(config, world, None if elsewhere is None else elsewhere.machine)
    outside = int(os.environ.get("WORLD_SIZE", "1"))
    if elsewhere is None and "WORLD_SIZE" in os.environ and world != outside:
        tensor, pipeline = config.actor.tensor_parallel, config.actor.pipeline_parallel
        raise ConfigError(
            f"actor.tensor_parallel × actor.pipeline_parallel × actor.data_parallel = {tensor} × {pipeline} × "
            f"{world // (tensor * pipeline)} = {world}, but the launcher started {outside} ranks."
        )
    if config.model.name != "tiny":
        check_model_folder(model_folder(config), config.actor.tensor_parallel, config.actor.pipeline_parallel)
    if config.data is not None and not Path(config.data).is_dir():
        raise ConfigError(
            f"data={config.data} does not exist. Make a pool with `crossthink prep out={config.data} ...`."
        )
    if config.data is not None:
        check_pool(config)
    if config.eval.every and config.eval.data is None and (config.model.name != "tiny" or config.data is not None):
        raise ConfigError(f"eval.every={config.eval.every} needs eval.data=, a pool of held-out questions.")


def check_pool(config: TrainConfig) -> Pool:
    """The run's pool, if it was prepared as `pool_templates` says and `blend` can draw from it.

    Raises:
        ConfigError: it was prepared with another template, or the blend is impossible.
        UserError: it is no pool, or lacks what the blend weighs.
    """
    pool = Pool.open(training_pool(config))
    for key, wanted in config.pool_templates.items():
        if key not in POOL_TEMPLATES:
            raise ConfigError(f"pool_templates.{key} is not allowed. Allowed: {', '.join(POOL_TEMPLATES)}.")
        found = pool.manifest.get("config", {}).get(key)
        if found != wanted:
            how = f"recipe={config.recipe}" if config.recipe else f"{key}={wanted} sources=[...]"
            raise ConfigError(
                f"{f'recipe={config.recipe}' if config.recipe else 'This run'} trains on questions prepared with "
                f"{key}={wanted}, and those of {pool.path} were prepared with {key}={found}. Make a pool for it: "
                f"`crossthink prep {how} out=FOLDER`."
            )
    blend_weights(pool.counts, pool.groups, config.blend, str(pool.path))
    _check_source_weights(config, pool)
    return pool


def outside_rank() -> int:
    """This process's rank where an outside launcher (torchrun, a job's watcher) started it, else 0."""
    return int(os.environ.get("RANK", "0"))


def world_size(config: TrainConfig) -> int:
    """Ranks of the run. Under an outside launcher, data parallelism takes what TP × PP leave over."""
    model_parallel = config.actor.tensor_parallel * config.actor.pipeline_parallel
    outside = int(os.environ.get("WORLD_SIZE", "1"))
    data = config.actor.data_parallel or max(1, outside // model_parallel)
    return model_parallel * data


def plan(config: TrainConfig) -> str:
    """One line: how a step is cut up."""
    samples = config.prompts_per_step * config.samples_per_prompt
    updates = config.updates_per_rollout
    tensor, pipeline = config.actor.tensor_parallel, config.actor.pipeline_parallel
    return (
        f"{config.steps} steps of {config.prompts_per_step} prompts × {config.samples_per_prompt} samples = {samples} "
        f"rollouts; {updates} optimizer step{'s' * (updates > 1)} of {samples // updates}; ranks: {tensor} tensor × "
        f"{pipeline} pipeline × {world_size(config) // (tensor * pipeline)} data"
    )


def blend_plan(config: TrainConfig, pool: Pool) -> str:
    """The shares that the blend has on this pool, and how often the run goes through each source."""
    shares = blend_weights(pool.counts, pool.groups, config.blend, str(pool.path))
    draws = config.steps * config.prompts_per_step
    return describe_blend(pool.counts, pool.groups, config.blend, shares, draws)


def _check_source_weights(config: TrainConfig, pool: Pool) -> None:
    for source in config.reward.shaping.source_weights:
        if source not in pool.counts:
            raise ConfigError(
                f"reward.shaping.source_weights.{source}: {pool.path} has no source of that name. It has: "
                f"{', '.join(sorted(pool.counts))}."
            )


def _rules(config: TrainConfig, urls: list[str]) -> dict[str, Any]:
    """What the reward servers judge by, for the manifest.

    Raises:
        UserError: none can be reached, they disagree, or they judge by another match than the config asks for.
    """
    with launch.reward_client(config.reward, urls) as client:
        return launch.rules_of(config.reward, client)


def _model_hash(config: TrainConfig) -> str:
    return sha256_file(weights_key(model_folder(config)))
