"""What a user gets wrong, as a table: a sentence that says what to do, no traceback, a non-zero exit, nothing left."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from train_helpers import LIMIT_S, TinyWorld, crossthink, metrics, started, succeed

from crossthink.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE


@dataclass(frozen=True)
class Case:
    """`words` makes the command line from the small world and an empty folder; `says` must all stand in the message."""

    words: Callable[[TinyWorld, Path], list[str]]
    says: tuple[str, ...]
    code: int = EXIT_USAGE


def train(*overrides: str) -> Callable[[TinyWorld, Path], list[str]]:
    return lambda world, folder: world.train_words(folder / "run", *overrides)


def prep_of(row: dict[str, object]) -> Callable[[TinyWorld, Path], list[str]]:
    """prep on a file whose second row is `row`."""

    def words(world: TinyWorld, folder: Path) -> list[str]:
        good = {"problem": "1+1?", "level": 3, "type": "Algebra", "solution": "$\\boxed{2}$"}
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in (good, row)))
        return ["prep", "sources=[math]", f"sources.math.path={path}", f"out={folder / 'pool'}"]

    return words


def without_tokenizer(world: TinyWorld, folder: Path) -> list[str]:
    shutil.copytree(world.base, folder / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    return world.train_words(folder / "run", f"model={folder / 'model'}")


def damaged_model(name: str, text: str) -> Callable[[TinyWorld, Path], list[str]]:
    def words(world: TinyWorld, folder: Path) -> list[str]:
        shutil.copytree(world.base, folder / "model")
        (folder / "model" / name).write_text(text)
        return world.train_words(folder / "run", f"model={folder / 'model'}")

    return words


def other_config(world: TinyWorld, folder: Path) -> list[str]:
    return [*world.finished_run(folder / "run"), "sampling.temperature=0.7", "resume=true"]


def foreign_folder(world: TinyWorld, folder: Path) -> list[str]:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("precious")
    return world.train_words(folder / "run")


def overlong_pool(world: TinyWorld, folder: Path) -> list[str]:
    return world.train_words(folder / "run", "max_prompt_tokens=2")


CASES = {
    "misspelt key": Case(train("optimiser.lr=1"), ("'optimiser.lr'", "Did you mean 'optimizer.lr'?")),
    "unknown option": Case(train("blend=gpr_upp"), ("blend=gpr_upp", "Did you mean 'gpr_up'?")),
    "wrong type": Case(train("steps=many"), ("steps", "many", "Integer")),
    "unknown command": Case(lambda world, folder: ["trian"], ("'trian'", "Did you mean 'train'?")),
    "not key=value": Case(lambda world, folder: ["train", "steps"], ("'steps'", "key=value")),
    "no model": Case(lambda world, folder: ["train", f"out={folder / 'run'}"], ("model= is required",)),
    "a group of one": Case(train("samples_per_prompt=1"), ("samples_per_prompt=1", "at least 2")),
    "updates that do not divide": Case(train("updates_per_rollout=3"), ("updates_per_rollout=3", "prompts_per_step=8")),
    "tensor parallel over heads": Case(
        train("actor.tensor_parallel=3"), ("actor.tensor_parallel=3", "4 attention heads", "1, 2, 4")
    ),
    "pipeline parallel over layers": Case(
        train("actor.pipeline_parallel=5"), ("actor.pipeline_parallel=5", "4 layers", "1 to 4")
    ),
    "blend source without rows": Case(
        train("blend.weights={mmlu_train:1,physics:1}"), ("physics", "no rows", "mmlu_train"), EXIT_FAILED
    ),
    "no such pool": Case(train("data=/nowhere/pool"), ("data=/nowhere/pool", "crossthink prep")),
    "row without its field": Case(
        prep_of({"problem": "2+2?", "level": 1, "type": "Algebra"}), ("rows.jsonl", "2", "solution"), EXIT_FAILED
    ),
    "row that is no JSON object": Case(prep_of([1, 2]), ("rows.jsonl", "2"), EXIT_FAILED),
    "unreachable reward server": Case(
        train("reward.url=[http://127.0.0.1:9]", "reward.deadline_s=1"),
        ("http://127.0.0.1:9", "serve-reward"),
        EXIT_FAILED,
    ),
    "model folder without a tokenizer": Case(without_tokenizer, ("model", "tokenizer.json"), EXIT_FAILED),
    "no such model": Case(train("model=/nowhere"), ("model=/nowhere", "tiny")),
    "damaged tokenizer": Case(damaged_model("tokenizer.json", '{"half": '), ("tokenizer.json is not JSON",)),
    "another program's tokenizer": Case(
        damaged_model("tokenizer.json", '{"version": 1}'), ("The tokenizer of", "cannot be read"), EXIT_FAILED
    ),
    "damaged index": Case(damaged_model("model.safetensors.index.json", "{}"), ("index.json holds no weight_map",)),
    "index of a shard that is not there": Case(
        damaged_model("model.safetensors.index.json", '{"weight_map": {"lm_head.weight": "model-00001.safetensors"}}'),
        ("index.json names model-00001.safetensors",),
    ),
    "model of an unknown kind": Case(train("model.name=giant"), ("model.name=giant", "tiny, folder")),
    "tiny model with a path": Case(train("model=tiny", "model.path=/nowhere"), ("model.path=/nowhere", "Drop one")),
    "run folder of another config": Case(other_config, ("sampling.temperature was 1.0, now 0.7", "another out=")),
    "run folder of something else": Case(foreign_folder, ("thesis.tex", "another out=")),
    "every prompt too long": Case(overlong_pool, ("max_prompt_tokens=2",), EXIT_FAILED),
    "eval without a checkpoint": Case(
        lambda world, folder: ["eval", f"checkpoint={folder}", f"data={world.held_out}", f"out={folder / 'e'}"],
        ("checkpoint=", "neither a run folder"),
    ),
    "report of nothing": Case(lambda world, folder: ["report", f"run={folder}"], ("run",)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tiny_world: TinyWorld, tmp_path: Path) -> None:
    case = CASES[name]
    words = case.words(tiny_world, tmp_path)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    done = crossthink(*words)
    assert done.returncode == case.code, done.stderr[-2000:]
    for part in case.says:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    left = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert not [p for p in left if p.suffix in (".tmp", ".parquet", ".distcp", ".safetensors")], left


def test_run_folder_without_resume(tiny_world: TinyWorld, tmp_path: Path) -> None:
    done = crossthink(*tiny_world.finished_run(tmp_path / "run"))
    assert (done.returncode, "resume=true" in done.stderr) == (EXIT_USAGE, True)


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = crossthink("serve-reward", f"port={port}")
    assert done.returncode == EXIT_USAGE
    assert f"Port {port}" in done.stderr and "port=0" in done.stderr and "Traceback" not in done.stderr


def test_reward_server_dies(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The message names address and step; the last whole step is saved although no checkpoint was due."""
    out, port_file = tmp_path / "run", tmp_path / "port"
    with started("serve-reward", "port=0", env={"CROSSTHINK_PORT_FILE": str(port_file)}) as server:
        assert server.stdout.readline().startswith("reward server on")
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        words = (f"reward.url=[{url}]", "reward.outage_limit_s=3", "steps=500", "checkpoint.every=1000")
        with started(*tiny_world.train_words(out, *words)) as trainer:
            while not (out / "metrics.jsonl").is_file():
                assert trainer.poll() is None, trainer.stderr.read()[-2000:]
            server.kill()
            server.wait()
            _, err = trainer.communicate(timeout=LIMIT_S)
    done = len(metrics(out))
    assert trainer.returncode == EXIT_RESUMABLE
    assert url in err and f"Step {done + 1} of 500" in err and "Traceback" not in err
    assert (out / "checkpoints" / "latest").read_text().strip() == f"step_{done:06d}"


def test_full_disk(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The kernel refuses every byte beyond 1 MB of a file, as a full disk would: the checkpoint does not fit."""
    out = tmp_path / "run"
    limit = 1_000_000
    done = crossthink(
        *tiny_world.train_words(out, "steps=1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == EXIT_FAILED, done.stderr[-2000:]
    assert "No space left" in done.stderr and str(out) in done.stderr and "resume=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((out / "checkpoints").glob("*"))
    succeed(*tiny_world.train_words(out, "steps=1", "resume=true"))


def test_two_processes_in_one_folder(tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = tiny_world.train_words(tmp_path / "run", "steps=500")
    with started(*words) as first:
        while not (tmp_path / "run" / "config.yaml").is_file():
            assert first.poll() is None, first.stderr.read()[-2000:]
        done = crossthink(*words, "resume=true")
    assert done.returncode == EXIT_USAGE
    assert "in use by another process" in done.stderr
