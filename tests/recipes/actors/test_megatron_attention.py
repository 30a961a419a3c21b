"""Scaled-dot-product attention in megatron-core's layer against megatron-core's own and the plain formula."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from recipes.actors.mcore.mesh import join_mesh, leave_mesh
from recipes.actors.megatron.attention import CausalSdpa
from recipes.actors.megatron.cpu import redirect_to_cpu


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """This process as a mesh of one."""
    join_mesh(1, 1)
    redirect_to_cpu()
    model_parallel_cuda_manual_seed(0)
    yield
    leave_mesh()


def build(kind, heads, groups, width):
    config = TransformerConfig(
        num_layers=1, hidden_size=heads * width, num_attention_heads=heads, num_query_groups=groups,
        attention_dropout=0.0, masked_softmax_fusion=False,
    )  # fmt: skip
    return kind(config, layer_number=1, attn_mask_type=AttnMaskType.causal, attention_type="self")


def some(t, b, heads, groups, width):
    draw = torch.Generator().manual_seed(t)
    return [torch.randn(t, b, n, width, generator=draw).requires_grad_() for n in (heads, groups, groups)]


def plain(query, key, value):
    """softmax(Q K / sqrt(width)) V in float64, head by head."""
    t, b, heads, width = query.shape
    rows = []
    for head in range(heads):
        group = head * key.shape[2] // heads
        q, k, v = (x[:, :, n].double().transpose(0, 1) for x, n in ((query, head), (key, group), (value, group)))
        scores = (q @ k.transpose(1, 2) / width**0.5).masked_fill(~torch.ones(t, t).tril().bool(), -torch.inf)
        rows.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.stack(rows, dim=2).flatten(2)


@pytest.mark.parametrize("heads,groups", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("t,b", [(1, 1), (7, 3), (65, 2)])
def test_values_and_gradients_equal_the_plain_formula(heads, groups, t, b):
    inputs = some(t, b, heads, groups, 8)
    found = build(CausalSdpa, heads, groups, 8)(*inputs, None)
    wanted = plain(*inputs)
    assert found.shape == (t, b, heads * 8)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        torch.autograd.grad((found * upstream).sum(), inputs),
        torch.autograd.grad((wanted * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize("heads,groups", [(4, 4), (6, 2)])
def test_it_gives_what_megatron_cores_own_gives(heads, groups):
    inputs = some(33, 2, heads, groups, 8)
    mask = ~torch.ones(1, 1, 33, 33).tril().bool()
    wanted = build(DotProductAttention, heads, groups, 8)(*inputs, mask)
    torch.testing.assert_close(build(CausalSdpa, heads, groups, 8)(*inputs, None), wanted, rtol=0, atol=1e-5)


def test_packed_sequences_do_not_see_each_other():
    """Values and gradients as of each sequence alone."""
    lengths = [5, 1, 9]
    inputs = [x[:, 0].detach().requires_grad_() for x in some(sum(lengths), 1, 6, 2, 8)]
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    packed = PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=max(lengths), max_seqlen_kv=max(lengths)
    )
    attention = build(CausalSdpa, 6, 2, 8)
    found = attention(*inputs, None, packed_seq_params=packed)
    alone = [attention(*one, None) for one in zip(*(x[:, None].split(lengths) for x in inputs), strict=True)]
    wanted = torch.cat(alone)[:, 0]
    assert found.shape == (sum(lengths), 48)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_mask_is_refused():
    with pytest.raises(AssertionError, match="padding stands on the right"):
        build(CausalSdpa, 4, 4, 8)(*some(3, 1, 4, 4, 8), torch.zeros(1, 1, 3, 3).bool())
