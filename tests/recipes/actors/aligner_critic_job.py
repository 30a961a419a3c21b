"""Values and one step of NeMo-Aligner's critic, asked directly and as a client asks: `python … MODEL FOLDER`.

Reads FOLDER/head.safetensors, the value head; writes FOLDER/served.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layout_helpers import rollout_samples, with_tensors
from safetensors.torch import load_file, save_file

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.interface import StepResult
from recipes.actors.stack import prepare_stack


def main(model: Path, folder: Path) -> None:
    prepare_stack()
    from recipes.actors.aligner.critic import AlignerCritic
    from recipes.actors.aligner.critic_model import ValueEngine
    from recipes.actors.aligner.critic_names import INFER, TRAIN
    from recipes.actors.aligner.critic_server import CriticServer, step_answer
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.rl.losses import ValueLoss
    from recipes.rl.step import as_engine_loss

    class Direct(AlignerCritic):
        """Hands its arrays to the server without Triton."""

        def _request(self, model: str, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
            if model == INFER:
                tensors = [torch.from_numpy(inputs[name]) for name in ("tokens", "sequence_lengths")]
                filled = [torch.cat([t, torch.zeros_like(t[:1])]) for t in tensors]
                self.values_bt = server.run_inference({"inputs": filled[0], "sequence_length": filled[1]})[1]
                return {"values": self.values_bt[:-1]}
            assert model == TRAIN
            return step_answer(server.run_training(inputs))

    mesh = join_mesh(1, 1)
    engine = ValueEngine(
        model, mesh, OptimizerConfig(), micro_batch_tokens=60, seed=0, settings=ActorConfig(reference="offload")
    )
    server = CriticServer(engine, as_engine_loss(ValueLoss(clip=0.2)), port=1)
    client = Direct("http://nowhere", 1.0, str)
    with torch.no_grad():
        engine.model.gpt.rm_head.weight.copy_(load_file(folder / "head.safetensors")["head"])
    samples = rollout_samples(1)
    values = engine.values(samples)
    found = {f"engine.{n}": v for n, v in enumerate(values)}
    found |= {f"server.{n}": v.clone() for n, v in enumerate(client.values(samples))}
    found["filled_up"] = torch.from_numpy(client.values_bt[-1:].copy())
    samples = with_tensors(samples, "values", values)
    # The learning rate is 0, so that both steps start from the same weights.
    found["step.server"] = _numbers(client.train_step(samples, None, 0.0))
    found["step.engine"] = _numbers(engine.train_step(samples, server.loss, 0.0))
    save_file(found, folder / "served.safetensors")
    leave_mesh()


def _numbers(result: StepResult) -> torch.Tensor:
    return torch.tensor([result.grad_norm, *(result.sums[name] for name in sorted(result.sums))], dtype=torch.float64)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
