"""Known defects of NeMo-Aligner 0.7.0, NeMo 2.1.0 and megatron-core 0.10.0, each worked round here and nowhere else.

They have nothing to do with CUDA: see `cpu.py` for that. Some matter to Aligner's own scripts only, because this
project's actor replaces the code; the last column says so.

| defect | actor | scripts |
|---|---|---|
| tensorrt_llm is imported whether it is used or not | x | x |
| a model needs NVIDIA's container | x | x |
| torch since 2.6 refuses a checkpoint's common part, since 2.7 the checkpoint writer | x | x |
| a checkpoint of torch's Adam fails on its step counts | x | x |
| offload_adam_states with mcore_distributed_optim: TypeError | x | x |
| REINFORCE's loss fails, or mixes samples, for micro_batch_size above 1 | own loss | x |
| a batch in which nothing ended trains nothing and says nothing | own loss | x |
| the critic's loss is NaN for a micro-batch of padding | own loss | x |
| generation with mcore_distributed_optim: RuntimeError | own rollouts | x |
| a critic without the reward model in it unpacks its values as two results | own script | x |
| the critic's server binds every address | own script | x |
| a dead server is waited for a week | own clients | x |
| PyTriton's Python stub finds another libpython | x | x |

PyTriton ends cleanly on SIGINT only, and leaves 22 MB in its cache on SIGTERM: `run_script.py` turns the one into the
other, and ends a script that has failed although PyTriton's client threads still run. mcore_distributed_optim without
Transformer Engine or apex cannot save a checkpoint (megatron-core 0.10 takes Adam's step count for a sharded tensor):
use adamw there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import typing
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from recipes.actors.aligner.patches import Change, Loaded, Patch, Proxy, apply_patches

BIND_ADDRESS = "127.0.0.1"
"""What the critic's server binds, where the environment variable CROSSTHINK_CRITIC_HOST names nothing else."""
INIT_TIMEOUT_S = 600.0
"""Seconds that a trainer waits for a server to come up. Aligner's own: 6000."""
INFERENCE_TIMEOUT_S = 3600.0
"""Seconds that it waits for an answer, a critic's training step included. Aligner's own: 600,000."""
TRT_LLM = "nemo_aligner.utils.trt_llm"


def work_round_defects() -> None:
    """Work round all of `DEFECTS`. Call before NeMo-Aligner, NeMo and megatron-core are imported; again is harmless.

    Raises:
        RuntimeError: one of them has been imported already.
    """
    apply_patches("defects", DEFECTS, before=("megatron.core", "nemo", "nemo_aligner"))


def _without_tensorrt_llm(_: Loaded) -> None:
    if importlib.util.find_spec("tensorrt_llm") is not None:
        return

    class GPTGenerateTRTLLM:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(
                "trt_llm.enable=True needs the package tensorrt_llm, which is not installed; allowed is False."
            )

    stand_in = types.ModuleType(TRT_LLM)
    vars(stand_in)["GPTGenerateTRTLLM"] = GPTGenerateTRTLLM
    sys.modules[TRT_LLM] = stand_in


def _outside_of_containers(module: Loaded) -> None:
    enable = module.MegatronBaseModel._enable_nvidia_optimizations

    def enable_in_container(self: Any) -> None:
        if "NVIDIA_PYTORCH_VERSION" in os.environ:
            enable(self)

    module.MegatronBaseModel._enable_nvidia_optimizations = enable_in_container


def _writer_of_newer_torch(module: Loaded) -> None:
    from torch.distributed.checkpoint import filesystem

    def write_item(stream: Any, data: Any, item: Any, storage_key: str) -> Any:
        plain = filesystem._StorageWriterTransforms()
        return filesystem._write_item(plain, stream, data, item, storage_key, filesystem.SerializationFormat.TORCH_SAVE)

    module._write_item = write_item


def _load_configs(module: Loaded) -> None:
    """A checkpoint's common part holds the model's config. Its classes are allowed by name, everything else is not."""
    from omegaconf import AnyNode, DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata

    allowed = [DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata, typing.Any, defaultdict, dict, list, int]

    def load(*args: Any, **kwargs: Any) -> Any:
        with torch.serialization.safe_globals(allowed):
            return torch.load(*args, **kwargs)

    module.torch = Proxy(module.torch, load=load)


