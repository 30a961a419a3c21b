"""One process for test_aligner_defects.py: `python aligner_defects_job.py FOLDER` tries defects with us and without.

FOLDER holds `tokenizer/`. What came out is written to FOLDER/with and FOLDER/without, a file for each defect.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from aligner_job import BATCH, CHILD_LIMIT_S, SEQUENCE, actor_config, build, end_fork, run_actor

from recipes.actors.aligner.cpu import redirect_to_cpu
from recipes.actors.aligner.defects import DEFECTS, TRT_LLM
from recipes.actors.aligner.patches import Patch

_is_applied = True  # in this child: the patch that is tried


def _actor(folder: Path, patch: Patch) -> Any:
    found = run_actor(folder)
    return {key: found[key] for key in ("losses", "trained", "loaded", "steps")}


def _generates_in_tensorrt(folder: Path, patch: Patch) -> Any:
    sys.modules.pop(TRT_LLM, None)
    if _is_applied:
        patch.apply(torch)
    try:
        importlib.import_module(TRT_LLM).GPTGenerateTRTLLM()
    except ImportError as error:
        return [type(error).__name__, str(error)]


def _offload(folder: Path, patch: Patch) -> Any:
    from nemo.core.optim.mcore_optim import McoreDistributedOptimizer

    kind = getattr(sys.modules[patch.module], patch.name.rpartition(" ")[2])
    actor = SimpleNamespace(
        distributed_adam_offload_manager=None, to_offload_adam_states=True, with_distributed_adam=True,
        use_mcore_dist_optim=True, _optimizer=McoreDistributedOptimizer(None),
    )  # fmt: skip
    kind.offload_adam_states(actor)
    return type(actor.distributed_adam_offload_manager).__name__


def _micro_batches(folder: Path, patch: Patch) -> Any:
    """The loss with micro-batches of 1 and of 2; all responses are equally long, so they must agree."""
    model = build(actor_config(folder / "tokenizer", 1, 1, "adamw"))[1]
    found = []
    for size in (1, 2):
        model.cfg.micro_batch_size = size
        model.prepare_for_training()
        batch = {
            "response_tokens": torch.arange(BATCH * SEQUENCE).reshape(BATCH, SEQUENCE) % 250,
            "mask": torch.ones(BATCH, SEQUENCE - 1), "is_end": torch.ones(BATCH),
            "rewards_with_kl": torch.tensor([1.0, 0.0, 0.5, 0.25]), "baseline": torch.zeros(BATCH),
        }  # fmt: skip
        found.append(model.get_loss_and_metrics(batch, forward_only=True)[0])
    return found


def _nothing_ended(folder: Path, patch: Patch) -> Any:
    module, said = sys.modules[patch.module], []
    module.logging = SimpleNamespace(warning=said.append)
    kind = getattr(module, patch.name.rpartition(" ")[2])
    for ended in (0.0, 1.0):
        batch = {"is_end": torch.full((3,), ended), "rewards_with_kl": torch.zeros(3), "baseline": torch.zeros(3)}
        try:
            kind.get_loss_and_metrics(SimpleNamespace(), batch, forward_only=False)
        except KeyError as error:  # the batch holds nothing else
            assert error.args == ("response_tokens",)
    return said


def _mean_of_nothing(folder: Path, patch: Patch) -> Any:
    mean, values = sys.modules[patch.module].masked_mean, torch.arange(4.0)
    return [float(mean(values, mask)) for mask in (torch.zeros(4), torch.tensor([0.0, 1.0, 1.0, 0.0]))]


def _generate(folder: Path, patch: Patch) -> Any:
    strategy = sys.modules[patch.module].GPTModelTextGenerationStrategy
    return [strategy(SimpleNamespace(training=False, model=model)).forward_model for model in ("one", ["one"])]


def _critic_alone(folder: Path, patch: Patch) -> Any:
    from megatron.core import parallel_state

    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    model = SimpleNamespace(prepare_for_inference=lambda: None, finish_inference=lambda: None)
    server = SimpleNamespace(model=model, infer_fn=lambda inputs: inputs[0].float())
    inputs = {"inputs": np.ones((3, 4)), "sequence_length": np.ones((3, 1))}
    rewards, values = sys.modules[patch.module].CriticServerTrainer.run_inference(server, inputs)
    return [rewards, values.tolist()]


def _address(folder: Path, patch: Patch) -> Any:
    return sys.modules[patch.module].ENDPOINT_BIND_ADDRESS


def _timeouts(folder: Path, patch: Patch) -> Any:
    communicator = sys.modules[patch.module].HTTPCommunicator.create_http_communicator_from_dict
    client = communicator({"reward_model": ("127.0.0.1", 9)}).connections["reward_model"][2]
    return [client._init_timeout_s, client._inference_timeout_s]


def _libpython(folder: Path, patch: Patch) -> Any:
    return os.environ.get("LD_LIBRARY_PATH", "")


TRIALS = {
    "GPTGenerateTRTLLM": _generates_in_tensorrt,
    "offload_adam_states": _offload, "rewards of REINFORCE": _micro_batches,
    "nothing ended": _nothing_ended, "loss of the critic": _mean_of_nothing, "generation": _generate,
    "critic alone": _critic_alone, "address": _address, "timeouts": _timeouts, "libpython": _libpython,
}  # fmt: skip
"""What is tried, by the beginning of a defect's name; anything else trains, saves and loads an actor."""


def _child(folder: Path, patch: Patch, number: int) -> None:
    global _is_applied
    signal.alarm(CHILD_LIMIT_S)
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + number)
    _is_applied = folder.name == "with"
    for other in DEFECTS:
        if (other.name != patch.name or _is_applied) and other.module is not None:
            other.apply(sys.modules[other.module])
    trial = next((trial for start, trial in TRIALS.items() if patch.name.startswith(start)), _actor)
    try:
        found = trial(folder.parent, patch)
    except Exception as error:
        found = {"error": type(error).__name__, "trace": traceback.format_exc()}
    (folder / f"{patch.name}.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    redirect_to_cpu()
    DEFECTS[0].apply(torch)  # nothing can be imported without it
    for patch in DEFECTS:
        importlib.import_module(patch.module or "nemo_aligner")
    number = 0
    for kind in ("with", "without"):
        (folder / kind).mkdir()
        for patch in DEFECTS:
            number += 1
            child = os.fork()
            if child == 0:
                try:
                    _child(folder / kind, patch, number)
                finally:
                    end_fork(0)
            os.waitpid(child, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.pop("LD_LIBRARY_PATH", None)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    main(Path(sys.argv[1]))
