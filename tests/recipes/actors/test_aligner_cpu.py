"""NeMo-Aligner without CUDA: every patch still hits what it was written for, is still needed, and together they do."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from aligner_job import MCORE
from aligner_processes import run_all, source_line
from tiny_helpers import small_tokenizer

from recipes.actors.aligner import patches
from recipes.actors.aligner.cpu import PATCHES, redirect_to_cpu
from recipes.actors.aligner.patches import Patch

JOB = Path(__file__).with_name("aligner_job.py")
CONTROLS = ("nothing", "nothing of mcore")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks of a tensor-parallel actor found, and one process with each patch left out, and with none."""
    folder = tmp_path_factory.mktemp("aligner_cpu")
    small_tokenizer().save_pretrained(folder / "tokenizer")
    names = [*CONTROLS, "nothing again", *(patch.name for patch in PATCHES)]
    run_all([([JOB, "ranks", folder], {}), ([JOB, "without", folder, *names], {})], folder)
    outcomes = {name: json.loads((folder / f"{name}.json").read_text()) for name in ["rank_0", "rank_1", *names]}
    return outcomes | {"log": {"rank_0": (folder / "log_0.txt").read_text()}}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_the_line_that_needs_a_patch_is_there(patch: Patch) -> None:
    assert patch.text in source_line(patch)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_without_a_patch_it_fails_or_does_something_else(patch: Patch, found: dict[str, dict[str, Any]]) -> None:
    control = found[CONTROLS[patch.name in MCORE]]
    assert "error" not in control, control["error"]
    assert found[patch.name] != control


def test_a_tensor_parallel_actor_trains_saves_and_loads(found: dict[str, dict[str, Any]]) -> None:
    ranks = [found["rank_0"], found["rank_1"]]
    for rank in ranks:
        assert rank["log_probs"] == ranks[0]["log_probs"] and rank["losses"] == ranks[0]["losses"]
        assert all(math.isfinite(loss) for loss in rank["losses"]) and rank["losses"][1] < rank["losses"][0]
        assert all(norm > 0.0 for norm in rank["norms"])
        assert all(rank["trained"][name] != square for name, square in rank["weights"].items())
        assert rank["loaded"] == rank["trained"] and rank["steps"] == [2.0]
        assert len(rank["gathered"]) == 2 and rank["time_is_up"]
    split = [rank["weights"]["model.embedding.word_embeddings.weight"] for rank in ranks]
    assert split[0] != split[1], "tensor-parallel ranks drew the same weights"


def test_nemo_is_quiet(found: dict[str, dict[str, Any]]) -> None:
    log = found["log"]["rank_0"]
    assert "NeMo" not in log and "GPU available" not in log and len(log.splitlines()) < 40, log


def test_runs_can_be_compared(found: dict[str, dict[str, Any]]) -> None:
    assert found["nothing again"] == found["nothing"], "two runs with every patch differ"


def test_everybody_else_sees_the_real_torch(found: dict[str, dict[str, Any]]) -> None:
    assert found["rank_0"]["redirected"] == {"mcore": True, "here": False, "stand-ins": [], "modes": 0}


def test_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_applied", set())
    monkeypatch.setitem(sys.modules, "megatron.core", types.ModuleType("megatron.core"))
    with pytest.raises(RuntimeError, match="megatron.core has been imported before its patches were applied"):
        redirect_to_cpu()


def test_nothing_is_redirected_where_cuda_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    finders, real = list(sys.meta_path), torch.Tensor.cuda
    assert not redirect_to_cpu()
    assert sys.meta_path == finders and torch.Tensor.cuda is real