def _steps_of_adam(module: Loaded) -> None:
    """torch's Adam counts steps per parameter, and megatron-core would shard that: kept per group, as by apex."""
    shard = module.optim_state_to_sharding_state
    strategy = module.NLPDDPStrategy
    load = strategy.load_optimizer_state_dict

    def shard_without_steps(state: dict[str, Any], sharded: dict[int, Any], exclude_keys: tuple[str, ...] = ()) -> None:
        steps = {number: float(entry["step"]) for number, entry in state["state"].items() if "step" in entry}
        members = [list(group["params"]) for group in state["param_groups"]]
        shard(state, sharded, exclude_keys=(*exclude_keys, "step"))
        for group, numbers in zip(state["param_groups"], members, strict=True):
            if counts := [steps[number] for number in numbers if number in steps]:
                group["step"] = max(counts)

    def load_with_steps(self: Any, checkpoint: Mapping[str, Any]) -> None:
        for state in checkpoint["optimizer_states"]:
            for group in state.get("param_groups", ()):
                if (step := group.pop("step", None)) is not None:
                    for number in group["params"]:
                        state["state"][number]["step"] = torch.tensor(step)
        load(self, checkpoint)

    module.optim_state_to_sharding_state = shard_without_steps
    strategy.load_optimizer_state_dict = load_with_steps


def _no_offload_for_mcore(name: str) -> Change:
    def change(module: Loaded) -> None:
        kind = getattr(module, name)
        offload = kind.offload_adam_states

        def offload_adam_states(self: Any) -> None:
            self.to_offload_adam_states = self.to_offload_adam_states and not self.use_mcore_dist_optim
            offload(self)

        kind.offload_adam_states = offload_adam_states

    return change


def _rewards_per_sample(module: Loaded) -> None:
    kind = module.MegatronGPTReinforceActorModel
    get = kind.get_loss_and_metrics

    def get_loss_and_metrics(self: Any, batch: dict[str, Any], forward_only: bool) -> Any:
        columns = {key: batch[key].reshape(-1, 1) for key in ("rewards_with_kl", "baseline")}
        return get(self, batch | columns, forward_only)

    kind.get_loss_and_metrics = get_loss_and_metrics


def _say_where_nothing_ended(name: str) -> Change:
    def change(module: Loaded) -> None:
        kind = getattr(module, name)
        get = kind.get_loss_and_metrics

        def get_loss_and_metrics(self: Any, batch: dict[str, Any], forward_only: bool) -> Any:
            if not forward_only and not batch["is_end"].any():
                module.logging.warning(
                    f"None of the {len(batch['is_end'])} responses ended within length_params.max_length: this step "
                    "trains nothing. Raise it, or check that the model stops at one of sampling_params.end_strings."
                )
            return get(self, batch, forward_only)

        kind.get_loss_and_metrics = get_loss_and_metrics

    return change


def _mean_of_nothing(module: Loaded) -> None:
    """The server fills a batch up with sequences that the mask takes out; a micro-batch of these has no mean."""
    mean = module.masked_mean

    def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
        return mean(values, mask, dim) if mask.any() else (values * 0).sum()

    module.masked_mean = masked_mean


def _generate_with_mcore(module: Loaded) -> None:
    kind = module.GPTModelTextGenerationStrategy
    construct = kind.__init__

    def constructed(self: Any, model: Any) -> None:
        construct(self, model)
        if isinstance(self.forward_model, list):
            self.forward_model = self.forward_model[0]

    kind.__init__ = constructed


def _values_alone(module: Loaded) -> None:
    infer = module.run_distributed_inference

    def run_distributed_inference(inputs: Any = None, infer_fn: Any = None) -> tuple[Any, Any]:
        found = infer(inputs, infer_fn)
        return found if isinstance(found, tuple) else (None, found)

    module.run_distributed_inference = run_distributed_inference


def _bind_loopback(module: Loaded) -> None:
    module.ENDPOINT_BIND_ADDRESS = os.environ.get("CROSSTHINK_CRITIC_HOST", BIND_ADDRESS)


def _shorter_timeouts(module: Loaded) -> None:
    client = module.FuturesModelClient

    def with_timeouts(url: str, name: str, **_: float) -> Any:
        return client(url, name, init_timeout_s=INIT_TIMEOUT_S, inference_timeout_s=INFERENCE_TIMEOUT_S)

    module.FuturesModelClient = with_timeouts


def _libpython(_: Loaded) -> None:
    from reward_server.protocols.aligner_server import find_libpython

    find_libpython()


