"""Every parallel layout trains as one process does: policy and critic, tied and untied, with one and two updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_helpers import (
    CLIP,
    EPSILON,
    KL,
    LR,
    VOCABULARY,
    Job,
    final_weights,
    rollout_samples,
    run_layouts,
    write_model,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

Metrics = dict[str, list[dict[str, float]]]

SP, FULL = {"sequence_parallel": True}, {"recompute": "full"}
OVERLAP, PACKED = {"overlap": True}, {"packing": True}
# name: (ranks, what of a Job)
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp2": (2, {"tensor": 2}),
    "tp2_sp": (2, {"tensor": 2, "settings": SP}),
    "tp2_sp_packed": (2, {"tensor": 2, "settings": SP | PACKED}),
    "pp2": (2, {"pipeline": 2}),
    "pp2_last_larger": (2, {"pipeline": 2, "settings": {"pipeline_first_layers": 1}}),
    "dp2": (2, {"settings": {"distributed_optimizer": False}}),
    "dp2_distributed": (2, {}),
    "dp2_overlap": (2, {"settings": OVERLAP | {"distributed_optimizer": False}, "bucket": 2000}),
    "dp2_distributed_overlap": (2, {"settings": OVERLAP, "bucket": 2000}),
    "tp2_recompute_full": (2, {"tensor": 2, "settings": FULL}),
    "pp2_recompute_selective": (2, {"pipeline": 2, "settings": {"recompute": "selective"}}),
    "pp2_recompute_packed": (2, {"pipeline": 2, "settings": {"recompute": "selective"} | PACKED}),
    "dp2_packed": (2, {"settings": PACKED}),
    "pp4": (4, {"pipeline": 4}),
    "tp2_pp2": (4, {"tensor": 2, "pipeline": 2}),
    "tp2_sp_pp2_recompute": (4, {"tensor": 2, "pipeline": 2, "settings": SP | FULL}),
    "tp2_sp_dp2": (4, {"tensor": 2, "settings": SP}),
    "pp2_dp2": (4, {"pipeline": 2}),
}
QUICK = ("tp2", "tp2_sp_packed", "pp2_recompute_selective", "dp2_distributed_overlap")
RELATIVE = 1e-5
# Of the loss, which may come out near 0; and of the KL, which is 0 at first.
ABSOLUTE = 2e-7


@dataclass(frozen=True)
class World:
    """Models, and what one process made of them."""

    root: Path
    alone: Metrics

    def model(self, tied: bool) -> str:
        return str(self.root / ("tied" if tied else "untied"))


def cases(*kinds: tuple[bool, int, bool], model: Callable[[bool], str], prefix: str, **layout: Any) -> list[Job]:
    """A job for each (tied, updates, critic)."""
    return [
        Job(f"{prefix}-{case_name(*kind)}", model(kind[0]), updates=kind[1], critic=kind[2], **layout) for kind in kinds
    ]


def case_name(tied: bool, updates: int, critic: bool) -> str:
    return f"{'tied' if tied else 'untied'}-{updates}-{'critic' if critic else 'policy'}"


ALL = [(tied, updates, critic) for tied in (True, False) for updates in (1, 2) for critic in (False, True)]
SOME = [(True, 2, False), (False, 1, True)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("layouts")
    for tied in (True, False):
        write_model(root / ("tied" if tied else "untied"), tied)
    found = World(root, {})
    found.alone.update(run_layouts(1, cases(*ALL, model=found.model, prefix="alone"), root / "alone"))
    return found


def check(world: World, name: str, kind: tuple[bool, int, bool], metrics: Metrics, folder: Path) -> None:
    case = case_name(*kind)
    for step, (one, other) in enumerate(zip(world.alone[f"alone-{case}"], metrics[f"{name}-{case}"], strict=True)):
        assert one["grad_norm"] > 1e-2, "nothing was learned: nothing would be compared"
        for key in one:
            assert other[key] == pytest.approx(one[key], rel=RELATIVE, abs=ABSOLUTE), (name, case, step, key)
    if not kind[2]:
        start = load_file(Path(world.model(kind[0])) / "model.safetensors")
        alone = final_weights(world.root / "alone", f"alone-{case}")
        moved = distance(start, alone)
        assert moved / sum(t.numel() for t in alone.values()) ** 0.5 > 1e-3, "the weights hardly moved"
        assert distance(alone, final_weights(folder, f"{name}-{case}")) <= 0.01 * moved, (name, case)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean distance of two sets of weights."""
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in other) ** 0.5


@dataclass(frozen=True)
class Ranks:
    """What one launch of two ranks made."""

    root: Path
    metrics: Metrics


