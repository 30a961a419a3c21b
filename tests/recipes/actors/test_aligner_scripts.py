"""NeMo-Aligner's own scripts against this project's reward server.

`ALIGNER_EXAMPLES` names the folder `examples` of NeMo-Aligner's sources at v0.7.0.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from aligner_nemo import LENGTH, QUESTIONS, answer, prompt
from aligner_processes import ROOT, run_all
from pytriton.client import ModelClient
from tiny_helpers import small_tokenizer
from torch.distributed import checkpoint as dcp

from crossthink.errors import EXIT_USAGE
from crossthink.procs import free_port, stop

RUN = [sys.executable, "-m", "recipes.actors.aligner.run_script"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
STEPS, PROMPTS, ROLLOUTS = 3, 4, 4
LIMIT_S = 240
EMBEDDING = "model.embedding.word_embeddings.weight"
ADAM = "name: adamw, lr: 0.001, weight_decay: 0.0, betas: [0.9, 0.98]"
SCHEDULE = "sched: {name: CosineAnnealing, warmup_steps: 0, constant_steps: 10, min_lr: 0.0001, max_steps: 100}"
COMMON = [
    "trainer.num_nodes=1", "trainer.accelerator=cpu", "trainer.precision=32", "model.megatron_amp_O2=False",
    f"model.encoder_seq_length={LENGTH}", "~model.optim", f"++model.optim={{{ADAM}, {SCHEDULE}}}",
    "++model.pipeline_model_parallel_size=1", "exp_manager.checkpoint_callback_params.save_nemo_on_train_end=False",
]  # fmt: skip


@dataclass(frozen=True)
class Server:
    """This project's reward server with its PyTriton endpoint."""

    http: int
    triton: int

    def verdicts(self) -> dict[str, int]:
        """Math items judged so far, by status."""
        page = httpx.get(f"http://127.0.0.1:{self.http}/metrics", timeout=30).text
        found = re.findall(r'verdicts_total\{.*kind="math".*status="(\w+)"\} (\d+)', page)
        counts: dict[str, int] = {}
        for status, number in found:
            counts[status] = counts.get(status, 0) + int(number)
        return counts


@pytest.fixture(scope="module")
def examples() -> Path:
    folder = os.environ.get("ALIGNER_EXAMPLES")
    if not folder:
        pytest.skip("ALIGNER_EXAMPLES does not name the folder `examples` of NeMo-Aligner's sources at v0.7.0")
    return Path(folder, "nlp", "gpt")


