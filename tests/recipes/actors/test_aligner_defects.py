"""Each known defect of NeMo-Aligner's libraries: it is still there without us, and gone with us."""

from __future__ import annotations

import json
import math
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from aligner_processes import run_all, source_line
from tiny_helpers import small_tokenizer

from recipes.actors.aligner.defects import BIND_ADDRESS, DEFECTS, INFERENCE_TIMEOUT_S, INIT_TIMEOUT_S
from recipes.actors.aligner.patches import Patch

JOB = Path(__file__).with_name("aligner_defects_job.py")
ACTORS = ("MegatronGPTReinforceActorModel", "MegatronGPTActorModel")
KINDS = (*ACTORS, "MegatronGPTCriticModel")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By "with" and "without": what came out for each defect."""
    folder = tmp_path_factory.mktemp("aligner_defects")
    small_tokenizer().save_pretrained(folder / "tokenizer")
    run_all([([JOB, folder], {})], folder)
    return {
        kind: {patch.name: json.loads((folder / kind / f"{patch.name}.json").read_text()) for patch in DEFECTS}
        for kind in ("with", "without")
    }


def error_of(outcome: Any) -> str:
    assert isinstance(outcome, dict) and "error" in outcome, outcome
    return outcome["error"]


@pytest.mark.parametrize("patch", DEFECTS, ids=lambda patch: patch.name)
def test_the_line_with_the_defect_is_there(patch: Patch) -> None:
    assert patch.text in source_line(patch)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("_enable_nvidia_optimizations", "TypeError"),
        ("_write_item", "RuntimeError"),
        ("load_common", "UnpicklingError"),
        ("steps of Adam", "AssertionError"),
    ],
)
def test_an_actor_trains_saves_and_loads(name: str, error: str, found: dict[str, dict[str, Any]]) -> None:
    assert error_of(found["without"][name]) == error
    outcome = found["with"][name]
    assert outcome["loaded"] == outcome["trained"] and outcome["steps"] == [2.0]


def test_tensorrt_llm_is_asked_for_only_where_it_is_used(found: dict[str, dict[str, Any]]) -> None:
    assert found["without"]["GPTGenerateTRTLLM"][0] == "ModuleNotFoundError"
    kind, text = found["with"]["GPTGenerateTRTLLM"]
    assert kind == "ImportError" and "trt_llm.enable=True" in text and "trt_llm.enable=False" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_offload_leaves_the_optimizer_of_megatron_core_alone(kind: str, found: dict[str, dict[str, Any]]) -> None:
    name = f"offload_adam_states of {kind}"
    assert error_of(found["without"][name]) == "TypeError" and found["with"][name] == "nullcontext"


def test_micro_batches_do_not_change_the_loss_of_reinforce(found: dict[str, dict[str, Any]]) -> None:
    assert error_of(found["without"]["rewards of REINFORCE"]) == "RuntimeError"
    one, two = found["with"]["rewards of REINFORCE"]
    assert one == pytest.approx(two, rel=1e-5) and abs(one) > 0.1


@pytest.mark.parametrize("kind", ACTORS)
def test_a_batch_in_which_nothing_ended_is_told(kind: str, found: dict[str, dict[str, Any]]) -> None:
    name = f"nothing ended in {kind}"
    assert found["without"][name] == []
    (said,) = found["with"][name]
    assert "None of the 3 responses ended" in said and "length_params.max_length" in said


def test_padding_has_no_part_in_the_loss_of_the_critic(found: dict[str, dict[str, Any]]) -> None:
    nothing, some = found["without"]["loss of the critic"]
    assert math.isnan(nothing) and some == 1.5
    assert found["with"]["loss of the critic"] == [0.0, 1.5]


def test_generation_takes_one_model(found: dict[str, dict[str, Any]]) -> None:
    name = "generation with mcore_distributed_optim"
    assert found["without"][name] == ["one", ["one"]] and found["with"][name] == ["one", "one"]


def test_a_critic_without_a_reward_model_answers(found: dict[str, dict[str, Any]]) -> None:
    assert error_of(found["without"]["critic alone"]) == "ValueError"
    assert found["with"]["critic alone"] == [None, [[1.0] * 4] * 3]


def test_the_critic_is_not_open_to_others(found: dict[str, dict[str, Any]]) -> None:
    assert found["without"]["address of the critic"] == "0.0.0.0"
    assert found["with"]["address of the critic"] == BIND_ADDRESS == "127.0.0.1"


def test_servers_are_not_waited_for_without_end(found: dict[str, dict[str, Any]]) -> None:
    assert found["without"]["timeouts of clients"] == [6000, 600000]
    assert found["with"]["timeouts of clients"] == [INIT_TIMEOUT_S, INFERENCE_TIMEOUT_S]


def test_triton_finds_the_libpython_that_runs(found: dict[str, dict[str, Any]]) -> None:
    assert found["without"]["libpython"] == ""
    assert found["with"]["libpython"] == sysconfig.get_config_var("LIBDIR")
