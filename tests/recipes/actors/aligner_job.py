"""A tiny actor of NeMo-Aligner's own, and what the tests of its CPU redirection do with it.

`python aligner_job.py ranks FOLDER`: two ranks train, save, load, redirected as a run is.
`python aligner_job.py without FOLDER NAME…`: the same in one process for each name, with that patch left out.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from recipes.actors.aligner import cpu
from recipes.actors.aligner.defects import work_round_defects
from recipes.actors.aligner.quiet import quiet_nemo

SEQUENCE, BATCH, RANKS = 24, 4, 2
ACTOR = "nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor"
CHILD_LIMIT_S = 200
MCORE = ("DistributedOptimizer", "clip_grad_by_total_norm_fp32", "nothing of mcore")
"""Names whose run takes megatron-core's optimizer, which alone needs them."""


def actor_config(tokenizer: Path, tensor: int, world: int, optimizer: str) -> dict[str, Any]:
    """What MegatronGPTReinforceActorModel and its trainer read, for a model of two layers."""
    return {
        "trainer": {
            "num_nodes": 1, "devices": world, "accelerator": "cpu", "precision": 32, "logger": False,
            "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "max_epochs": 1, "gradient_clip_val": 0.1, "reinforce": {},
        },
        "exp_manager": None,
        "model": {
            "mcore_gpt": True, "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4,
            "num_query_groups": 2, "encoder_seq_length": SEQUENCE, "max_position_embeddings": SEQUENCE,
            "position_embedding_type": "rope", "rotary_percentage": 1.0, "normalization": "rmsnorm",
            "activation": "fast-swiglu", "bias": False, "qkv_bias": True,
            "share_embeddings_and_output_weights": False, "hidden_dropout": 0.0, "attention_dropout": 0.0,
            "make_vocab_size_divisible_by": 16, "apply_query_key_layer_scaling": False,
            "tensor_model_parallel_size": tensor, "pipeline_model_parallel_size": 1, "sequence_parallel": False,
            "micro_batch_size": 1, "global_batch_size": BATCH * world // tensor, "seed": 1, "precision": 32,
            "megatron_amp_O2": False, "use_cpu_initialization": False, "transformer_engine": False,
            "apply_rope_fusion": False, "persist_layer_norm": False, "masked_softmax_fusion": False,
            "bias_activation_fusion": False, "bias_dropout_add_fusion": False, "gradient_accumulation_fusion": False,
            "gradient_as_bucket_view": True, "activations_checkpoint_granularity": None,
            "activations_checkpoint_method": None, "activations_checkpoint_num_layers": None,
            "activations_checkpoint_layers_per_pipeline": None, "data": {"data_impl": "jsonl"},
            "peft": {"peft_scheme": "none", "restore_from_path": None},
            "tokenizer": {"library": "huggingface", "type": str(tokenizer), "use_fast": True},
            "optim": {"name": optimizer, "lr": 1e-2, "weight_decay": 0.5, "betas": [0.9, 0.98]},
            "reinforce": {
                "offload_adam_states": False, "forward_micro_batch_size": 2, "trt_llm": {"enable": False},
                "length_params": {"max_length": 4, "min_length": 1},
                "sampling_params": {
                    "use_greedy": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
                    "add_BOS": False, "all_probs": False, "compute_logprob": False, "end_strings": ["<|im_end|>"],
                },
            },
        },
    }  # fmt: skip


def build(config: dict[str, Any], kind: str = f"{ACTOR}.MegatronGPTReinforceActorModel") -> tuple[Any, Any, Any]:
    """Trainer, model and optimizer, as Aligner's scripts make them."""
    from nemo_aligner.utils import train_script_utils as scripts
    from omegaconf import OmegaConf

    config = OmegaConf.create(config)
    trainer = scripts.resolve_and_create_trainer(config, "reinforce")
    module, _, name = kind.rpartition(".")
    model = getattr(importlib.import_module(module), name)(config.model, trainer)
    scripts.init_peft(model, config.model)
    scripts.init_distributed(trainer, model, False)
    nothing = torch.utils.data.TensorDataset(torch.zeros(8, 1))
    scripts.init_using_ptl(trainer, model, torch.utils.data.DataLoader(nothing), nothing)
    return trainer, model, scripts.extract_optimizer_scheduler_from_ptl_model(model)[0]


def train_step(model: Any, adam: Any, batch: dict[str, torch.Tensor]) -> tuple[float, float | None]:
    """One step on a copy of a batch. Returns the loss, and the gradient norm where NeMo clips by it."""
    from nemo_aligner.utils.train_utils import clip_gradients

    model.prepare_for_training()
    adam.zero_grad()
    model.prepare_for_training_step()
    loss = model.get_loss_and_metrics({key: tensor.clone() for key, tensor in batch.items()}, forward_only=False)[0]
    model.finish_training_step()
    norm = clip_gradients(model, model.trainer.gradient_clip_val)
    adam.step()
    model.finish_training()
    return loss, None if norm is None else float(norm)