@pytest.fixture(scope="module")
def two(world: World) -> Ranks:
    """The quick layouts, and a run that is saved and resumed, in one launch."""
    root, checkpoint = world.root / "two", str(world.root / "checkpoint")
    jobs = [job for name in QUICK for job in cases(*SOME, model=world.model, prefix=name, **LAYOUTS[name][1])]
    run = {"model": world.model(tied=True), "updates": 2}
    jobs += [
        Job("straight", **run, save=checkpoint, save_after=1),
        Job("again", **run, first=2, load=checkpoint),
        Job("elsewhere", **run, first=2, load=checkpoint, pipeline=2),
    ]
    return Ranks(root, run_layouts(2, jobs, root))


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks_train_as_one_does(name: str, world: World, two: Ranks) -> None:
    """The miniature of the matrix: each kind of parallelism once."""
    for kind in SOME:
        check(world, name, kind, two.metrics, two.root)


def test_a_distributed_optimizer_resumes(two: Ranks) -> None:
    """At the same sizes bit for bit; at others, with another optimizer, the same steps."""
    straight = two.metrics["straight"][2:]
    assert two.metrics["again"] == straight
    for one, other in zip(straight, two.metrics["elsewhere"], strict=True):
        for key in one:
            assert other[key] == pytest.approx(one[key], rel=RELATIVE, abs=ABSOLUTE), key


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_one_process_does(name: str, world: World, tmp_path: Path) -> None:
    ranks, layout = LAYOUTS[name]
    metrics = run_layouts(ranks, cases(*ALL, model=world.model, prefix=name, **layout), tmp_path / "ranks")
    for kind in ALL:
        check(world, name, kind, metrics, tmp_path / "ranks")


def test_a_process_trains_as_plain_torch_does(world: World) -> None:
    """Against transformers' Qwen2, one sequence at a time, the paper's formula and torch's own AdamW."""
    for tied in (True, False):
        for updates in (1, 2):
            case = case_name(tied, updates, False)
            model, wanted = plain_grpo(Path(world.model(tied)), updates)
            for step, (one, other) in enumerate(zip(wanted, world.alone[f"alone-{case}"], strict=True)):
                for key, value in one.items():
                    assert other[key] == pytest.approx(value, rel=RELATIVE, abs=ABSOLUTE), (case, step, key)
            start = load_file(Path(world.model(tied)) / "model.safetensors")
            final = {name: parameter.detach() for name, parameter in model.named_parameters()}
            trained = final_weights(world.root / "alone", f"alone-{case}")
            assert trained.keys() == final.keys()
            assert distance(trained, final) <= 0.01 * distance(start, final), case


def plain_grpo(folder: Path, updates: int) -> tuple[Qwen2ForCausalLM, list[dict[str, float]]]:
    """GRPO (Eq. 1 of the paper) without any of this project's training code."""
    model, reference = (Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    adam = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), eps=EPSILON, weight_decay=0.0)
    found = []
    for step in (1, 2, 3):
        samples = rollout_samples(step)
        with torch.no_grad():
            old = [response_log_probs(model, s)[0] for s in samples]
            before = [response_log_probs(reference, s)[0] for s in samples]
        size = len(samples) // updates
        for part in range(updates):
            chosen = range(part * size, (part + 1) * size)
            adam.zero_grad()
            losses, kls, entropy = [], 0.0, 0.0
            for i in chosen:
                log_probs, entropies = response_log_probs(model, samples[i])
                ratio = (log_probs - old[i]).exp()
                advantage = samples[i].per_token["advantages"]
                clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
                difference = (before[i] - log_probs).double()
                kl = difference.exp() - difference - 1
                surrogate = torch.minimum(ratio * advantage, clipped * advantage)
                losses.append((-surrogate + KL * kl).mean() / len(samples))
                kls += float(kl.detach().sum())
                entropy += float(entropies.detach().sum())
            loss = torch.stack(losses).sum()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            adam.step()
            found.append({"loss": float(loss.detach()), "grad_norm": float(norm), "kl": kls, "entropy": entropy})
    return model, found


def response_log_probs(model: Qwen2ForCausalLM, sample: Any) -> tuple[Tensor, Tensor]:
    """Log-probs of the response tokens, and the entropies of what they were drawn from, at temperature 0.9."""
    logits_tv = model(torch.tensor([sample.token_ids])).logits[0, sample.prompt_length - 1 : -1, :VOCABULARY] / 0.9
    log_probs_tv = logits_tv.log_softmax(-1)
    labels_t1 = torch.tensor(sample.token_ids)[sample.prompt_length :, None]
    return log_probs_tv.gather(1, labels_t1)[:, 0], -(log_probs_tv.exp() * log_probs_tv).sum(-1)
