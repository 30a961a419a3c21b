"""Qwen2, Qwen3 and Llama 3 against transformers' own models, and what of a config is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families_helpers import FAMILY_CONFIGS, REAL_SHAPES, random_model
from transformers import AutoConfig

from conf.actor import ActorConfig, OptimizerConfig
from crossthink.errors import ConfigError
from recipes.actors.interface import MicroBatch, TokenizedSample
from recipes.actors.mcore.head import head_weight
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.actors.megatron.actor import MegatronActor
from recipes.models.families import read_shape


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """This process alone."""
    yield join_mesh(1, 1)
    leave_mesh()


def make_actor(folder: Path, mesh: Mesh, **settings: object) -> MegatronActor:
    return MegatronActor(
        folder, mesh, OptimizerConfig(lr=1e-3, clip_grad=1e9), vocabulary=10**6, pad_id=0, temperature=1.0,
        micro_batch_tokens=64, seed=0, with_reference=False, settings=ActorConfig(**settings),
    )  # fmt: skip


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_logits_equal_transformers(name: str, mesh: Mesh, tmp_path: Path) -> None:
    model = random_model(name, tmp_path)
    actor = make_actor(tmp_path, mesh)
    ids_bt = torch.randint(0, model.config.vocab_size, (3, 70), generator=torch.Generator().manual_seed(2))
    actor.model.eval()
    with torch.no_grad():
        found = actor.model(ids_bt, torch.arange(70).expand_as(ids_bt), None) @ head_weight(actor.model).t()
        wanted = model(ids_bt).logits
    assert wanted.std() > 0.2, "the logits hardly differ: nothing would be compared"
    assert (found - wanted).abs().max() < 1e-5


def mean_log_prob(log_probs_bt: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return log_probs_bt[batch.mask_bt].sum(), {}


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_a_gradient_step_equals_autograds(name: str, packing: bool, mesh: Mesh, tmp_path: Path) -> None:
    """One step of Adam, whose first step moves every weight by lr against the sign of its gradient."""
    model = random_model(name, tmp_path)
    generator = torch.Generator().manual_seed(3)
    samples = [
        TokenizedSample(torch.randint(0, model.config.vocab_size, (n,), generator=generator).tolist(), 3, {})
        for n in (5, 17, 30)
    ]
    total = torch.zeros(())
    for sample in samples:
        log_probs_tv = model(torch.tensor([sample.token_ids])).logits[0].log_softmax(-1)
        labels = torch.tensor(sample.token_ids[3:])[:, None]
        total = total + log_probs_tv[2:-1].gather(1, labels).sum()
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    actor = make_actor(tmp_path, mesh, packing=packing)
    result = actor.train_step(samples, mean_log_prob, lr=1e-3)
    norm = float(sum(g.double().square().sum() for g in gradients.values()) ** 0.5)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    for tensor, moved in actor.weights():
        gradient = gradients[tensor]
        clear = gradient.abs() > 1e-3 * gradient.abs().max()
        wanted = before[tensor] - 1e-3 * gradient.sign()
        torch.testing.assert_close(moved[clear], wanted[clear], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_weights_survive_the_round_trip_bit_for_bit(name: str, mesh: Mesh, tmp_path: Path) -> None:
    saved = dict(random_model(name, tmp_path).named_parameters())  # a tied head is listed once
    streamed = dict(make_actor(tmp_path, mesh).weights())
    assert streamed.keys() == saved.keys()
    assert all(torch.equal(streamed[tensor], saved[tensor]) for tensor in saved)


@pytest.mark.parametrize("name", REAL_SHAPES)
def test_published_configs_are_read(name: str, tmp_path: Path) -> None:
    """As their config.json stands, and as transformers gives it back: the same shape."""
    config, parameters = REAL_SHAPES[name]
    shape = read_shape(config, name)
    assert shape == read_shape(AutoConfig.for_model(**config).to_dict(), name)
    table = shape.vocabulary * shape.hidden
    qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = (qkv + shape.heads * shape.head_dim) * shape.hidden + 3 * shape.mlp * shape.hidden + 2 * shape.hidden
    layer += qkv * shape.qkv_bias + 2 * shape.head_dim * shape.qk_norm
    assert shape.layers * layer + table * (1 if shape.tied else 2) + shape.hidden == parameters


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another architecture": ("qwen2", {"model_type": "gemma3"}, r"model_type is 'gemma3'.*qwen2.*qwen3.*llama"),
    "no architecture": ("qwen2", {"model_type": None}, r"model_type is 'None'"),
    "mixture of experts": ("qwen3", {"model_type": "qwen3_moe"}, r"model_type is 'qwen3_moe'"),
    "sliding window": ("qwen2", {"use_sliding_window": True}, r"use_sliding_window=True"),
    "sliding layers": ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, r"sliding_attention"),
    "yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, r"type 'yarn'.*default"),
    "yarn, old key": ("qwen2", {"rope_parameters": None, "rope_scaling": {"type": "yarn"}}, r"type 'yarn'"),
    "llama3 rope in Qwen": ("qwen3", {"rope_parameters": {"rope_type": "llama3"}}, r"type 'llama3'"),
    "another llama3 rope": (
        "llama31", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}},
        r"low_freq_factor=2\.0.*with 1 only",
    ),
    "partial rotary": ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor=0\.5"),
    "Llama with biases": ("llama", {"attention_bias": True}, r"attention_bias=True"),
    "Llama with MLP biases": ("llama", {"mlp_bias": True}, r"mlp_bias=True"),
    "Qwen3 with biases": ("qwen3", {"attention_bias": True}, r"attention_bias=True"),
    "another activation": ("llama", {"hidden_act": "gelu"}, r"hidden_act=gelu.*silu"),
    "quantised": ("llama", {"quantization_config": {"bits": 4}}, r"quantization_config"),
    "a size of nothing": ("qwen2", {"vocab_size": 0}, r"vocab_size=0"),
    "a size that is missing": ("qwen2", {"num_key_value_heads": None}, r"num_key_value_heads=None"),
    "heads that do not divide": ("qwen2", {"num_key_value_heads": 4}, r"num_key_value_heads=4 does not divide.*6 = 1"),
    "a width that does not divide": ("llama", {"hidden_size": 50, "head_dim": None}, r"50 = 8 × 6 \+ 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_results_is_refused_by_name(name: str) -> None:
    family, changes, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        read_shape(FAMILY_CONFIGS[family].to_dict() | changes, "the model")
