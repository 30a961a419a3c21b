"""What leaves the device comes back bit for bit; what is not finite, or does not fit, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from layout_helpers import EPSILON, LR, VOCABULARY, rollout_samples, write_model
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from crossthink.errors import UserError
from recipes.actors.interface import MicroBatch, save
from recipes.actors.mcore import passes
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.actors.megatron.actor import MegatronActor
from recipes.actors.megatron.critic import MegatronCritic


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """This process alone."""
    yield join_mesh(1, 1)
    leave_mesh()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, tied=True)
    return folder


def make_actor(folder: Path, mesh: Mesh, **settings: object) -> MegatronActor:
    return MegatronActor(
        folder, mesh, OptimizerConfig(lr=LR, epsilon=EPSILON), vocabulary=VOCABULARY, pad_id=0, temperature=1.0,
        micro_batch_tokens=200, seed=0, with_reference=True, settings=ActorConfig(**settings),
    )  # fmt: skip


def advantage_loss(log_probs_bt: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    tokens = batch.per_token_bt
    return -(log_probs_bt * tokens["advantages"] * tokens["weights"]).sum(), {}


def weights_of(actor: MegatronActor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in actor.weights()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_offloaded_reference_is_the_resident_one(mesh: Mesh, model: Path) -> None:
    resident, offloaded = make_actor(model, mesh), make_actor(model, mesh, reference="offload")
    for actor in (resident, offloaded):
        actor.train_step(rollout_samples(1), advantage_loss, lr=1e-2)
    before = weights_of(offloaded)
    samples = rollout_samples(2)
    for one, other in zip(
        resident.log_probs(samples, reference=True), offloaded.log_probs(samples, reference=True), strict=True
    ):
        assert torch.equal(one, other)
    assert offloaded.reference is None, "one model holds both"
    assert same(before, weights_of(offloaded)), "the policy's weights came back changed"
    assert not torch.equal(resident.log_probs(samples)[0], resident.log_probs(samples, reference=True)[0])


def test_the_policy_comes_back_when_a_reference_pass_fails(mesh: Mesh, model: Path) -> None:
    actor = make_actor(model, mesh, reference="offload")
    actor.train_step(rollout_samples(1), advantage_loss, lr=1e-2)
    before = weights_of(actor)
    with pytest.raises(ZeroDivisionError), actor.reference_weights.in_place_of_own(actor.model):
        assert not same(before, weights_of(actor))
        raise ZeroDivisionError
    assert same(before, weights_of(actor))


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_state_leaves_and_comes_back(dtype: str, distributed: bool, mesh: Mesh, model: Path) -> None:
    settings = {"dtype": dtype, "distributed_optimizer": distributed}
    straight, offloading = make_actor(model, mesh, **settings), make_actor(model, mesh, offload=True, **settings)
    for step in (1, 2, 3):
        offloading.offload()
        offloading.offload()
        held = [buffer.grad_data.untyped_storage().nbytes() for buffer in offloading.engine.ddp.buffers]
        assert held and not any(held), "gradient buffers still hold memory"
        offloading.log_probs(rollout_samples(step))
        for actor in (straight, offloading):
            actor.train_step(rollout_samples(step), advantage_loss, lr=LR)
        assert same(weights_of(straight), weights_of(offloading))


def test_offload_does_nothing_where_it_is_off(mesh: Mesh, model: Path) -> None:
    actor = make_actor(model, mesh)
    actor.offload()
    assert all(buffer.grad_data.untyped_storage().nbytes() for buffer in actor.engine.ddp.buffers)


def test_an_offloaded_actor_saves_what_it_has(mesh: Mesh, model: Path, tmp_path: Path) -> None:
    actor, resumed = make_actor(model, mesh, offload=True), make_actor(model, mesh)
    actor.train_step(rollout_samples(1), advantage_loss, lr=LR)
    actor.offload()
    save(actor, tmp_path)
    resumed.load(tmp_path)
    for each in (actor, resumed):
        each.train_step(rollout_samples(2), advantage_loss, lr=LR)
    assert same(weights_of(actor), weights_of(resumed))


@pytest.mark.parametrize("settings", [{}, {"distributed_optimizer": True}, {"dtype": "bfloat16"}])
@pytest.mark.parametrize(("where", "value"), [("loss", math.nan), ("gradient", math.inf)])
def test_what_is_not_finite_changes_nothing(where: str, value: float, settings: dict, mesh: Mesh, model: Path) -> None:
    """Neither the weights nor Adam's state: the next step is that of an actor that never saw it."""
    actor, other = make_actor(model, mesh, **settings), make_actor(model, mesh, **settings)
    for each in (actor, other):
        each.train_step(rollout_samples(1), advantage_loss, lr=LR)
    before = weights_of(actor)

    def broken(log_probs_bt: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, sums = advantage_loss(log_probs_bt, batch)
        if where == "loss":  # a constant: the gradient stays finite
            return loss + value, sums
        log_probs_bt.register_hook(lambda gradient_bt: gradient_bt * value)
        return loss, sums

    result = actor.train_step(rollout_samples(2), broken, lr=LR)
    assert not result.is_finite
    assert math.isfinite(result.sums["loss"]) == (where == "gradient")
    assert same(before, weights_of(actor))
    for each in (actor, other):
        each.train_step(rollout_samples(3), advantage_loss, lr=LR)
    assert same(weights_of(actor), weights_of(other))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: 9")])
def test_out_of_memory_names_phase_shape_and_remedy(
    error: RuntimeError, mesh: Mesh, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = make_actor(model, mesh)

    def exhausted(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(passes, "run_schedule", exhausted)
    with pytest.raises(UserError, match=r"phase train.* = \d+ tokens.*micro_batch_tokens.*actor\.recompute"):
        actor.train_step(rollout_samples(1), advantage_loss, lr=LR)
    with pytest.raises(UserError, match="phase reference log-probs"):
        actor.log_probs(rollout_samples(1), reference=True)


def test_other_errors_stay_what_they_are(mesh: Mesh, model: Path) -> None:
    def wrong(log_probs_bt: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        make_actor(model, mesh).train_step(rollout_samples(1), wrong, lr=LR)


def test_bfloat16_follows_float32(mesh: Mesh, model: Path) -> None:
    """Twenty small steps: master weights add up what bfloat16 weights alone would round away."""
    single, half = make_actor(model, mesh), make_actor(model, mesh, dtype="bfloat16")
    start = weights_of(single)
    lr = 1e-4  # below half a unit in the last place of most bfloat16 weights here
    for step in range(1, 21):
        for actor in (single, half):
            actor.train_step(rollout_samples(step), advantage_loss, lr=lr)
    one, other = weights_of(single), weights_of(half)
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one])
    apart = torch.cat([(other[name].float() - start[name]).flatten() for name in one])
    assert moved.abs().mean() > 2e-4
    # The direction of all weights together; a single weight is only as good as its last place.
    assert torch.cosine_similarity(moved, apart, dim=0) > 0.8


def test_a_new_critic_values_everything_at_zero_and_learns(mesh: Mesh, model: Path, tmp_path: Path) -> None:
    def make() -> MegatronCritic:
        return MegatronCritic(
            model, mesh, OptimizerConfig(lr=LR, epsilon=EPSILON), pad_id=0, micro_batch_tokens=200, seed=0
        )

    def squared_error(values_bt: Tensor, batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = batch.per_token_bt
        assert not values_bt[~batch.mask_bt].any()
        return (tokens["weights"] * (values_bt - tokens["returns"]).square()).sum(), {}

    critic, samples = make(), rollout_samples(1)
    assert all(
        not values.any() and len(values) == s.response_length
        for values, s in zip(critic.values(samples), samples, strict=True)
    )
    losses = [critic.train_step(samples, squared_error, lr=1e-2).sums["loss"] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    save(critic, tmp_path)
    resumed = make()
    resumed.load(tmp_path)
    for one, other in zip(critic.values(samples), resumed.values(samples), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float32