@pytest.fixture(scope="module")
def folder(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a policy that knows the answers half of the time, a critic, and the rows of both."""
    path = tmp_path_factory.mktemp("aligner_scripts")
    small_tokenizer().save_pretrained(path / "tokenizer")
    run_all([([Path(__file__).with_name("aligner_nemo.py"), path], {})], path)
    return path


@contextlib.contextmanager
def started(words: list[str], folder: Path, name: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A process and its log. It is asked to end, and must have ended well."""
    log = folder / f"{name}.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    with open(log, "wb") as out:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process, log
    finally:
        code = stop(process, grace_s=60)
    assert code == 0, log.read_text()[-3000:]


def wait_for(text: str, process: subprocess.Popen, log: Path) -> None:
    """Until the log has the text. Fails where the process ends first, or after LIMIT_S seconds."""
    end = time.monotonic() + LIMIT_S
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


@contextlib.contextmanager
def reward_server(folder: Path) -> Iterator[Server]:
    server = Server(free_port(), free_port())
    words = [str(Path(sys.executable).with_name("crossthink")), "serve-reward", f"port={server.http}", "workers=1"]
    words += [f"pytriton.port={server.triton}", "pytriton.data=rows.jsonl", "pytriton.tokenizer=tokenizer"]
    with started(words, folder, "reward") as (process, log):
        wait_for("NeMo-Aligner rewards on", process, log)
        yield server


def train(words: list[str], folder: Path, name: str) -> str:
    """Run a training script to its end. Returns its log."""
    with started(words, folder, name) as (process, log):
        process.wait(timeout=LIMIT_S)
    return log.read_text(errors="replace")


def actor_words(script: Path, section: str, results: Path, ranks: int) -> list[str]:
    rows = "{train: [rows.jsonl], validation: [rows.jsonl], test: [rows.jsonl]}"
    return [
        *(RUN[1:] if ranks > 1 else RUN), str(script), *COMMON, f"model.data.data_prefix={rows}",
        "pretrained_checkpoint.restore_from_path=policy.nemo", f"exp_manager.explicit_log_dir={results}",
        f"hydra.run.dir={results}", f"trainer.devices={ranks}", f"++model.tensor_model_parallel_size={ranks}",
        f"trainer.{section}.trt_llm.enable=False", f"trainer.{section}.max_steps={STEPS}",
        f"trainer.{section}.val_check_interval={STEPS}", f"trainer.{section}.initial_policy_kl_penalty=0.01",
        f"model.{section}.num_rollout_samples={PROMPTS}", f"model.{section}.num_val_samples={PROMPTS}",
        f"model.{section}.rollout_micro_batch_size={PROMPTS}", f"model.{section}.length_params.max_length=12",
        f'model.{section}.sampling_params.end_strings=["<|im_end|>"]', f"model.{section}.offload_adam_states=False",
    ]  # fmt: skip


def embedding(folder: Path) -> torch.Tensor:
    """The embedding in a distributed checkpoint."""
    reader = dcp.FileSystemReader(folder)
    size = reader.read_metadata().state_dict_metadata[EMBEDDING].size
    found = {EMBEDDING: torch.full(tuple(size), float("nan"))}
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found[EMBEDDING]


def check_training(folder: Path, results: Path, log: str, judged: dict[str, int], wanted: int) -> None:
    """Every sample was judged, some right and some wrong; the weights followed."""
    assert sum(judged.values()) == wanted and judged["correct"] > 0 and judged["wrong"] > 0, judged
    rewards = [float(value) for value in re.findall(r"train_rewards=([\d.]+)", log)]
    assert rewards and all(0.0 <= reward <= 1.0 for reward in rewards) and max(rewards) > 0.0, rewards
    unpacked = folder / "unpacked"
    shutil.unpack_archive(folder / "policy.nemo", unpacked, "tar")
    saved = [path.parent for path in results.glob("checkpoints/*/common.pt")]  # the best one and the last one
    moved = (embedding(saved[0]) - embedding(unpacked / "model_weights")).abs().max()
    assert 1e-4 < moved < 1.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_reinforce(examples: Path, folder: Path) -> None:
    script, results = examples / "train_gpt_reinforce_actor.py", folder / "reinforce"
    with reward_server(folder) as server:
        tokenizer = small_tokenizer()
        question, gold = next(iter(QUESTIONS.items()))
        ids = [tokenizer(prompt(tokenizer, question) + answer(label))["input_ids"] for label in (gold, "0")]
        inputs = {"tokens": np.array(ids), "sequence_lengths": np.array([[len(one)] for one in ids])}
        with ModelClient(f"http://127.0.0.1:{server.triton}", "reward_model", inference_timeout_s=60) as client:
            assert client.infer_batch(**inputs)["rewards"].tolist() == [[1.0], [0.0]]
        before = server.verdicts()
        words = [*TORCHRUN, f"--master_port={free_port()}", *actor_words(script, "reinforce", results, ranks=2)]
        words += [f"trainer.reinforce.num_rollouts_per_prompt={ROLLOUTS}", "model.micro_batch_size=4"]
        words += ["model.global_batch_size=16", "remote_rm.reward_model.ip=127.0.0.1", "remote_rm.pad_to_length=null"]
        log = train([*words, f"remote_rm.reward_model.port={server.triton}"], folder, "reinforce_actor")
        judged = {status: number - before.get(status, 0) for status, number in server.verdicts().items()}
    check_training(folder, results, log, judged, STEPS * PROMPTS * ROLLOUTS + PROMPTS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_ppo(examples: Path, folder: Path) -> None:
    results, port = folder / "ppo", free_port()
    critic = [
        *RUN, str(examples / "serve_ppo_critic.py"), *COMMON, f"trainer.ppo.port={port}", "trainer.devices=1",
        "trainer.ppo.combine_rm_and_critic_server=False", "pretrained_checkpoint.restore_from_path=critic.nemo",
        f"exp_manager.explicit_log_dir={folder / 'critic'}", f"hydra.run.dir={folder / 'critic'}",
        "++model.tensor_model_parallel_size=1", "model.micro_batch_size=2", "model.global_batch_size=8",
    ]  # fmt: skip
    with reward_server(folder) as server, started(critic, folder, "critic") as (_, log):
        words = [*actor_words(examples / "train_gpt_ppo_actor.py", "ppo", results, ranks=1), "model.micro_batch_size=2"]
        words += ["model.global_batch_size=4", "remote_critic_rm.combine_rm_and_critic_server=False"]
        words += ["remote_critic_rm.critic.ip=127.0.0.1", f"remote_critic_rm.critic.port={port}"]
        words += ["remote_critic_rm.reward_model.ip=127.0.0.1", f"remote_critic_rm.reward_model.port={server.triton}"]
        told = train([*words, "remote_critic_rm.pad_to_length=null"], folder, "ppo_actor")
        judged = server.verdicts()
        critic_losses = [float(value) for value in re.findall(r"loss=([\d.]+)", log.read_text(errors="replace"))]
    check_training(folder, results, told, judged, (STEPS + 1) * PROMPTS)
    assert len(critic_losses) >= STEPS and all(loss > 0.0 for loss in critic_losses), critic_losses


def test_what_is_no_script_is_refused(tmp_path: Path) -> None:
    for words, part in (([], "which script"), ([str(tmp_path / "none.py")], "none.py is no file")):
        run = subprocess.run([*RUN, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert run.returncode == EXIT_USAGE and run.stderr.startswith("crossthink: ") and part in run.stderr


def test_exit_codes_and_arguments_pass(tmp_path: Path) -> None:
    """The script is `__main__`, its folder is searched for modules, and threads that it leaves do not keep it."""
    (tmp_path / "beside.py").write_text("CODE = 7")
    (tmp_path / "script.py").write_text(
        "import sys, threading, time\nfrom beside import CODE\n"
        "assert __name__ == '__main__' and __file__ == sys.argv[0]\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print(sys.argv[1:])\nsys.exit(CODE if sys.argv[1] == 'exit' else 'failed')\n"
    )
    for word, code in (("exit", 7), ("fail", 1)):
        words = [*RUN, str(tmp_path / "script.py"), word]
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert run.returncode == code and f"['{word}']" in run.stdout, run.stderr
