"""`--help` and `--cfg`: complete, and without waiting for torch."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

from conf.compose import groups, keys, options
from conf.help import field_docs, rows
from conf.prep import PrepConfig
from conf.synth import SynthConfig
from conf.train import DemoConfig, TrainConfig
from recipes.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "megatron", "datasets", "pyarrow", "sympy", "matplotlib")


def schema_of(command):
    module, _, name = COMMANDS[command].schema.partition(":")
    return getattr(import_module(module), name)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_field_with_its_meaning(command, flag, capsys):
    assert main([command, flag]) == 0
    lines = capsys.readouterr().out.splitlines()
    dry = dict.fromkeys(("prep", "submit", "synth"), " [--dry-run]")
    more = {**dry, "serve-reward": " [--explain ...]"}.get(command, "")
    assert lines[0] == f"usage: crossthink {command} [key=value ...] [--cfg]" + more
    assert lines[2].strip()  # what the command does
    meanings = {}
    first = next(number for number, line in enumerate(lines) if re.match(r"  [a-z]\S* +\S+ +\S", line))
    for line in lines[first:]:
        if re.match(r"  \S", line):
            key = line.split()[0].removesuffix("=")
            meanings.setdefault(key, "")
        elif line.strip():
            meanings[key] += line.strip()
    schema = schema_of(command)
    for key in keys(schema):
        below = [inner for inner in meanings if inner.startswith(key + ".")]
        assert key in meanings or below, f"{key} is not listed"
    for key, meaning in meanings.items():
        assert len(meaning) > 3, f"{key} has no meaning"


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_are_whole(command):
    schema = schema_of(command)
    found = rows(schema)
    names = [key for key, *_ in found]
    assert len(names) == len(set(names))
    for key, kind, _, meaning in found:
        assert kind and meaning.strip() and "\n" not in meaning, key
        group = key.removesuffix("=")
        if key.endswith("="):
            assert kind == "choice" and group in groups()
            for option in options(group, schema):
                assert option in meaning or (group, option) == ("model", "folder")


def test_types_and_defaults():
    table = {key: (kind, default) for key, kind, default, _ in rows(TrainConfig)}
    assert table["out"] == ("str", "required")
    assert table["data"] == ("str | None", "null")
    assert table["resume"] == ("bool", "false")
    assert table["optimizer.lr"] == ("float", "1e-06")
    assert table["optimizer.betas"] == ("list[float]", "[0.9, 0.95]")
    assert table["blend="] == ("choice", "gpr_up")
    assert {key: default for key, _, default, _ in rows(DemoConfig)}["recipe="] == "tiny"
    synth = {key: default for key, _, default, _ in rows(SynthConfig)}
    assert (synth["writer.max_tokens"], synth["solver.max_tokens"], synth["cluster.name"]) == ("2048", "8192", "''")
    assert ("sources.NAME.sample", "int | None", "null") in {row[:3] for row in rows(PrepConfig)}


def test_meanings_are_inherited_and_overridden():
    train, demo = field_docs(TrainConfig), field_docs(DemoConfig)
    assert demo["steps"] == train["steps"]
    assert demo["out"] != train["out"]


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2), (["--version"], 0)])
def test_the_list_of_commands(words, code, capsys):
    assert main(words) == code
    out = capsys.readouterr().out
    assert words == ["--version"] or all(f"  {name} " in out for name in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["tarin"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("crossthink: 'tarin' is not a command. Did you mean 'train'?")


def test_an_unknown_key_is_one_line_and_code_2(capsys):
    assert main(["train", "out=x", "model=tiny", "stepz=3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "'steps'" in err


def test_cfg_prints_and_does_nothing_else(capsys, tmp_path):
    assert main(["train", "recipe=tiny", f"out={tmp_path / 'run'}", "--cfg", "steps=7"]) == 0
    out = capsys.readouterr().out
    assert f"out: {tmp_path / 'run'}\n" in out and "\nsteps: 7\n" in out
    assert not (tmp_path / "run").exists()


def loaded(script):
    """Which heavy packages a fresh interpreter has imported after `script`."""
    script += f"\nimport sys\nprint('\\nLOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_help_is_quick_because_it_imports_nothing_heavy():
    assert loaded("from recipes.cli import main; assert main(['--help']) == 0") == []
    script = "from recipes.cli import COMMANDS, main\nfor name in COMMANDS: assert main([name, '--help']) == 0"
    assert loaded(script) == []


def test_configuration_imports_nothing_heavy():
    modules = ["compose", "help", "blend", "evaluate", "prep", "report", "reward", "train"]
    script = "\n".join(f"import conf.{name}" for name in modules)
    script += "\nfrom recipes.cli import main; assert main(['train', 'recipe=tiny', 'out=x', '--cfg']) == 0"
    assert loaded(script) == []
