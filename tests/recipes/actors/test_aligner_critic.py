"""NeMo-Aligner's critic: its values, its training against the Megatron engine's, its server's inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from aligner_processes import run_all
from layout_helpers import Job, rollout_samples, run_layouts, write_model
from safetensors.torch import load_file, save_file
from tiny_helpers import small_tokenizer
from torch import Tensor

from recipes.models.hf_config import load_config

ROOT = Path(__file__).parents[3]
MEGATRON_PYTHON = ROOT / ".venv" / "bin" / "python"
CASES = ("tied", "untied")
OFFLOAD = {"reference": "offload"}
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
Metrics = dict[str, list[dict[str, float]]]


def job(case: str, name: str, root: Path, **fields: object) -> Job:
    return Job(f"{name}-{case}", str(root / case), critic=True, updates=2, settings=OFFLOAD, **fields)


def write_models(root: Path) -> Path:
    for case in CASES:
        write_model(root / case, tied=case == "tied", num_hidden_layers=4)
        small_tokenizer().save_pretrained(root / case)  # a NeMo model has one
    return root


def assert_equal_steps(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Loss, gradient norm, and the values before each step."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() >= {"loss", "grad_norm", "squared_values", "value_clipped"}
        for key in one:
            # A count of numbers that are unequal: rounding decides where a value has not moved.
            apart = 2.0 if key == "value_clipped" else 1e-6
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=apart), key


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("critic"))


@pytest.fixture(scope="module")
def megatron(models: Path) -> Metrics:
    """Three steps of two updates each."""
    if not MEGATRON_PYTHON.exists():
        pytest.skip(f"{MEGATRON_PYTHON} is not there, the Megatron engine's environment: `make venv`")
    jobs = [job(case, "megatron", models) for case in CASES]
    return run_layouts(1, jobs, models / "megatron", python=str(MEGATRON_PYTHON))


def test_trains_as_the_megatron_critic_does(models: Path, megatron: Metrics) -> None:
    ours = run_layouts(1, [job(case, "alone", models, actor="aligner") for case in CASES], models / "alone")
    for case in CASES:
        assert_equal_steps(ours[f"alone-{case}"], megatron[f"megatron-{case}"])
        first, *_, last = ours[f"alone-{case}"]
        assert first["squared_values"] == 0.0, "values begin at 0"
        assert last["squared_values"] > 1e-3, "the critic has learned something"


@pytest.mark.slow
def test_four_ranks_train_alike_and_one_goes_on_from_their_checkpoint(models: Path, megatron: Metrics) -> None:
    saved = {case: str(models / f"saved-{case}") for case in CASES}
    split = [
        job(case, "split", models, actor="aligner", tensor=2, pipeline=2, save=saved[case], save_after=2)
        for case in CASES
    ]
    resumed = [job(case, "resumed", models, actor="aligner", first=3, load=saved[case]) for case in CASES]
    found = run_layouts(4, split, models / "split") | run_layouts(1, resumed, models / "resumed")
    for case in CASES:
        assert_equal_steps(found[f"split-{case}"], megatron[f"megatron-{case}"])
        assert_equal_steps(found[f"resumed-{case}"], found[f"split-{case}"][4:])


@pytest.fixture(scope="module")
def served(models: Path) -> dict[str, Tensor]:
    """What a value engine and its server say of the same samples, after its head was set to `head`."""
    save_file({"head": torch.linspace(-1.0, 1.0, 32)[None]}, models / "head.safetensors")
    run_all([([Path(__file__).with_name("aligner_critic_job.py"), models / "tied", models], ALONE)], models)
    return load_file(models / "served.safetensors")


def test_values_are_the_head_on_hidden_states_before_each_token(models: Path, served: dict[str, Tensor]) -> None:
    from transformers import Qwen2ForCausalLM

    body = Qwen2ForCausalLM.from_pretrained(models / "tied", config=load_config(models / "tied")).eval().model
    head_1h = load_file(models / "head.safetensors")["head"]
    for number, sample in enumerate(rollout_samples(1)):
        with torch.no_grad():
            hidden_th = body(torch.tensor([sample.token_ids])).last_hidden_state[0]
        wanted_t = (hidden_th @ head_1h.T)[sample.prompt_length - 1 : -1, 0]
        torch.testing.assert_close(served[f"engine.{number}"], wanted_t, rtol=1e-4, atol=1e-4)


def test_the_server_gives_the_engines_values_and_steps(served: dict[str, Tensor]) -> None:
    """Through the arrays that a client sends; rows that only fill a batch up are passed over."""
    count = len(rollout_samples(1))
    for number in range(count):
        assert torch.equal(served[f"server.{number}"], served[f"engine.{number}"])
    assert served["filled_up"].eq(0).all() and served["filled_up"].shape[0] == 1
    torch.testing.assert_close(served["step.server"], served["step.engine"], rtol=1e-6, atol=0)
    assert served["step.engine"][0] > 0
