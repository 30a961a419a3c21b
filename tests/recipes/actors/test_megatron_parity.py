"""The Megatron model against transformers' Qwen2, and its weights there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uneven_helpers import make_uneven

from conf.actor import ActorConfig, OptimizerConfig
from crossthink.errors import UserError
from recipes.actors.interface import MicroBatch, TokenizedSample, save
from recipes.actors.mcore.head import head_weight
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.actors.megatron.actor import MegatronActor

VOCABULARY = 90  # of the 96 rows of the embedding: the rest is padding that nobody may sample


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """This process alone."""
    yield join_mesh(1, 1)
    leave_mesh()


def save_model(folder: Path, tied: bool, **changes: int) -> Qwen2ForCausalLM:
    """A random Qwen2 with uneven biases and norms, so that a forgotten or swapped one shows."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2} | changes
    config = Qwen2Config(
        vocab_size=96, hidden_size=48, intermediate_size=80, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, dtype="float32", **shape,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    make_uneven(model)
    model.save_pretrained(folder)
    return model


def make_actor(folder: Path, mesh: Mesh, **changes: object) -> MegatronActor:
    options = {
        "vocabulary": VOCABULARY, "pad_id": 0, "temperature": 1.0, "micro_batch_tokens": 64, "seed": 0,
        "with_reference": False,
    } | changes  # fmt: skip
    return MegatronActor(folder, mesh, OptimizerConfig(lr=1e-3, clip_grad=1e9), **options)


def some_samples(count: int = 7) -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        prompt, response = 3 + number % 4, 1 + 5 * number
        ids = torch.randint(0, VOCABULARY, (prompt + response,), generator=generator).tolist()
        found.append(TokenizedSample(ids, prompt, {"weights": torch.randn(response, generator=generator)}))
    return found


def reference_log_probs(model: Qwen2ForCausalLM, sample: TokenizedSample, temperature: float = 1.0) -> torch.Tensor:
    """One sequence alone, in plain transformers and plain softmax."""
    logits_tv = model(torch.tensor([sample.token_ids])).logits[0, :, :VOCABULARY] / temperature
    labels = torch.tensor(sample.token_ids)[sample.prompt_length :, None]
    return logits_tv.log_softmax(-1)[sample.prompt_length - 1 : -1].gather(1, labels)[:, 0]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_equal_transformers(tied: bool, mesh: Mesh, tmp_path: Path) -> None:
    model = save_model(tmp_path, tied)
    actor = make_actor(tmp_path, mesh)
    ids_bt = torch.randint(0, 96, (3, 40), generator=torch.Generator().manual_seed(2))
    positions_bt = torch.arange(40).expand_as(ids_bt)
    actor.model.eval()
    with torch.no_grad():
        logits_btv = actor.model(ids_bt, positions_bt, None) @ head_weight(actor.model).t()
        difference = (logits_btv - model(ids_bt).logits).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_survive_the_round_trip_bit_for_bit(tied: bool, mesh: Mesh, tmp_path: Path) -> None:
    saved = dict(save_model(tmp_path, tied).named_parameters())  # a tied head is listed once
    streamed = dict(make_actor(tmp_path, mesh).weights())
    assert streamed.keys() == saved.keys()
    assert all(torch.equal(streamed[name], saved[name]) for name in saved)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_equal_transformers(temperature: float, packing: bool, mesh: Mesh, tmp_path: Path) -> None:
    """Of sequences alone, although the actor pads or packs them; in the order given; at the sampling temperature."""
    model = save_model(tmp_path, tied=False)
    actor = make_actor(tmp_path, mesh, temperature=temperature, settings=ActorConfig(packing=packing))
    samples = some_samples()
    for sample, found in zip(samples, actor.log_probs(samples), strict=True):
        wanted = reference_log_probs(model, sample, temperature).detach()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def weighted_sum(log_probs_bt: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return (log_probs_bt * batch.per_token_bt["weights"]).sum(), {"tokens": batch.mask_bt.sum()}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("budget", "packing"), [(1, False), (64, False), (64, True), (100_000, False), (100_000, True)]
)
def test_gradient_norm_equals_autograd_for_any_split(
    tied: bool, budget: int, packing: bool, mesh: Mesh, tmp_path: Path
) -> None:
    model = save_model(tmp_path, tied)
    samples = some_samples()
    total = sum((reference_log_probs(model, s) * s.per_token["weights"]).sum() for s in samples)
    total.backward()
    norm = sum(p.grad.double().square().sum() for p in model.parameters()) ** 0.5
    actor = make_actor(tmp_path, mesh, micro_batch_tokens=budget, settings=ActorConfig(packing=packing))
    result = actor.train_step(samples, weighted_sum, lr=0.0)
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert result.sums["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert result.sums["tokens"] == sum(s.response_length for s in samples)


def test_a_step_equals_torchs_adamw(mesh: Mesh, tmp_path: Path) -> None:
    model = save_model(tmp_path, tied=True)
    samples = some_samples()
    actor = make_actor(tmp_path, mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for _ in range(3):
        actor.train_step(samples, weighted_sum, lr=1e-3)
        optimizer.zero_grad()
        sum((reference_log_probs(model, s) * s.per_token["weights"]).sum() for s in samples).backward()
        optimizer.step()
    trained, wanted = dict(actor.weights()), dict(model.named_parameters())
    for name in wanted:
        # Adam divides by the size of tiny gradients, so a few entries differ in the fifth digit.
        torch.testing.assert_close(trained[name], wanted[name].detach(), rtol=1e-4, atol=2e-5)


def test_entropy_equals_the_plain_formula(mesh: Mesh, tmp_path: Path) -> None:
    model = save_model(tmp_path, tied=False)
    samples = some_samples(4)
    samples[1].per_token["weights"].zero_()  # a sample that does not count
    result = make_actor(tmp_path, mesh).train_step(samples, weighted_sum, lr=0.0)
    wanted = 0.0
    for sample in (samples[0], *samples[2:]):
        logits_tv = model(torch.tensor([sample.token_ids])).logits[0, sample.prompt_length - 1 : -1, :VOCABULARY]
        wanted += torch.distributions.Categorical(logits=logits_tv).entropy().sum().item()
    assert result.sums["entropy"] == pytest.approx(wanted, rel=1e-5)


def test_reference_stays_where_training_began(mesh: Mesh, tmp_path: Path) -> None:
    save_model(tmp_path, tied=True)
    actor = make_actor(tmp_path, mesh, with_reference=True)
    samples = some_samples()
    before = actor.log_probs(samples)
    actor.train_step(samples, weighted_sum, lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, actor.log_probs(samples, reference=True), strict=True))
    assert not torch.allclose(before[-1], actor.log_probs(samples)[-1], atol=1e-3)


def test_save_and_load_restore_everything(mesh: Mesh, tmp_path: Path) -> None:
    """Weights, Adam's moments and step: the next steps are the same, bit for bit."""
    save_model(tmp_path / "model", tied=True)
    (tmp_path / "checkpoint").mkdir()
    samples = some_samples()
    straight = make_actor(tmp_path / "model", mesh)
    straight.train_step(samples, weighted_sum, lr=1e-3)
    save(straight, tmp_path / "checkpoint")
    resumed = make_actor(tmp_path / "model", mesh)
    resumed.load(tmp_path / "checkpoint")
    for actor in (straight, resumed):
        for _ in range(2):
            actor.train_step(samples, weighted_sum, lr=1e-3)
    one, other = dict(straight.weights()), dict(resumed.weights())
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_another_dtype_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tied=True)
    (tmp_path / "checkpoint").mkdir()
    save(make_actor(tmp_path / "model", mesh), tmp_path / "checkpoint")
    half = make_actor(tmp_path / "model", mesh, settings=ActorConfig(dtype="bfloat16"))
    with pytest.raises(UserError, match=r"as torch\.float32.*bfloat16.*actor\.dtype=float32"):
        half.load(tmp_path / "checkpoint")


def test_missing_tensor_is_named(mesh: Mesh, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, tied=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        make_actor(tmp_path, mesh)


def test_misshapen_tensor_is_named(mesh: Mesh, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, tied=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(47)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight.*\(47,\).*\(48,\)"):
        make_actor(tmp_path, mesh)


def test_the_redirection_touches_only_megatron_core() -> None:
    """The real torch stays as it is; megatron-core's modules see the proxy (where there is no CUDA)."""
    import megatron.core.optimizer.optimizer as theirs

    from recipes.actors.megatron import cpu

    before = (torch.zeros, torch.Tensor.type, torch.Tensor.cuda)
    assert cpu.redirect_to_cpu() is not torch.cuda.is_available()
    assert (torch.zeros, torch.Tensor.type, torch.Tensor.cuda) == before
    if not torch.cuda.is_available():
        assert theirs.torch is not torch
        assert theirs.torch.zeros(2, device="cuda").device.type == "cpu"
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(2, device="cuda")


def test_the_redirection_does_nothing_where_cuda_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.actors.megatron import cpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu.redirect_to_cpu() is False
