"""NeMo-Aligner's critic server with this project's value model: PyTriton on rank 0, which tells the others what to do.

| model | inputs | outputs |
|---|---|---|
| critic_infer | tokens, sequence_lengths | values: [b, t], at each position the value before the next token is drawn |
| critic_train | tokens, sequence_lengths, returns, prev_values, mask, lr | loss_mean, grad_norm, sums (JSON) |
| critic_save | folder, load | status: 0, or the errno of a full disk and its kind |

Names and shapes are Aligner's, where it has them. `mask` holds the weights of the tokens, which normalise the loss over
the whole step; 0 outside. What Aligner has no input for, and without which this loop's critic would be another one:
`sequence_lengths` of a training batch, `lr`, `folder`, and `load`, by which `critic_save` reads what it wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nemo_aligner.algorithms.critic_server_trainer import CriticServerTrainer
from nemo_aligner.servers.constants import ServerSignal
from nemo_aligner.utils.server_utils import lock_method
from omegaconf import OmegaConf
from pytriton.decorators import sample
from pytriton.model_config import Tensor

from recipes.actors.aligner.critic_model import ValueEngine
from recipes.actors.aligner.critic_names import PER_TOKEN
from recipes.actors.interface import LossFunction, StepResult, TokenizedSample, save


class CriticServer(CriticServerTrainer):
    """Serves a value engine on every rank of it; `run_server` returns when Triton has ended."""

    def __init__(self, engine: ValueEngine, loss: LossFunction, port: int) -> None:
        """
        Args:
            engine: this rank's.
            loss: what every training step minimises.
            port: of the HTTP server on rank 0.
        """
        # Aligner's own loop over global batches, its schedule, logger and checkpoints are not used: None.
        super().__init__(
            OmegaConf.create({"combine_rm_and_critic_server": False, "inference_micro_batch_size": 1, "port": port}),
            engine.model, engine.trained.optimizer, None, None, None, None, gbs=1, model_forward_micro_batch_size=1,
        )  # fmt: skip
        self.engine = engine
        self.loss = loss
        tokens = Tensor(name="tokens", shape=(-1, -1), dtype=np.int64)
        lengths = Tensor(name="sequence_lengths", shape=(-1, 1), dtype=np.int64)
        self.infer_inputs = tuple(Tensor(name=t.name, shape=t.shape[1:], dtype=t.dtype) for t in (tokens, lengths))
        self.train_inputs = (
            tokens,
            lengths,
            *(Tensor(name=name, shape=(-1, -1), dtype=np.float32) for name in PER_TOKEN.values()),
            Tensor(name="lr", shape=(1,), dtype=np.float64),
        )
        self.train_outputs: tuple[Tensor, ...] = (
            *self.train_outputs,
            Tensor(name="grad_norm", shape=(1,), dtype=np.float64),
            Tensor(name="sums", shape=(1,), dtype=bytes),
        )
        self.save_inputs = (
            Tensor(name="folder", shape=(1,), dtype=bytes),
            Tensor(name="load", shape=(1,), dtype=np.int64),
        )

    @sample
    @lock_method("self.lock")
    def server_train(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """One optimizer step on the batch."""
        self._tell(ServerSignal.TRAIN)
        return step_answer(self.run_training(inputs))

    @sample
    @lock_method("self.lock")
    def server_save(self, folder: np.ndarray, load: np.ndarray) -> dict[str, np.ndarray]:
        """Write the critic's part of a checkpoint into an existing folder that every rank sees, or read it."""
        self._tell(ServerSignal.SAVE)
        status = 0
        try:
            self.save((folder[0].decode(), bool(load[0])))
        except OSError as error:
            if error.errno is None:
                raise
            status = error.errno
        return {"status": np.array([status], np.int64)}

    def run_inference(self, inputs: dict[str, torch.Tensor] | None = None) -> tuple[None, np.ndarray]:
        """No rewards, and float32 [b, t] values; the value after the last token is 0. Collective, inputs on rank 0."""
        tokens_bt, lengths_b1 = _from_rank_0(inputs and (inputs["inputs"].cpu(), inputs["sequence_length"].cpu()))
        rows = [row for row, length in enumerate(lengths_b1[:, 0].tolist()) if length > 1]  # no filled-up rows
        samples = [TokenizedSample(tokens_bt[row, : int(lengths_b1[row])].tolist(), 1) for row in rows]
        values_bt = np.zeros(tokens_bt.shape, np.float32)
        for row, values in zip(rows, self.engine.values(samples), strict=True):
            values_bt[row, : len(values)] = values.numpy()
        return None, values_bt

    def run_training(self, inputs: dict[str, np.ndarray] | None = None) -> StepResult:
        """Collective, inputs on rank 0."""
        found = _from_rank_0(inputs)
        samples = []
        for row, length in enumerate(found["sequence_lengths"][:, 0].tolist()):
            # All but the first token counts as response: those of the prompt have no weight.
            per_token = {ours: torch.from_numpy(found[name][row, : length - 1]) for ours, name in PER_TOKEN.items()}
            samples.append(TokenizedSample(found["tokens"][row, :length].tolist(), 1, per_token))
        return self.engine.train_step(samples, self.loss, float(found["lr"][0]))

    def save(self, request: tuple[str, bool] | None = None) -> None:
        """Collective, folder and whether to read it on rank 0.

        Raises:
            OSError: no space left.
        """
        folder, load = _from_rank_0(request)
        if load:
            self.engine.load(Path(folder))
        else:
            save(self.engine, Path(folder))

    def _tell(self, signal: ServerSignal) -> None:
        dist.broadcast(signal.cuda(), 0)


def step_answer(result: StepResult) -> dict[str, np.ndarray]:
    """The outputs of `critic_train`."""
    return {
        "loss_mean": np.array([result.sums["loss"]], np.float32),
        "grad_norm": np.array([result.grad_norm]),
        "sums": np.array([json.dumps(result.sums).encode()]),
    }


def _from_rank_0(thing: Any) -> Any:
    found = [thing]
    dist.broadcast_object_list(found, src=0)
    return found[0]
