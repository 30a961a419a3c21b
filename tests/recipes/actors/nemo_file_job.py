"""`python nemo_file_job.py FOLDER`: Aligner's own model restored from FOLDER/ours.nemo, its log-probs and its own file.

FOLDER/hf is the Hugging Face folder of the same model. Writes log_probs.json and theirs.nemo there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def main(folder: Path) -> None:
    from recipes.actors.stack import prepare_stack

    torch.set_num_threads(1)
    prepare_stack()
    from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import MegatronGPTReinforceActorModel
    from nemo_aligner.utils.train_script_utils import resolve_and_create_trainer
    from nemo_aligner.utils.utils import load_and_override_model_config, load_from_nemo
    from omegaconf import OmegaConf

    from conf.actor import ActorConfig, OptimizerConfig
    from recipes.actors.aligner.actor import AlignerActor
    from recipes.actors.interface import TokenizedSample
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh

    generator = torch.Generator().manual_seed(0)
    tokens_bt = torch.randint(0, 90, (4, 12), generator=generator)
    mesh = join_mesh(1, 1)
    actor = AlignerActor(
        folder / "hf", mesh, OptimizerConfig(), vocabulary=10**6, pad_id=0, temperature=1.0, micro_batch_tokens=100,
        seed=0, with_reference=False, settings=ActorConfig(reference="offload"),
    )  # fmt: skip
    ours = torch.stack(actor.log_probs([TokenizedSample(row.tolist(), 1) for row in tokens_bt]))

    config = OmegaConf.create(OmegaConf.to_container(actor.trained.config))
    del config.model.override_vocab_size  # what the file itself says
    config.model = load_and_override_model_config(str(folder / "ours.nemo"), config.model)
    trainer = resolve_and_create_trainer(config, "reinforce")
    model = load_from_nemo(
        MegatronGPTReinforceActorModel, config.model, trainer, strict=True, restore_path=str(folder / "ours.nemo")
    )
    theirs = model.eval().get_inference_log_probs(tokens_bt, forward_micro_batch_size=2)
    model.save_to(str(folder / "theirs.nemo"))
    (folder / "log_probs.json").write_text(json.dumps({"ours": ours.tolist(), "theirs": theirs.tolist()}))
    leave_mesh()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
