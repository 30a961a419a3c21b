"""The worker processes of `benchmarks/step.py`: what they are asked for, and taking turns with them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
ROOT = HERE.parent
TRL_VENV = ROOT / ".venv-trl"
DIFFERENT_PROMPTS = 64
END_SECONDS = 60.0


@dataclass(frozen=True)
class Model:
    """A Qwen2 by its sizes; four heads, two groups of keys and values."""

    name: str
    hidden: int
    mlp: int
    layers: int


@dataclass(frozen=True)
class Case:
    """What one step does. `micro_batch` and `generation_batch` count samples.

    With `mean_tokens` so many ids end a response that it has about that many tokens, and at most `response_tokens`:
    with random weights any token may be the last, so lengths are long-tailed (geometric). Without, none ends one.
    """

    model: Model
    prompts: int
    response_tokens: int
    micro_batch: int
    generation_batch: int
    kl: float = 0.0
    prompt_tokens: int = 32
    group: int = 8
    lr: float = 1e-5
    threads: int = 2
    mean_tokens: int | None = None

    @property
    def samples(self) -> int:
        """Responses of a step: a group a prompt."""
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of a step, at most."""
        return self.samples * (self.prompt_tokens + self.response_tokens)

    def texts(self) -> list[str]:
        """Prompts of digits, each of which is one token."""
        draw = random.Random(0)
        return ["".join(draw.choices("0123456789", k=self.prompt_tokens)) for _ in range(DIFFERENT_PROMPTS)]


class WorkerError(RuntimeError):
    """A worker process ended when it should have answered; says its last words."""


@dataclass(frozen=True)
class Worker:
    """A process that runs steps of a case when it is told to (`step_turns`), and the file of its stderr."""

    process: subprocess.Popen
    errors: IO[str]

    def turn(self, steps: int) -> tuple[list[dict[str, float]], float]:
        """Run `steps` steps. Returns the seconds of each by phase, and the peak memory so far in MB.

        Raises:
            WorkerError: the process ended.
        """
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(steps, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise WorkerError(f"{self.process.args[1]} ended:\n{self.errors.read()[-3000:]}")
        found = json.loads(answer)
        return found["steps"], found["peak_mb"]


@contextlib.contextmanager
def started(system: str, case: Case, folder: Path) -> Iterator[Worker]:
    """A worker, ended with the block.

    Args:
        system: ours or trl.
        case: what a step does.
        folder: of the model.
    """
    python = sys.executable if system == "ours" else str(trl_python())
    facts = asdict(case) | {"folder": str(folder), "texts": case.texts(), "stop_ids": stop_ids(case, folder)}
    # As `crossthink` does, and for both: OpenMP threads that spin while they wait make a busy machine much slower.
    environment = os.environ | {"OMP_NUM_THREADS": str(case.threads), "GOMP_SPINCOUNT": "10000"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, str(HERE / f"step_{system}.py"), json.dumps(facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            yield Worker(process, errors)
            process.stdin.close()  # no further turn
            process.wait(END_SECONDS)
        finally:
            process.kill()  # of a process that has ended this does nothing
            process.wait()
            process.stdout.close()


def stop_ids(case: Case, folder: Path) -> list[int]:
    """The ids that end a response: the last of the vocabulary, as many as `mean_tokens` asks for."""
    if case.mean_tokens is None:
        return []
    vocabulary = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
    return list(range(vocabulary - round(vocabulary / case.mean_tokens), vocabulary))


def take_turns(workers: Sequence[Worker], turns: int, steps: int) -> list[dict[str, float]]:
    """Medians of each worker's seconds by phase, and `peak_mb`, after a turn of each that warms up."""
    found: list[list[dict[str, float]]] = [[] for _ in workers]
    peaks = [worker.turn(1)[1] for worker in workers]
    for _ in range(turns):
        for number, worker in enumerate(workers):
            seconds, peaks[number] = worker.turn(steps)
            found[number] += seconds
    return [
        {phase: statistics.median(one[phase] for one in seconds) for phase in seconds[0]} | {"peak_mb": peak}
        for seconds, peak in zip(found, peaks, strict=True)
    ]


@contextlib.contextmanager
def model_folder(model: Model) -> Iterator[Path]:
    """A Hugging Face folder of random weights with a tokenizer, removed after the block."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from recipes.models.tiny import tiny_config, tiny_tokenizer
    from recipes.quiet import quiet_libraries

    quiet_libraries()
    draw = random.Random(0)  # words enough to fill the vocabulary with merges
    words = ("".join(draw.choices("abcdefghij", k=4)) for _ in range(2500))
    tokenizer = tiny_tokenizer(words)
    fields = tiny_config(tokenizer).to_dict()
    del fields["layer_types"]
    fields |= {
        "hidden_size": model.hidden,
        "intermediate_size": model.mlp,
        "num_hidden_layers": model.layers,
        "vocab_size": len(tokenizer),  # no padded ids: TRL would draw them
    }
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(Qwen2Config(**fields)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield Path(folder)


def trl_python() -> Path:
    """The Python that has TRL; installs it into `.venv-trl` the first time.

    Raises:
        CalledProcessError: the installation failed; pip has said why.
    """
    python, done = TRL_VENV / "bin" / "python", TRL_VENV / ".installed"
    if not done.exists():
        print(f"installing TRL into {TRL_VENV} (a minute or two)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(TRL_VENV)], check=True)
        index = os.environ.get("TORCH_INDEX")  # as in the Makefile
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        pip += ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *(["--index-url", index] if index else []), "torch==2.13.0"], check=True)
        subprocess.run([*pip, "--requirement", str(HERE / "step_trl.txt")], check=True)
        done.touch()
    return python
