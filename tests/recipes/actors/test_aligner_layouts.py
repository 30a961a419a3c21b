"""NeMo-Aligner's engine trains as the Megatron engine does, in one process and on TP2×PP2; its checkpoints reshard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from layout_helpers import Job, final_weights, run_layouts, step_log_probs, write_model
from safetensors.torch import load_file
from tiny_helpers import small_tokenizer

ROOT = Path(__file__).parents[3]
MEGATRON_PYTHON = ROOT / ".venv" / "bin" / "python"
CASES = ("tied", "untied")
OFFLOAD = {"reference": "offload"}
Metrics = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Runs:
    """What each engine made of the same batches: metrics by job, and the folder of each launch."""

    metrics: Metrics
    folders: dict[str, Path]
    root: Path


def job(case: str, name: str, root: Path, **fields: object) -> Job:
    return Job(f"{name}-{case}", str(root / case), updates=2, settings=OFFLOAD, **fields)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Three GRPO steps of two updates each: the Megatron engine, Aligner alone, Aligner on four ranks, and from what
    those saved after two steps the third step in one process."""
    if not MEGATRON_PYTHON.exists():
        pytest.skip(f"{MEGATRON_PYTHON} is not there, the Megatron engine's environment: `make venv`")
    root = tmp_path_factory.mktemp("aligner")
    for case in CASES:
        write_model(root / case, tied=case == "tied", num_hidden_layers=4)
        small_tokenizer().save_pretrained(root / case)
    launches = {
        "megatron": (1, [job(case, "megatron", root) for case in CASES]),
        "split": (
            4,
            [
                job(
                    case, "split", root, actor="aligner", tensor=2, pipeline=2,
                    save=str(root / f"saved-{case}"), save_after=2, aside=case == "tied",
                )
                for case in CASES
            ],
        ),
        "alone": (
            1,
            [job(case, "alone", root, actor="aligner") for case in CASES]
            + [job(c, "resumed", root, actor="aligner", first=3, load=str(root / f"saved-{c}")) for c in CASES],
        ),
    }  # fmt: skip
    metrics: Metrics = {}
    folders = {}
    for launch, (world, jobs) in launches.items():
        python = {"python": str(MEGATRON_PYTHON)} if launch == "megatron" else {}
        metrics |= run_layouts(world, jobs, root / launch, **python)
        folders |= {one.name: root / launch for one in jobs}
    return Runs(metrics, folders, root)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["alone", "split"])
def test_trains_as_the_megatron_engine_does(name: str, case: str, runs: Runs) -> None:
    ours, theirs = runs.metrics[f"{name}-{case}"], runs.metrics[f"megatron-{case}"]
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() >= {"loss", "kl", "grad_norm"}
        for key in one:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    assert ours[-1]["kl"] > 1e-4, "the policy has left the reference policy"
    found, wanted = (step_log_probs(runs.folders[f"{n}-{case}"], f"{n}-{case}") for n in (name, "megatron"))
    for step in wanted:
        torch.testing.assert_close(found[step], wanted[step], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["alone", "split"])
def test_weights_move_alike(name: str, case: str, runs: Runs) -> None:
    """The difference is at most 1 % of the movement, which is at least 1e-3."""
    first = load_file(runs.root / case / "model.safetensors")
    found, wanted = (final_weights(runs.folders[f"{n}-{case}"], f"{n}-{case}") for n in (name, "megatron"))
    assert found.keys() == wanted.keys() == first.keys()
    for tensor in wanted:
        movement = (wanted[tensor] - first[tensor]).abs().max()
        assert movement >= 1e-3, tensor
        assert (found[tensor] - wanted[tensor]).abs().max() <= 0.01 * movement, tensor


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_four_ranks_is_resumed_by_one(case: str, runs: Runs) -> None:
    """Weights and Adam's state: the third step is the same, also where training went on before the copy was written."""
    resumed, whole = runs.metrics[f"resumed-{case}"], runs.metrics[f"split-{case}"][4:]
    for one, other in zip(resumed, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    one, other = (final_weights(runs.folders[n], n) for n in (f"resumed-{case}", f"split-{case}"))
    for tensor in one:
        torch.testing.assert_close(one[tensor], other[tensor], rtol=0, atol=1e-5)
