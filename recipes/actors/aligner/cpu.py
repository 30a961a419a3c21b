"""Lets NeMo-Aligner 0.7.0, NeMo 2.1.0 and megatron-core 0.10.0 run without CUDA. Does nothing where CUDA exists.

Every change stands in `PATCHES`, with the file and line that need it. Three kinds:

- inside the modules of these three packages the name `torch` is a proxy whose `torch.cuda` answers for the CPU and
  whose tensor factories take device="cuda"; the real torch stays as it is for everybody else;
- names that apex or Transformer Engine would have given to one of their modules get plain torch in their place;
- `Tensor.cuda` returns the tensor. This one is global, as a method has no module whose `torch` it reads; without CUDA
  it could only raise.

A package that is missing with and without CUDA is no concern of this module: see `defects.py`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from recipes.actors.aligner.patches import Change, Loaded, Patch, Proxy, after_loading_any, apply_patches

PACKAGES = ("megatron.core", "nemo", "nemo_aligner")
CPU = torch.device("cpu")
TORCH = Proxy(torch, cuda=Proxy(torch.cuda))
"""`torch` as the three packages see it."""


def redirect_to_cpu() -> bool:
    """Redirect NeMo-Aligner, NeMo and megatron-core to the CPU. Call before any of them is imported.

    Calling again is harmless. Nothing of them is imported here: a patch is applied when its module has been loaded.

    Returns:
        Whether they are redirected: False where CUDA exists.

    Raises:
        RuntimeError: one of them has been imported already.
    """
    if torch.cuda.is_available():
        return False
    if apply_patches("cpu", PATCHES, before=PACKAGES):
        after_loading_any(PACKAGES, _see_proxy)
    return True


def _see_proxy(module: Loaded) -> None:
    if module.__dict__.get("torch") is torch:
        module.torch = TORCH


def _cuda(**names: Any) -> Change:
    return lambda _: vars(TORCH.cuda).update(names)


def _factory(name: str) -> Change:
    return lambda _: setattr(TORCH, name, _on_cpu(getattr(torch, name)))


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


def _tensor_cuda(real: Loaded) -> None:
    real.Tensor.cuda = lambda self, *args, **kwargs: self


_tensor_type = torch.Tensor.type


def _type_as_cuda(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    if dtype is not None:
        return _tensor_type(self, dtype, *args, **kwargs)
    return _tensor_type(self).replace("torch.", "torch.cuda.", 1)


def _cuda_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tensor.type() names a CUDA type while the function runs."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        torch.Tensor.type = _type_as_cuda
        try:
            return function(*args, **kwargs)
        finally:
            torch.Tensor.type = _tensor_type

    return wrapped


def _types_of_parameters(module: Loaded) -> None:
    module.DistributedOptimizer.__init__ = _cuda_types(module.DistributedOptimizer.__init__)


def _types_of_gradients(module: Loaded) -> None:
    module.clip_grad_by_total_norm_fp32 = _cuda_types(module.clip_grad_by_total_norm_fp32)


def _random_state(module: Loaded) -> None:
    module._set_cuda_rng_state = lambda state, *args: torch.set_rng_state(state)


def _strategy_without_apex(module: Loaded) -> None:
    from nemo.core.optim.mcore_optim import McoreDistributedOptimizer

    module.HAVE_APEX = True
    module.MegatronDistributedFusedAdam = type("MegatronDistributedFusedAdam", (), {})
    module.McoreDistributedOptimizer = McoreDistributedOptimizer


def _no_bert_models(module: Loaded) -> None:
    module.get_megatron_pretrained_bert_models = list


def _layers_of_megatron_core(module: Loaded) -> None:
    def get_specs(name: str, *args: Any, **kwargs: Any) -> Any:
        if name:
            raise ValueError(f"model.name={name!r} chooses layers that are GPU kernels; without CUDA leave it empty.")
        return module.get_gpt_layer_local_spec()

    module.get_specs = get_specs


def _norm_without_apex(module: Loaded) -> None:
    from megatron.core import utils

    module.amp_C = types.SimpleNamespace(multi_tensor_l2norm=utils.local_multi_tensor_l2_norm)
    module.multi_tensor_applier = utils.local_multi_tensor_applier


def _attributes_without_apex(module: Loaded) -> None:
    from megatron.core.tensor_parallel import layers

    name = "set_defaults_if_not_set_tensor_model_parallel_attributes"
    setattr(module, name, getattr(layers, name))


def _groups_without_apex(module: Loaded) -> None:
    module.FusedLayerNorm = module.FastLayerNorm = module.MixedFusedRMSNorm = (torch.nn.LayerNorm, torch.nn.RMSNorm)
    module.listify_model = lambda model: model if isinstance(model, list) else [model]


def _model_stays(module: Loaded) -> None:
    module.ModelPT.cuda = lambda self, device=None: self


def _gather_of_a_number(module: Loaded) -> None:
    def all_gather_into_tensor(output: torch.Tensor, one: torch.Tensor, **kwargs: Any) -> Any:
        return torch.distributed.all_gather_into_tensor(output, one.reshape(-1), **kwargs)

    module.torch = Proxy(TORCH, distributed=Proxy(torch.distributed, all_gather_into_tensor=all_gather_into_tensor))


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


_NLP = "nemo.collections.nlp"
_NLP_FILES = "nemo/collections/nlp"
PATCHES: tuple[Patch, ...] = (
    Patch(
        "torch.cuda.current_device", "megatron/core/tensor_parallel/layers.py", 796,
        "device=torch.cuda.current_device(),", "the device of new tensors", None, _cuda(current_device=lambda: CPU),
    ),
    Patch(
        "torch.cuda.set_device", f"{_NLP_FILES}/models/language_modeling/megatron_base_model.py", 156,
        "torch.cuda.set_device(trainer.local_rank)",
        "raises; every model calls it first", None, _cuda(set_device=_nothing),
    ),
    Patch(
        "torch.cuda.device_count", f"{_NLP_FILES}/modules/common/megatron/megatron_init.py", 229,
        "if torch.cuda.device_count() > 0:",
        "the generators of tensor-parallel ranks would stay unseeded", None, _cuda(device_count=lambda: 1),
    ),
    Patch(
        "torch.cuda.get_rng_state", "megatron/core/tensor_parallel/random.py", 129,
        "orig_rng_state = torch.cuda.get_rng_state()",
        "the tracker forks the CPU's generator", None, _cuda(get_rng_state=lambda *device: torch.get_rng_state()),
    ),
    Patch(
        "torch.cuda.manual_seed", "megatron/core/tensor_parallel/random.py", 131, "torch.cuda.manual_seed(seed)",
        "seeds nothing without CUDA: tensor-parallel ranks would draw the same weights", None,
        _cuda(manual_seed=lambda seed: torch.default_generator.manual_seed(seed)),
    ),
    Patch(
        "_set_cuda_rng_state", "megatron/core/tensor_parallel/random.py", 58,
        "default_generator = torch.cuda.default_generators[idx]",
        "sets the state of a generator that is not there", "megatron.core.tensor_parallel.random", _random_state,
    ),
    Patch(
        "torch.cuda.synchronize", "nemo_aligner/utils/utils.py", 521, "torch.cuda.synchronize()",
        "raises; nothing runs behind the CPU's back", None, _cuda(synchronize=_nothing),
    ),
    Patch(
        "torch.cuda.Stream", f"{_NLP_FILES}/models/language_modeling/megatron_base_model.py", 267,
        "cp_stream = torch.cuda.Stream()",
        "raises; only Transformer Engine would use the stream", None, _cuda(Stream=_nothing),
    ),
    Patch(
        "torch.cuda.LongTensor", "nemo_aligner/utils/text_generation_utils.py", 99,
        "context_tokens_tensor = torch.cuda.LongTensor(context_tokens)",
        "a type that this build of torch lacks", None, _cuda(LongTensor=torch.LongTensor),
    ),
    Patch(
        "torch.cuda.FloatTensor", f"{_NLP_FILES}/modules/common/megatron/clip_grads.py", 101,
        "assert isinstance(param.grad, torch.cuda.FloatTensor)",
        "gradients on the CPU are no CUDA tensors", None, _cuda(FloatTensor=torch.FloatTensor),
    ),
    Patch(
        "torch.cuda.ByteTensor", f"{_NLP_FILES}/modules/common/text_generation_utils.py", 1084,
        "done = torch.cuda.ByteTensor([0])",
        "pipeline stages before the last are told whether to go on", None, _cuda(ByteTensor=torch.ByteTensor),
    ),
    Patch(
        "torch.tensor", "nemo_aligner/utils/distributed.py", 917,
        'is_finished_tensor = torch.tensor([is_finished], dtype=torch.bool, device="cuda")',
        'device="cuda"', None, _factory("tensor"),
    ),
    Patch(
        "torch.zeros", f"{_NLP_FILES}/modules/common/megatron/clip_grads.py", 112,
        "total_norm = torch.zeros(1, device='cuda', dtype=torch.float32).squeeze()",
        'device="cuda"', None, _factory("zeros"),
    ),
    Patch(
        "torch.ones", "megatron/core/transformer/utils.py", 32,
        'return torch.triu(torch.ones(sq, sq, device="cuda"), diagonal=1).bool()',
        'device="cuda"', None, _factory("ones"),
    ),
    Patch(
        "torch.empty", "nemo_aligner/utils/utils.py", 537,
        'item.size(), dtype=item.dtype, layout=item.layout, device="cpu", pin_memory=True',
        "memory can be pinned for CUDA only", None, _factory("empty"),
    ),
    Patch(
        "Tensor.cuda", "nemo_aligner/models/nlp/gpt/megatron_gpt_reinforce_actor.py", 116,
        "val.cuda(non_blocking=True)",
        "tensors stay where they are", None, _tensor_cuda,
    ),
    Patch(
        "ModelPT.cuda", "nemo/core/classes/modelPT.py", 2080,
        'device = torch.device("cuda", torch.cuda.current_device())',
        "the model stays where it is, and says so", "nemo.core.classes.modelPT", _model_stays,
    ),
    Patch(
        "DistributedOptimizer", "megatron/core/optimizer/distrib_optimizer.py", 385,
        "elif model_param.type() == 'torch.cuda.FloatTensor':",
        "sorts parameters by the names of CUDA types", "megatron.core.optimizer.distrib_optimizer",
        _types_of_parameters,
    ),
    Patch(
        "clip_grad_by_total_norm_fp32", "megatron/core/optimizer/clip_grads.py", 158,
        "assert param.grad.type() == 'torch.cuda.FloatTensor'",
        "asks for the name of a CUDA type", "megatron.core.optimizer.optimizer", _types_of_gradients,
    ),
    Patch(
        "NLPDDPStrategy without apex", f"{_NLP_FILES}/parts/nlp_overrides.py", 210, "if not HAVE_APEX:",
        "refuses to start, and lost the optimizers' names with apex (line 78)", f"{_NLP}.parts.nlp_overrides",
        _strategy_without_apex,
    ),
    Patch(
        "get_megatron_pretrained_bert_models", f"{_NLP_FILES}/models/language_modeling/megatron/bert/bert_spec.py", 36,
        "TransformerConfig = ApexGuardDefaults",
        "NameError without Transformer Engine, when a model registers its tokenizer", f"{_NLP}.models.nlp_model",
        _no_bert_models,
    ),
    Patch(
        "get_specs", f"{_NLP_FILES}/models/language_modeling/megatron_gpt_model.py", 167,
        '"te_gpt": get_gpt_layer_with_transformer_engine_spec(num_experts, moe_grouped_gemm, fp8=fp8),',
        "makes every kind of layer to choose one, and most need Transformer Engine",
        f"{_NLP}.models.language_modeling.megatron_gpt_model", _layers_of_megatron_core,
    ),
    Patch(
        "clip_grads without apex", f"{_NLP_FILES}/modules/common/megatron/clip_grads.py", 139,
        "amp_C.multi_tensor_l2norm, dummy_overflow_buf, [grads_for_norm], False  # no per-parameter norm",
        "the gradient norm is apex' kernel", f"{_NLP}.modules.common.megatron.clip_grads", _norm_without_apex,
    ),
    Patch(
        "build_model without apex", f"{_NLP_FILES}/modules/common/megatron/build_model.py", 134,
        "set_defaults_if_not_set_tensor_model_parallel_attributes(param)",
        "apex' copy of megatron-core's function", f"{_NLP}.modules.common.megatron.build_model",
        _attributes_without_apex,
    ),
    Patch(
        "parameter groups without apex", f"{_NLP_FILES}/modules/common/megatron/utils.py", 375,
        "if isinstance(module_, (FusedLayerNorm, FastLayerNorm, MixedFusedRMSNorm)):",
        "norms are told from what decays by apex' classes", f"{_NLP}.modules.common.megatron.utils",
        _groups_without_apex,
    ),
    Patch(
        "rebalance_nd_tensor", "nemo_aligner/utils/distributed.py", 50,
        "torch.distributed.all_gather_into_tensor(batch_num_per_rank, num_samples, group=group)",
        "gloo gathers no tensor without dimensions", "nemo_aligner.utils.distributed", _gather_of_a_number,
    ),
)  # fmt: skip
