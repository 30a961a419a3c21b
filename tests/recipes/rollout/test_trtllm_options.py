"""Our settings in TensorRT-LLM's words: what is refused, which log-probs are asked for, what surrounds the process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trtllm_double import PARAMS, REQUESTS, ROWS, config, write_config

from crossthink.errors import ConfigError, UserError
from recipes.rollout.interface import RequestError
from recipes.rollout.trtllm import options
from recipes.rollout.trtllm.engine import TrtllmServed
from recipes.rollout.trtllm.surroundings import prepare


@pytest.fixture
def folder(tmp_path) -> Path:
    write_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, "processed"),
        ({"vocabulary": ROWS}, "raw"),
        ({"temperature": 0.0}, "raw"),
        ({"temperature": 0.7}, "processed"),
        ({"top_p": 0.9}, "raw"),
        ({"top_p": 0.9, "temperature": 0.7}, None),
    ],
)
def test_which_log_probs_are_asked_for(folder, changes, mode):
    limits = options.check(config(folder))
    params = replace(PARAMS, **changes)
    if mode is None:
        with pytest.raises(RequestError, match=r"top_p: 0\.9 with temperature 0\.7"):
            options.sampling_words(params, limits)
        return
    words = options.sampling_words(params, limits)
    assert words["logprobs_mode"] == mode and words["end_id"] == -1 and words["include_stop_str_in_output"]
    assert ("embedding_bias" in words) == (params.vocabulary < ROWS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trtllm_tensor_parallel": 0}, "trtllm.tensor_parallel=0"),
        ({"trtllm_kv_cache_fraction": 1.0}, "trtllm.kv_cache_fraction=1"),
        ({"trtllm_kv_cache_dtype": "int8"}, "allowed are auto, fp8"),
        ({"trtllm_dtype": "float64"}, "allowed are bfloat16, float16"),
        ({"trtllm_max_num_tokens": 8}, "max_prompt_tokens=16 is more than trtllm.max_num_tokens=8"),
        ({"trtllm_fp8_weights": True, "weights": "folder"}, "Set weights=refit"),
        ({"trtllm_fp8_weights": True, "trtllm_tensor_parallel": 4}, "blocks of 128 over trtllm.tensor_parallel=4"),
    ],
)
def test_impossible_settings(folder, changes, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        TrtllmServed(config(folder, **changes))


def test_surroundings():
    found = {
        "SLURM_JOB_START_TIME": "123", "SLURM_NODEID": "0", "PMIX_RANK": "1", "OMPI_COMM": "x", "MPI_LOCAL": "1",
        "PMI_RANK": "0", "HOME": "/root", "NCCL_CUMEM_ENABLE": "0", "CUDA_VISIBLE_DEVICES": "2,3",
    }  # fmt: skip
    removed = prepare(found)
    assert sorted(removed) == [
        "MPI_LOCAL",
        "OMPI_COMM",
        "PMIX_RANK",
        "PMI_RANK",
        "SLURM_JOB_START_TIME",
        "SLURM_NODEID",
    ]
    assert found == {
        "CROSSTHINK_SLURM_JOB_START_TIME": "123", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "2,3",
        "NCCL_CUMEM_ENABLE": "0", "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "True",
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    for gpus in ("GPU-5f2a", "", "0,MIG-1"):
        with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
            prepare({"CUDA_VISIBLE_DEVICES": gpus})


def test_seeds_are_one_a_sample():
    seeds = {options.seed_of(request, replace(PARAMS, step=step)) for request in REQUESTS for step in range(3)}
    assert len(seeds) == 3 * len(REQUESTS) and all(0 <= seed < 2**63 for seed in seeds)
