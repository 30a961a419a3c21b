"""One rank of tests/recipes/actors/test_megatron_import.py: loads every family at TP2 and PP2, compares, exports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from families_helpers import FAMILY_CONFIGS
from megatron.core import parallel_state
from transformers import AutoModelForCausalLM

from conf.actor import OptimizerConfig
from recipes.actors.interface import MicroBatch, TokenizedSample
from recipes.actors.mcore.dist_weights import DistSource, save_weights
from recipes.actors.mcore.export_weights import ExportOptions, write_hf_weights
from recipes.actors.mcore.layout import local_parameters
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.actors.megatron.actor import MegatronActor
from recipes.quiet import quiet_libraries

LAYOUTS = {"tp2": (2, 1), "pp2": (1, 2)}


def some_samples(vocabulary: int) -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(1)
    ids = (torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in (6, 19, 33))
    return [TokenizedSample(row, 4, {}) for row in ids]


def plain_sum(log_probs_bt: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return log_probs_bt[batch.mask_bt].sum(), {}


def check(folder: Path, out: Path, mesh: Mesh, state: Path) -> dict[str, float]:
    """How far this layout is from transformers: log-probs, gradient norm, weights streamed, weights read from `state`.

    Exports to `out`, and to `state` where nothing stands there yet.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    samples = some_samples(model.config.vocab_size)
    wanted = []
    for sample in samples:
        log_probs_tv = model(torch.tensor([sample.token_ids])).logits[0].log_softmax(-1)
        wanted.append(log_probs_tv[3:-1].gather(1, torch.tensor(sample.token_ids[4:])[:, None])[:, 0])
    torch.cat(wanted).sum().backward()
    norm = float(sum(p.grad.double().square().sum() for p in model.parameters()) ** 0.5)
    actor = MegatronActor(
        folder, mesh, OptimizerConfig(lr=1e-3, clip_grad=1e9), vocabulary=10**6, pad_id=0, temperature=1.0,
        micro_batch_tokens=64, seed=0, with_reference=False,
    )  # fmt: skip
    saved = dict(model.named_parameters())
    streamed = {name: tensor.clone() for name, tensor in actor.weights()}
    found = torch.cat(actor.log_probs(samples))
    mine = local_parameters(actor.model)
    (dtype,) = {tensor.dtype for tensor in mine.values()}
    write_hf_weights(
        out, actor.layout, lambda parameter: mine[parameter.name], lambda parameter: dtype,
        ExportOptions(max_file_bytes=60_000), like=folder,
    )  # fmt: skip
    if not state.exists():
        torch.distributed.barrier()
        state.mkdir(exist_ok=True)
        save_weights(state, actor.layout, mine)
    source, apart = DistSource(actor.layout, state), 0.0
    for parameter in actor.layout.held():
        local = torch.full_like(mine[parameter.name], float("nan"))
        source.fill(parameter, local)
        apart = max(apart, 0.0 if torch.equal(local, mine[parameter.name]) else 1.0)
    return {
        "state": apart,
        "log_probs": float((found - torch.cat(wanted).detach()).abs().max()),
        "grad_norm": abs(actor.train_step(samples, plain_sum, lr=0.0).grad_norm / norm - 1),
        "names": float(len(streamed.keys() ^ saved.keys())),
        "weights": max(float((streamed[name] - saved[name]).abs().max()) for name in saved),
    }


def main() -> None:
    """`import_ranks.py FOLDER`: FOLDER/models/NAME in, FOLDER/LAYOUT/NAME and FOLDER/rank_N.json out."""
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    quiet_libraries()
    found: dict[str, dict[str, float]] = {}
    for layout, (tensor, pipeline) in LAYOUTS.items():
        mesh = join_mesh(tensor, pipeline, timeout_s=60)
        for name in FAMILY_CONFIGS:
            found[f"{layout} {name}"] = check(
                root / "models" / name, root / layout / name, mesh, root / "states" / name
            )
        # The process group itself stays: a second one under the same address may never come up.
        parallel_state.destroy_model_parallel()
    (root / f"rank_{mesh.rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    leave_mesh()


if __name__ == "__main__":
    main()
