"""A run's checkpoint through NeMo's trainer, in the form of an unpacked `.nemo`; loads at any parallel sizes.

`policy/model_weights` is a distributed checkpoint of NeMo's trainer: weights, Adam's state. With `model_config.yaml`
and `huggingface/` beside it, `policy` is what a `.nemo` file holds when it is unpacked, so that NeMo and Aligner
restore the weights from it as they are (`pretrained_checkpoint.restore_from_path=…/policy`), and no weight is stored
twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from nemo.utils.callbacks.dist_ckpt_io import DistributedCheckpointIO
from torch import Tensor

from recipes.actors.aligner.model import Trained
from recipes.actors.interface import Staged
from recipes.actors.mcore.dist_weights import fetch_results_here
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.rng import restore_rng, save_rng
from recipes.actors.mcore.space import reserve_space
from recipes.actors.mcore.staged import StagedState
from recipes.models.nemo_folder import HUGGINGFACE, MODEL_CONFIG, POLICY, WEIGHTS
from recipes.models.weights import write_companions


class StagingCheckpointIO(DistributedCheckpointIO):
    """NeMo's writer of distributed checkpoints, up to the point where megatron-core would fork a process to write."""

    request: AsyncRequest

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Plan the save and copy what it needs; `request` holds the rest."""
        self.request = super().save_checkpoint(checkpoint, path, storage_options)


def stage(folder: Path, trained: Trained, mesh: Mesh, name: str = POLICY) -> Staged:
    """Copy weights and optimizer into host memory, for writing them into an existing folder. Collective.

    Args:
        folder: gets the RNG states too.
        trained: the model.
        mesh: this rank's place.
        name: of the folder in it that is the unpacked `.nemo`; empty: it is that itself.

    Raises:
        OSError: not enough space, found out before anything is written.
    """
    nemo = folder / name
    if mesh.rank == 0:
        nemo.mkdir(exist_ok=not name)
    dist.barrier()
    reserve_space(folder, trained.model.gpt, mesh)
    fetch_results_here()
    writer = StagingCheckpointIO.from_config(trained.config.model, async_save=True)
    trained.trainer.strategy.checkpoint_io = writer
    trained.trainer.save_checkpoint(nemo / f"{WEIGHTS}.ckpt")  # NeMo makes a folder without the ending
    if mesh.rank == 0:
        trained.model.to_config_file(str(nemo / MODEL_CONFIG))
        (nemo / HUGGINGFACE).mkdir()
        write_companions(nemo / HUGGINGFACE, Path(trained.config.model.tokenizer.type), None)
    save_rng(folder, mesh)
    adam = [t for state in trained.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return StagedState(writer.request, [*trained.model.gpt.parameters(), *trained.model.gpt.buffers(), *adam])


def load(folder: Path, trained: Trained, mesh: Mesh, name: str = POLICY) -> None:
    """Read what was saved, at these or other parallel sizes. Collective.

    Reads torch's checkpoint metadata, which is a pickle: verify the folder first (`recipes.rl.checkpoints`).
    """
    connector = trained.trainer._checkpoint_connector  # as Aligner's `init_using_ptl` does
    connector._restore_modules_and_callbacks(folder / name / WEIGHTS)
    connector.restore_training_state()
    connector.resume_end()
    restore_rng(folder, mesh)
