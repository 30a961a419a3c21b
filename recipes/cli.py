"""The `crossthink` command: parse, call, nothing else."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import crossthink
from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, ConfigError, UserError, did_you_mean
from crossthink.extras import EXTRAS


@dataclass(frozen=True)
class Command:
    """Where a command's configuration and code live. Both are imported only when it is called."""

    schema: str
    run: str
    summary: str
    dry_run: bool = False  # takes --dry-run: run(config, dry_run=True) says what it would do
    explain: str = ""  # the module behind --explain: split(words), run(config, words of the item), USAGE


COMMANDS = {
    "demo": Command("conf.train:DemoConfig", "recipes.demo", "the whole job on this machine, in a few minutes"),
    "prep": Command(
        "conf.prep:PrepConfig", "data_prep.prep", "sources → filters → templates → a pool of questions", dry_run=True
    ),
    "synth": Command(
        "conf.synth:SynthConfig",
        "recipes.synth",
        "web pages → questions with voted answers, as rows for prep",
        dry_run=True,
    ),
    "serve-reward": Command(
        "conf.reward:ServeRewardConfig",
        "reward_server.serve",
        "score boxed answers over HTTP",
        explain="reward_server.explaining.command",
    ),
    "train": Command("conf.train:TrainConfig", "recipes.train", "GRPO, PPO; starts its own workers and reward server"),
    "serve-rollout": Command(
        "conf.rollout:ServeRolloutConfig",
        "recipes.serve_rollout",
        "generate over HTTP, refitted by a run; OpenAI API",
    ),
    "eval": Command("conf.evaluate:EvalConfig", "recipes.evaluate", "accuracy of a checkpoint or an endpoint"),
    "convert": Command(
        "conf.convert:ConvertConfig", "recipes.convert", "weights: a run's checkpoint ↔ Hugging Face ↔ megatron-core"
    ),
    "difficulty": Command(
        "conf.difficulty:DifficultyConfig", "recipes.difficulty", "mark what a smaller model solves; the filtered pool"
    ),
    "rescore": Command("conf.reward:RescoreConfig", "recipes.rescore", "score a run's dumped rollouts again, offline"),
    "report": Command("conf.report:ReportConfig", "recipes.report", "one HTML page from runs and evaluations"),
    "runs": Command("conf.runs:RunsConfig", "recipes.runs", "the runs of a folder, and what they differ in"),
    "sweep": Command(
        "conf.sweep:SweepConfig", "recipes.sweep", "several runs, evaluated, side by side; the study of the paper"
    ),
    "plan": Command("conf.plan:PlanConfig", "recipes.plan", "memory, time and layout of a run before it is submitted"),
    "submit": Command("conf.cluster:SubmitConfig", "slurm.submit", "train on a SLURM cluster", dry_run=True),
    "status": Command("conf.cluster:StatusConfig", "slurm.status", "a run's jobs, step, reward, ETA, last error"),
    "doctor": Command("conf.report:DoctorConfig", "recipes.doctor", "what of torch, CUDA, TE, NeMo, SLURM is here"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code (0 done, 1 failed, 2 bad usage or config, 75 stopped but resumable)."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Before torch loads its OpenMP: threads that spin for long while they wait make a busy machine many times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return _main(words)
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `| head` has seen enough; Python would complain again when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("crossthink: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                what = f"this command needs '{error.name}': pip install 'crossthink[{extra}]'"
                print(f"crossthink: {what}", file=sys.stderr)
                return EXIT_FAILED
        raise


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _print_commands()
        return EXIT_DONE if words else EXIT_USAGE
    if words[0] == "--version":
        print(crossthink.__version__)
        return EXIT_DONE
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise ConfigError(f"'{name}' is not a command.{did_you_mean(name, COMMANDS)} `crossthink --help` lists them.")
    command = COMMANDS[name]
    module, _, attribute = command.schema.partition(":")
    schema = getattr(importlib.import_module(module), attribute)
    if "-h" in rest or "--help" in rest:
        _print_help(name, command, schema)
        return EXIT_DONE
    from conf.compose import resolve, to_yaml

    explain = importlib.import_module(command.explain) if command.explain and "--explain" in rest else None
    if explain is not None:
        rest, given = explain.split(rest)
    flags = {"--cfg", "--dry-run"} if command.dry_run else {"--cfg"}
    config = resolve(name, schema, [word for word in rest if word not in flags])
    if "--cfg" in rest:
        print(to_yaml(config), end="")
        return EXIT_DONE
    if explain is not None:
        explain.run(config, given)
        return EXIT_DONE
    run = importlib.import_module(command.run).run
    code = run(config, dry_run=True) if "--dry-run" in rest and command.dry_run else run(config)
    return EXIT_DONE if code is None else code


def _print_commands() -> None:
    print("usage: crossthink COMMAND [key=value ...]\n\nNemotron-CrossThink (arXiv 2504.13941) as software.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:14}{command.summary}")
    print("\n`crossthink COMMAND --help` lists every key; `--cfg` prints the resolved configuration and stops.")


def _print_help(name: str, command: Command, schema: type) -> None:
    import inspect
    import shutil
    import textwrap

    from conf.help import rows

    width = shutil.get_terminal_size((110, 0)).columns
    flags = "[--cfg]" + " [--dry-run]" * command.dry_run + " [--explain ...]" * bool(command.explain)
    print(f"usage: crossthink {name} [key=value ...] {flags}\n\n{inspect.getdoc(schema)}\n")
    if command.explain:
        print(importlib.import_module(command.explain).USAGE)
    for key, kind, default, meaning in rows(schema):
        head = f"  {key:32} {kind:10} {default}"
        print(head)
        print(textwrap.fill(meaning, width=width, initial_indent=" " * 6, subsequent_indent=" " * 6))


if __name__ == "__main__":
    sys.exit(main())
