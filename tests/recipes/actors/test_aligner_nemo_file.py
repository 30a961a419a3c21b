"""A `.nemo` that `crossthink convert` wrote is Aligner's, and one that NeMo wrote is `crossthink convert`'s."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_helpers import write_small_model

from recipes.models.weights import SafetensorsFolder

LIMIT_S = 200


def convert(folder: Path, checkpoint: str, out: str, *words: str) -> None:
    """In a process of its own: NeMo's libraries are made ready before anything of megatron-core is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "convert", f"checkpoint={folder / checkpoint}", f"out={folder / out}"]
        + list(words),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_each_reads_the_others(tied: bool, tmp_path: Path) -> None:
    """Aligner's own log-probs of our file are those of actor=aligner; NeMo's file comes back bit for bit."""
    # Aligner counts rows that pad the vocabulary as ids; so that there are none, it is a multiple of 128.
    write_small_model(tmp_path / "hf", tie_word_embeddings=tied, vocab_size=512)
    convert(tmp_path, "hf", "ours.nemo")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("nemo_file_job.py")), str(tmp_path)],
        capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "log_probs.json").read_text())
    torch.testing.assert_close(torch.tensor(found["ours"]), torch.tensor(found["theirs"]), rtol=0, atol=1e-5)
    assert torch.tensor(found["ours"]).std() > 0.1, "the model tells tokens apart"
    convert(tmp_path, "theirs.nemo", "back", "trust=true", f"like={tmp_path / 'hf'}")
    one, other = (SafetensorsFolder(tmp_path / name) for name in ("hf", "back"))
    assert one.files.keys() == other.files.keys()
    assert all(torch.equal(one.read(name), other.read(name)) for name in one.files)
