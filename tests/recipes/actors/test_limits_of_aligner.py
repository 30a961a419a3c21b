"""What actor=aligner refuses before anything starts; needs neither torch nor NeMo."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.actor import ActorConfig
from conf.compose import resolve
from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes.actors.aligner.limits import FP8, ON_GPU, Machine, check_layers, check_settings, this_machine

# As conf/actor/aligner.yaml has it.
CHOSEN = resolve("train", TrainConfig, ["model=tiny", "out=run", "actor=aligner"]).actor
CPU = Machine(cuda=False, transformer_engine=False, apex=False)
GPU = Machine(cuda=True, transformer_engine=True, apex=True)
# Whatever asks for more than the settings of a key's own needs it as well.
BESIDE = {"sequence_parallel": {"tensor_parallel": 2}}


def settings(**changes: object) -> ActorConfig:
    return dataclasses.replace(CHOSEN, **changes)


def refusal(machine: Machine, **changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check_settings(settings(**changes), machine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_run_on_both() -> None:
    check_settings(settings(), CPU)
    check_settings(settings(), GPU)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, value, _, _ in ON_GPU])
def test_what_needs_a_gpu_is_named_on_a_cpu_and_taken_on_a_gpu(key: str, value: object) -> None:
    changes = {key: value, **BESIDE.get(key, {})}
    message = refusal(CPU, **changes)
    assert message.startswith(f"actor.{key}={str(value).lower()} needs CUDA under actor=aligner")
    assert "Allowed here: " in message
    check_settings(settings(**changes), GPU)


@pytest.mark.parametrize(("key", "allowed"), [(key, allowed) for key, _, _, allowed in ON_GPU])
def test_what_the_message_allows_is_allowed(key: str, allowed: str) -> None:
    words = {"null": None, "false": False}
    for word in allowed.split(", "):
        check_settings(settings(**{key: words.get(word, word)}), CPU)


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("recipe", ["current", "blockwise"])
def test_other_fp8_recipes_are_refused_by_name_everywhere(machine: Machine, recipe: str) -> None:
    message = refusal(machine, fp8=recipe)
    assert message.startswith(
        f"actor.fp8={recipe} is not allowed under actor=aligner: megatron-core 0.10 knows delayed"
    )
    assert f"Allowed: {', '.join(FP8)};" in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fp8_bf16_layers": 2}, "actor.fp8_bf16_layers=2 is not allowed under actor=aligner"),
        ({"fp8_log_probs": False}, "actor.fp8_log_probs=false is not allowed under actor=aligner"),
        ({"packing": True}, "actor.packing=true is not allowed under actor=aligner"),
        ({"pipeline_first_layers": 3}, "actor.pipeline_first_layers=3 is not allowed under actor=aligner"),
        ({"pipeline_last_layers": 3}, "actor.pipeline_last_layers=3 is not allowed under actor=aligner"),
        ({"sequence_parallel": True}, "needs actor.tensor_parallel of at least 2"),
        ({"fp8": "delayed", "transformer_engine": False}, "actor.fp8=delayed needs actor.transformer_engine=true"),
        ({"fp8": "delayed", "dtype": "float32"}, "actor.fp8=delayed needs actor.dtype=bfloat16"),
        (
            {"offload": True, "distributed_optimizer": False},
            "actor.offload=true needs actor.distributed_optimizer=true",
        ),
        ({"dtype": "float16"}, "actor.dtype=float16 is not allowed. Allowed: null, float32, bfloat16."),
        ({"recompute": "some"}, "actor.recompute=some is not allowed. Allowed: none, selective, full."),
        ({"reference": "resident"}, "actor.reference=resident is not allowed. Allowed: offload."),
    ],
)
def test_what_no_machine_runs(changes: dict[str, object], says: str) -> None:
    assert says in refusal(GPU, **changes)
    assert says in refusal(CPU, **changes)


@pytest.mark.parametrize(
    ("lacks", "changes", "says"),
    [
        ("transformer_engine", {"transformer_engine": True}, "actor.transformer_engine=true needs Transformer Engine"),
        ("transformer_engine", {"fp8": "delayed"}, "actor.fp8=delayed needs Transformer Engine"),
        (
            "apex",
            {"distributed_optimizer": True},
            "actor.distributed_optimizer=true needs apex (its DistributedFusedAdam)",
        ),
        ("apex", {}, "actor.distributed_optimizer=null needs apex (its DistributedFusedAdam)"),
        ("apex", {"distributed_optimizer": False}, "actor.dtype=null needs apex (NeMo's megatron_amp_O2)"),
    ],
)
def test_a_gpu_without_a_package_says_which_and_for_what(lacks: str, changes: dict[str, object], says: str) -> None:
    assert says in refusal(dataclasses.replace(GPU, **{lacks: False}), **changes)


@given(st.integers(1, 100), st.integers(1, 20))
def test_stages_hold_equally_many_layers(layers: int, stages: int) -> None:
    wanted = settings(pipeline_parallel=stages)
    if layers % stages == 0:
        check_layers(wanted, {"num_hidden_layers": layers})
        return
    with pytest.raises(ConfigError) as caught:
        check_layers(wanted, {"num_hidden_layers": layers})
    message = str(caught.value)
    assert f"({layers} = {layers // stages} × {stages} + {layers % stages})" in message
    for allowed in message.partition("Allowed: ")[2].rstrip(".").split(", "):
        check_layers(settings(pipeline_parallel=int(allowed)), {"num_hidden_layers": layers})


def test_this_machine_is_the_default_and_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from conf.actor import ActorConfig; from recipes.actors.aligner import limits;"
        "limits.check_settings(ActorConfig(name='aligner', dtype='float32', reference='offload'));"
        "print(sorted({'torch', 'nemo', 'nemo_aligner', 'megatron', 'apex', 'transformer_engine'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    assert isinstance(this_machine(), Machine)
