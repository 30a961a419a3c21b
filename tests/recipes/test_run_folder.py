"""A run folder belongs to one config and one process at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conf.blend import BlendConfig
from conf.train import ModelConfig, TrainConfig
from crossthink.errors import EXIT_USAGE, ConfigError, UserError
from recipes.run_folder import (
    claim,
    held_out_pool,
    locked,
    model_folder,
    read_config,
    record_manifest,
    training_pool,
)


def config_of(out, **changes):
    """A whole config; `changes` are dotted keys with "__" for the dot."""
    config = TrainConfig(
        out=str(out), model=ModelConfig(name="tiny"), blend=BlendConfig(name="pool", provenance="ours")
    )
    for key, value in changes.items():
        place = config
        *parts, last = key.split("__")
        for part in parts:
            place = getattr(place, part)
        setattr(place, last, value)
    return config


def claimed(folder):
    """The folder of a run that has begun."""
    with locked(folder):
        claim(config_of(folder))
    (folder / "metrics.jsonl").touch()
    return folder


@pytest.fixture
def out(tmp_path):
    """A claimed run folder."""
    return claimed(tmp_path / "run")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A claimed run folder that every test leaves as it is."""
    return claimed(tmp_path_factory.mktemp("untouched"))


def refused(config):
    """The message with which `claim` refuses a config."""
    with pytest.raises(ConfigError) as caught, locked(Path(config.out)):
        claim(config)
    assert caught.value.exit_code == EXIT_USAGE
    return str(caught.value)


def test_a_new_folder_is_made_and_claimed(out):
    assert read_config(out) == config_of(out)
    assert sorted(p.name for p in out.iterdir()) == [".lock", "config.yaml", "metrics.jsonl"]


def test_a_start_that_failed_before_it_made_anything_holds_no_folder(tmp_path):
    out = tmp_path / "run"
    with locked(out):
        claim(config_of(out))
    (out / "logs").mkdir()
    (out / "manifest.json").write_text("{}")
    other = config_of(out, seed=5)
    with locked(out):
        claim(other)
    assert read_config(out) == other and not (out / "manifest.json").exists()


def test_no_run_has_no_config(tmp_path):
    assert read_config(tmp_path) is None
    assert read_config(tmp_path / "nowhere") is None


def test_a_second_start_needs_resume(out):
    assert "already holds this run. Add resume=true" in refused(config_of(out))
    with locked(out):
        claim(config_of(out, resume=True))


def test_a_resume_may_change_where_and_how_long(out):
    changes = {
        "steps": 7,
        "actor__tensor_parallel": 2,
        "actor__data_parallel": 2,
        "actor__threads": 1,
        "rollout__batch_size": 3,
        "micro_batch_tokens": 99,
        "checkpoint__every": 1,
        "checkpoint__keep": 5,
        "eval__every": 3,
        "reward__url": ["http://a"],
        "reward__workers": 2,
        "reward__deadline_s": 5.0,
        "reward__outage_limit_s": 5.0,
        "reward__max_invalid": 0.5,
        "reward__token": "secret",
    }
    config = config_of(out, resume=True, **changes)
    with locked(out):
        claim(config)
    assert read_config(out) == config


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seed", 1, "seed was 0, now 1"),
        ("data", "pool", "data was null, now pool"),
        ("prompts_per_step", 4, "prompts_per_step was 128, now 4"),
        ("updates_per_rollout", 2, "updates_per_rollout was 1, now 2"),
        ("max_response_tokens", 9, "max_response_tokens was 4000, now 9"),
        ("optimizer__lr", 0.5, "optimizer.lr was 1e-06, now 0.5"),
        ("algorithm__kl", 0.0, "algorithm.kl was 0.001, now 0.0"),
        ("sampling__temperature", 0.7, "sampling.temperature was 1.0, now 0.7"),
        ("reward__match", "exact", "reward.match was equivalent, now exact"),
        ("blend__weights", {"math": 1.0}, "blend.weights"),
        ("model__path", "/elsewhere", "model.path was null, now /elsewhere"),
        ("warm_start__steps", 5, "warm_start.steps was"),
        ("eval__data", "held_out", "eval.data was null, now held_out"),
    ],
)
def test_a_resume_may_not_change_what_the_run_is(untouched, key, value, says):
    before = (untouched / "config.yaml").read_text()
    assert says in refused(config_of(untouched, resume=True, **{key: value}))
    assert (untouched / "config.yaml").read_text() == before


def test_many_differences_are_counted(untouched):
    changes = {"seed": 1, "prompts_per_step": 4, "max_prompt_tokens": 5, "data": "x", "algorithm__kl": 0.0}
    changes |= {"optimizer__lr": 0.5, "max_response_tokens": 9}
    assert " and 2 more." in refused(config_of(untouched, resume=True, **changes))


def test_a_moved_run_folder_is_the_same_run(out, tmp_path):
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    with locked(moved):
        claim(config_of(moved, resume=True))
    assert read_config(moved).out == str(moved)


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refused(config_of(tmp_path))
    assert "not empty and not a run folder (it holds thesis.tex)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_process_at_a_time(out):
    with locked(out):
        with pytest.raises(ConfigError, match="in use by another process"), locked(out):
            raise AssertionError
        script = (
            "from pathlib import Path; from recipes.run_folder import locked; from crossthink.errors import UserError\n"
            f"try:\n    with locked(Path({str(out)!r})): print('held')\nexcept UserError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "in use by another process" in done.stdout
    with locked(out):
        pass  # let go of with the block


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    script = (
        "import os, signal; from pathlib import Path; from recipes.run_folder import locked\n"
        f"with locked(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nothing/here", "x" * 300])
def test_where_no_folder_can_be(tmp_path, where):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be a run folder"), locked(tmp_path / where):
        raise AssertionError


FACTS = {"pool_sha256": "aa", "model_sha256": "bb", "rules_hash": "cc"}


def test_the_manifest_is_written_once_and_checked_after(tmp_path):
    record_manifest(tmp_path, FACTS)
    written = (tmp_path / "manifest.json").read_bytes()
    manifest = json.loads(written)
    assert manifest["format"] == "crossthink-run" and manifest["facts"] == FACTS
    assert {"torch", "transformers", "math-verify"} <= set(manifest["packages"])
    record_manifest(tmp_path, FACTS)
    assert (tmp_path / "manifest.json").read_bytes() == written


@pytest.mark.parametrize("key", FACTS)
def test_a_resumed_run_meets_the_same_data_model_and_rules(tmp_path, key):
    record_manifest(tmp_path, FACTS)
    with pytest.raises(UserError, match=rf"{key} of .* has changed since the run began: it was .*, now it is zz"):
        record_manifest(tmp_path, {**FACTS, key: "zz"})


def test_which_folders_a_run_uses(tmp_path):
    config = config_of(tmp_path)
    assert model_folder(config) == tmp_path / "base"
    assert training_pool(config) == tmp_path / "demo" / "pool"
    assert held_out_pool(config) == tmp_path / "demo" / "held_out"
    config = config_of(tmp_path, model__path="/m", data="/d", eval__data="/e")
    assert [str(f(config)) for f in (model_folder, training_pool, held_out_pool)] == ["/m", "/d", "/e"]