_MODELS = "nemo_aligner.models.nlp.gpt"
_MODEL_FILES = "nemo_aligner/models/nlp/gpt"
_MCORE_CHECKPOINT = "megatron.core.dist_checkpointing.strategies"
_REINFORCE = f"{_MODELS}.megatron_gpt_reinforce_actor"
_PPO = f"{_MODELS}.megatron_gpt_ppo_actor"
_CRITIC = f"{_MODELS}.megatron_gpt_critic"
DEFECTS: tuple[Patch, ...] = (
    Patch(
        "GPTGenerateTRTLLM", "nemo_aligner/utils/trt_llm.py", 15, "import tensorrt_llm",
        "stands outside of the try block that is there for it", None, _without_tensorrt_llm,
    ),
    Patch(
        "_enable_nvidia_optimizations", "nemo/collections/nlp/models/language_modeling/megatron_base_model.py", 390,
        'return re.fullmatch("[0-9][0-9]\\.[0-9][0-9].*", nvidia_torch_version)',
        "TypeError outside of NVIDIA's containers, where the version is None",
        "nemo.collections.nlp.models.language_modeling.megatron_base_model", _outside_of_containers,
    ),
    Patch(
        "_write_item", "megatron/core/dist_checkpointing/strategies/filesystem_async.py", 281,
        "local_results.append(_write_item(stream, data, write_item, storage_key))",
        "torch since 2.7 wants two more arguments", f"{_MCORE_CHECKPOINT}.filesystem_async", _writer_of_newer_torch,
    ),
    Patch(
        "load_common", "megatron/core/dist_checkpointing/strategies/common.py", 72,
        "return torch.load(load_path, map_location='cpu')",
        "torch since 2.6 loads no classes that are not allowed by name", f"{_MCORE_CHECKPOINT}.common", _load_configs,
    ),
    Patch(
        "steps of Adam", "nemo/collections/nlp/parts/nlp_overrides.py", 342,
        "optim_state_to_sharding_state(optimizer_state_dict, id_to_sharded_param_map)",
        "a step count has not the shape of its parameter", "nemo.collections.nlp.parts.nlp_overrides", _steps_of_adam,
    ),
    *(
        Patch(
            f"offload_adam_states of {kind}", f"{_MODEL_FILES}/{module.rpartition('.')[2]}.py", line,
            "self._optimizer.state_dict(state_dict_format=1, gather_on_root=False)",
            "arguments of apex' optimizer; megatron-core's takes none", module, _no_offload_for_mcore(kind),
        )
        for module, kind, line in (
            (_REINFORCE, "MegatronGPTReinforceActorModel", 366),
            (_PPO, "MegatronGPTActorModel", 390),
            (_CRITIC, "MegatronGPTCriticModel", 191),
        )
    ),
    Patch(
        "rewards of REINFORCE", f"{_MODEL_FILES}/megatron_gpt_reinforce_actor.py", 135,
        "reinforce_loss = -1 * curr_log_probs * (rewards_with_kl - baseline)",
        "a reward for each sample against log-probs for each sample and token", _REINFORCE, _rewards_per_sample,
    ),
    *(
        Patch(
            f"nothing ended in {kind}", f"{_MODEL_FILES}/{module.rpartition('.')[2]}.py", line,
            "# hack to disable this update since there are no valid tokens",
            "a loss of 0 looks like success", module, _say_where_nothing_ended(kind),
        )
        for module, kind, line in (
            (_REINFORCE, "MegatronGPTReinforceActorModel", 140),
            (_PPO, "MegatronGPTActorModel", 153),
        )
    ),
    Patch(
        "loss of the critic", f"{_MODEL_FILES}/megatron_gpt_critic.py", 178,
        "loss = 0.5 * masked_mean(torch.max(v_loss1, v_loss2), mask)",
        "NaN where the mask is empty, and the server fills batches up with empty masks", _CRITIC, _mean_of_nothing,
    ),
    Patch(
        "generation with mcore_distributed_optim", "nemo/collections/nlp/modules/common/text_generation_strategy.py",
        273, "self.forward_model = self.model.model",
        "is a list already, and a list of it is made later",
        "nemo.collections.nlp.modules.common.text_generation_strategy", _generate_with_mcore,
    ),
    Patch(
        "critic alone",
        "nemo_aligner/algorithms/critic_server_trainer.py",
        272,
        "rewards, values = run_distributed_inference(inputs, self.infer_fn)",
        "with combine_rm_and_critic_server=False there is one result, an array of as many values as sequences",
        "nemo_aligner.algorithms.critic_server_trainer",
        _values_alone,
    ),
    Patch(
        "address of the critic", "nemo_aligner/algorithms/critic_server_trainer.py", 42,
        'ENDPOINT_BIND_ADDRESS = "0.0.0.0"',
        "PyTriton has no authentication", "nemo_aligner.algorithms.critic_server_trainer", _bind_loopback,
    ),
    Patch(
        "timeouts of clients", "nemo_aligner/servers/http_communicator.py", 41, "inference_timeout_s=600000",
        "a server that has died is not told from a slow one", "nemo_aligner.servers.http_communicator",
        _shorter_timeouts,
    ),
    Patch(
        "libpython", "pytriton/server/triton_server.py", 253,
        'env["LD_LIBRARY_PATH"] += ":" + self._server_libs_path.as_posix()',
        "Triton's Python stub asks the dynamic linker for libpython by its name", "pytriton.server.triton_server",
        _libpython,
    ),
)  # fmt: skip
