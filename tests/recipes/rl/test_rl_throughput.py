"""The figures of a step: FLOP/s by phase, MFU, padding, peak memory, the published peaks."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_world import table_config, table_run
from transformers import Qwen2Config

from conf.train import TrainConfig
from recipes.actors.interface import TokenizedSample
from recipes.actors.packing import micro_batches, shares
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.models.peaks import peak_tflops
from recipes.rank import _throughput
from recipes.rl.records import PhaseClock
from recipes.rl.throughput import Throughput, padding, peak_memory_mb
from recipes.run_files import read_lines

SHAPE = ModelShape("qwen2", 2, 6, 5, 3, 1, 2, 7, True, True, False, 1e4, None, 1e-6)


def throughput(**changes):
    fields = {"devices": 2, "data": 2, "micro_batch_tokens": 20, "multiple": 1, "packed": False, "peak_tflops": 1e-9}
    return Throughput(SHAPE, **(fields | changes))


def test_a_step_by_hand():
    clock = PhaseClock()
    lengths = [(3, 5), (3, 2), (4, 4), (4, 6)]
    clock.ran("rollout", "prefill", [(3, 5), (4, 4)])
    clock.ran("rollout", "decode", lengths)
    for _ in range(2):
        clock.ran("log_probs", "log_probs", lengths)
    clock.ran("train", "train", lengths[:2])
    clock.ran("train", "train", lengths[2:])
    clock.ran("train", "train_critic", lengths)
    clock.seconds = {"rollout": 2.0, "log_probs": 4.0, "train": 8.0, "refit": 1.0}
    found = throughput().metrics(clock)
    forward = sum(flops.log_prob_flops(SHAPE, *pair) for pair in lengths)
    values = sum(flops.value_flops(SHAPE, *pair) for pair in lengths)
    decoded = sum(flops.decode_flops(SHAPE, *pair) for pair in lengths)
    read = flops.prefill_flops(SHAPE, 3) + flops.prefill_flops(SHAPE, 4)
    assert found["tflops"] == pytest.approx(
        {
            "rollout": (read + decoded) / 1e12 / 2.0 / 2,
            "log_probs": 2 * forward / 1e12 / 4.0 / 2,
            "train": 3 * (forward + values) / 1e12 / 8.0 / 2,
        }
    )
    assert found["mfu"] == pytest.approx(found["tflops"]["train"] / 1e-9)
    assert found["padding"] == 0  # two ranks with one sample each an optimizer step
    assert throughput(peak_tflops=None).metrics(clock)["mfu"] is None


def test_padding_by_hand():
    """Lengths 8, 5, 4 and 2 are 7, 4, 3 and 1 positions: alone, then 4 + 4, then the last, in micro-batches of 10."""
    assert padding([5, 8, 2, 4], 1, 10) == (7 + 8 + 1, 1)
    assert padding([5, 8, 2, 4], 1, 10, multiple=8) == (8 + 16 + 8, 32 - 15)
    # Packed: 7 and 3, 4 and 1, in micro-batches of 12 and to a multiple of 8.
    assert padding([5, 8, 2, 4], 1, 12, packed=True) == (15, 0)
    assert padding([5, 8, 2, 4], 1, 12, multiple=8, packed=True) == (16 + 8, 9)
    # Rank 0 has 8 and 4, rank 1 has 5 and 2.
    assert padding([5, 8, 2, 4], 2, 20) == (14 + 8, 22 - 15)


@given(st.booleans(), st.lists(st.integers(2, 40), min_size=3, max_size=30), st.integers(1, 3), st.integers(1, 100))
def test_padding_is_that_of_the_micro_batches(packed, lengths, data, budget):
    samples = [TokenizedSample(list(range(n)), 1) for n in lengths]
    positions = real = 0
    for share in shares(lengths, data):
        for _, batch in micro_batches([samples[i] for i in share], budget, pad_id=0, packed=packed):
            positions += batch.mask_bt.numel()
            real += int(batch.mask_bt.sum())  # with prompts of one token every real position predicts a response token
    assert padding(lengths, data, budget, packed=packed) == (positions, positions - real)
    assert not packed or positions == real


@pytest.mark.parametrize(
    ("device", "number_format", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 80GB HBM3", "fp8", 1978.9),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312.0),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp8", None),
        ("NVIDIA L40S", "bfloat16", 362.05),
        ("NVIDIA L4", "bfloat16", 121.0),
        ("NVIDIA B200", "fp8", 4500.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),
        ("NVIDIA L40", "bfloat16", None),
        ("the CPU", "float32", None),
    ],
)
def test_peaks(device, number_format, peak):
    assert peak_tflops(device, number_format) == peak


def test_a_run_says_once_that_it_has_no_mfu(tmp_path, capsys):
    config = TrainConfig(micro_batch_tokens=77)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 97}
    Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2).save_pretrained(tmp_path)
    mesh = SimpleNamespace(device=torch.device("cpu"), rank=0, world=4, data=2)
    found = _throughput(config, tmp_path, mesh, SimpleNamespace(multiple=2, packed=False))
    assert (found.devices, found.data, found.micro_batch_tokens, found.multiple) == (4, 2, 77, 2)
    assert (found.shape.layers, found.shape.heads, found.peak_tflops) == (3, 4, None)
    said = capsys.readouterr().err.splitlines()  # beside what libraries warn of as they are imported
    assert said.count("mfu stays null: no peak of the CPU in float32 is known.") == 1
    mesh.rank = 1
    _throughput(config, tmp_path, mesh, SimpleNamespace(multiple=2, packed=False))
    assert "mfu" not in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_peak_memory_is_the_systems():
    found = peak_memory_mb()
    status = Path("/proc/self/status")
    if not status.is_file():
        assert found is None
    else:
        largest = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024 / 1e6
        assert 50 < found <= largest


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, {"rollout": 2, "log_probs": 1, "train": 1}),
        ({"kl": 0.0}, {"rollout": 2, "train": 1}),
        ({"updates_per_rollout": 2}, {"rollout": 2, "log_probs": 2, "train": 2}),
        ({"name": "ppo", "average": "token"}, {"rollout": 2, "log_probs": 1, "values": 1, "train": 2}),
    ],
    ids=["grpo", "no reference", "two updates", "ppo"],
)
def test_the_loop_notes_every_pass(tmp_path, monkeypatch, options, passes):
    clocks = []
    monkeypatch.setattr(Throughput, "metrics", lambda self, clock: clocks.append(clock) or {})
    table_run(table_config(tmp_path, 2, **options), throughput=throughput())
    assert len(clocks) == 2
    for clock, line in zip(clocks, read_lines(tmp_path / "metrics.jsonl"), strict=True):
        counts = {}
        for one in clock.passes:
            counts[one.phase] = counts.get(one.phase, 0) + 1
        assert counts == passes
        for kind in {one.kind for one in clock.passes} - {"prefill"}:
            lengths = [pair for one in clock.passes if one.kind == kind for pair in one.lengths]
            assert sum(map(sum, lengths)) % line["tokens"] == 0 and lengths


@pytest.mark.usefixtures("alone")
def test_the_figures_stand_in_every_line(tmp_path):
    table_run(table_config(tmp_path, 2), throughput=throughput(devices=1, data=1))
    for line in read_lines(tmp_path / "metrics.jsonl"):
        assert set(line["tflops"]) == {"rollout", "log_probs", "train"} and min(line["tflops"].values()) > 0
        assert line["mfu"] == pytest.approx(line["tflops"]["train"] / 1e-9)
        assert 0 <= line["padding"] < 1 and line["peak_memory_mb"] > 50
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"]["total"])