def run_actor(folder: Path, tensor: int = 1, optimizer: str = "adamw") -> dict[str, Any]:
    """Log-probs, generation, two training steps, a distributed checkpoint saved and loaded. Returns what came out.

    megatron-core's optimizer saves no checkpoint without apex, so nothing is saved with it.
    """
    from nemo.collections.nlp.modules.common import text_generation_utils
    from nemo_aligner.utils.distributed import Timer, rebalance_nd_tensor
    from nemo_aligner.utils.utils import copy_model_states_to_cpu

    world = int(os.environ["WORLD_SIZE"])
    trainer, model, adam = build(actor_config(folder / "tokenizer", tensor, world, optimizer))
    tokens_bt = torch.randint(4, 250, (BATCH, SEQUENCE), generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"weights": _squares(model)}

    model.prepare_for_inference()
    found["log_probs"] = model.get_inference_log_probs(tokens_bt.clone()).tolist()
    prompts = {"text": tokens_bt.clone(), "length": torch.full((BATCH,), 8)}
    found["response"] = model.infer(prompts)["response_tokens"].tolist()
    model.finish_inference()
    copied = copy_model_states_to_cpu(model, megatron_amp_O2=False)
    found["copied"] = sum(float(t.double().square().sum()) for t in copied.values() if isinstance(t, torch.Tensor))

    batch = {
        "response_tokens": tokens_bt, "mask": torch.ones(BATCH, SEQUENCE - 1), "is_end": torch.ones(BATCH),
        "rewards_with_kl": torch.tensor([1.0, 0.0, 0.5, 0.25]), "baseline": torch.zeros(BATCH),
    }  # fmt: skip
    found["losses"], found["norms"] = zip(*(train_step(model, adam, batch) for _ in range(2)), strict=True)
    found["trained"] = _squares(model)
    found["time_is_up"] = _timer(Timer)
    found["gathered"] = rebalance_nd_tensor(torch.ones(1, 2), torch.distributed.group.WORLD).tolist()

    found["done"] = text_generation_utils.torch.cuda.ByteTensor([0]).tolist()  # only pipeline stages come to this line
    if optimizer != "adamw":
        return found

    checkpoint = folder / f"{optimizer}_{tensor}_{os.environ['MASTER_PORT']}.ckpt"
    trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loaded = trainer.strategy.load_checkpoint(checkpoint.with_suffix(""))
    trainer.strategy.load_model_state_dict(loaded)
    trainer.strategy.load_optimizer_state_dict(loaded)
    model.on_load_checkpoint(loaded)
    found["loaded"] = _squares(model)
    found["steps"] = sorted({float(state["step"]) for state in adam.state.values()})
    return found


def _timer(kind: Any) -> bool:
    timer = kind("0:0:0:0")
    timer.start_time()
    return timer.is_finished()


def _squares(model: torch.nn.Module) -> dict[str, float]:
    return {name: float(p.detach().double().square().sum()) for name, p in model.named_parameters()}


def _ranks(folder: Path) -> None:
    """Import once and fork the ranks: an import takes ten times as long as the rest."""
    cpu.redirect_to_cpu()
    work_round_defects()
    quiet_nemo()
    importlib.import_module(ACTOR)
    children = []
    for rank in range(RANKS):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                _rank(folder, rank)
                code = 0
            finally:
                end_fork(code)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


def end_fork(code: int) -> NoReturn:
    """End a forked process, and the server of queues that megatron-core's own saving has started in it."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    os._exit(code)


def _rank(folder: Path, rank: int) -> None:
    signal.alarm(CHILD_LIMIT_S)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    try:
        found = run_actor(folder, tensor=RANKS) | {"redirected": _seen_from_here()}
    except BaseException:
        traceback.print_exc()
        raise
    (folder / f"rank_{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _seen_from_here() -> dict[str, Any]:
    from megatron.core import parallel_state

    replaced = {**vars(cpu.TORCH), **vars(cpu.TORCH.cuda)}.values()
    real = [*vars(torch).values(), *vars(torch.cuda).values()]
    return {
        "mcore": parallel_state.torch is cpu.TORCH,
        "here": torch is cpu.TORCH,
        "stand-ins": [str(one) for one in replaced if getattr(one, "__module__", "") == cpu.__name__ and one in real],
        "modes": len(torch.overrides._get_current_function_mode_stack()),
    }


def _without(folder: Path, names: Sequence[str]) -> None:
    """Import once, then try each name in a forked child."""
    work_round_defects()
    importlib.import_module(ACTOR)
    for number, name in enumerate(names):
        child = os.fork()
        if child == 0:
            try:
                _child(folder, name, number)
            finally:
                end_fork(0)
        os.waitpid(child, 0)


def _child(folder: Path, name: str, number: int) -> None:
    signal.alarm(CHILD_LIMIT_S)
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + number)
    for patch in cpu.PATCHES:
        if patch.name != name:
            patch.apply(torch if patch.module is None else sys.modules[patch.module])
    for module_name, module in list(sys.modules.items()):
        if any(f"{module_name}.".startswith(f"{package}.") for package in cpu.PACKAGES):
            cpu._see_proxy(module)
    try:
        found: Any = run_actor(folder, optimizer="mcore_distributed_optim" if name in MCORE else "adamw")
    except BaseException:
        found = {"error": traceback.format_exc()}
    (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(key, value)
    if sys.argv[1] == "ranks":
        _ranks(Path(sys.argv[2]))
    else:
        _without(Path(sys.argv[2]), sys.argv[3:])
