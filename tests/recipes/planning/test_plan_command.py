"""`crossthink plan` from its words to its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plan_helpers import APART, SEVEN, THIRTY_TWO, configured, job_of

from conf.compose import keys
from conf.help import rows
from conf.plan import PlanConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, ConfigError
from recipes.cli import main

FITS = (*SEVEN, "rollout.trtllm.kv_cache_fraction=0.4")


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_takes_all_keys_of_train_and_explains_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(keys(TrainConfig)) < set(keys(PlanConfig))
    explained = {key: meaning for key, _, _, meaning in rows(PlanConfig)}
    own = set(keys(PlanConfig)) - set(keys(TrainConfig)) - {"efficiency"}
    assert own <= set(explained) and all(explained[key] for key in own)
    code, out, _ = planned(capsys, "--help")
    assert code == EXIT_DONE and "efficiency.decode_overhead_ms" in out and "Starts nothing" in out


def test_a_plan_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = planned(capsys, *FITS)
    assert (code, err) == (EXIT_DONE, "")
    for part in ("4 tensor × 1 pipeline × 2 data", "KV cache", "time of a step", "GPU-hours", "efficiency.*"):
        assert part in out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_a_plan_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = planned(capsys, "recipe=crossthink_32b", "nodes.rollout=0", "rollout=local")
    assert code == EXIT_FAILED and "time of a step" in out
    assert "does not fit. Stage 0" in err and "more than the 84.8 GB of gpu=h100" in err


def test_json_has_everything_and_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = planned(capsys, *THIRTY_TWO, "rollout.trtllm.kv_cache_fraction=0.35", "json=true")
    assert (code, err) == (EXIT_DONE, "")
    plan: dict[str, Any] = json.loads(out)
    assert set(plan) == {
        "fits", "problems", "gpu", "limit_bytes", "layout", "actor", "memory", "time", "traffic", "efficiency",
    }  # fmt: skip
    assert plan["fits"] is True and plan["limit_bytes"] == 79 * 2**30
    assert plan["layout"] == {
        "world": 32, "rollout_gpus": 0, "tensor_parallel": 4, "pipeline_parallel": 4, "data_parallel": 2,
    }  # fmt: skip
    for one in plan["memory"]:
        assert set(one) == {"phase", "stage", "where", "bytes", "items"}
        assert sum(item["bytes"] for item in one["items"]) == pytest.approx(one["bytes"])
        assert {item["from"] for item in one["items"]} <= {"formula", "measured", "published", "assumed"}
    assert {one["stage"] for one in plan["memory"]} == {0, 1, 2, 3}
    assert [one["phase"] for one in plan["time"]["phases"]] == ["rollout", "reward", "log_probs", "train", "refit"]
    assert sum(one["seconds"] for one in plan["time"]["phases"]) == pytest.approx(plan["time"]["step_s"])
    assert {one["group"] for one in plan["traffic"]} == {"TP", "PP", "DP", "refit"}
    assert plan["efficiency"]["network"] == 0.7


def test_cpus_get_memory_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=tiny", "gpu=cpu", "nodes.gpus_per_node=2", "actor.tensor_parallel=2")
    code, out, _ = planned(capsys, *words)
    assert code == EXIT_DONE
    assert "gpu=cpu: memory alone is planned" in out and "time of a step" not in out and "weights" in out
    _, out, _ = planned(capsys, *words, "json=true")
    plan = json.loads(out)
    assert (plan["time"], plan["limit_bytes"], plan["fits"]) == (None, None, True)
    assert {one["seconds"] for one in plan["traffic"]} == {None}


def test_the_search_prints_the_words_of_the_fastest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = planned(capsys, *FITS, "search=true", "show=3")
    assert code == EXIT_DONE and "layouts fit" in out and "The first: actor.tensor_parallel=" in out
    code, out, _ = planned(capsys, *FITS, "search=true", "show=3", "json=true")
    ranking = json.loads(out)
    assert len(ranking["layouts"]) == 3 and ranking["fit"] >= 3
    code, _, err = planned(capsys, "recipe=crossthink_32b", "search=true", "nodes.rollout=0", "rollout=local")
    assert code == EXIT_FAILED and "layouts fits. The nearest is TP " in err


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = planned(capsys, *FITS, f"picture={tmp_path}/plan.png")
    assert code == EXIT_DONE and (tmp_path / "plan.png").stat().st_size > 5000
    code, _, err = planned(capsys, *FITS, "picture=x.png", "search=true")
    assert code == EXIT_USAGE and "picture=x.png draws one layout" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gpu=h1000",), "gpu=h1000 is not allowed. Allowed: a100, h100, h200, b200, cpu."),
        (("nodes.gpus_per_node=6",), "nodes.actor=1 × nodes.gpus_per_node=6 = 6 ranks, which actor.tensor_parallel=4 × "
         "actor.pipeline_parallel=1 do not fill"),
        (("actor.data_parallel=3",), "actor.data_parallel=3 do not fill"),
        (("actor.tensor_parallel=8",), "actor.tensor_parallel=8 does not divide the 28 attention heads"),
        (("actor.pipeline_parallel=32", "actor.tensor_parallel=1", "actor.sequence_parallel=false", "nodes.actor=4"),
         "actor.pipeline_parallel=32 is more than the 28 layers"),
        (("mean_response_tokens=5000",), "mean_response_tokens=5000 is more than max_response_tokens=4000"),
        (("mean_prompt_tokens=1001",), "mean_prompt_tokens=1001 is more than max_prompt_tokens=1000"),
        (("length_spread=-1",), "length_spread=-1.0 is too small"),
        (("length_spread=3.1",), "length_spread=3.1 is out of range: 0 to 3."),
        (("length_spread=nan",), "length_spread=nan is not allowed: a finite number, at least 0."),
        (("length_spread=inf",), "length_spread=inf is not allowed: a finite number, at least 0."),
        (("efficiency.decode_overhead_ms=nan",), "efficiency.decode_overhead_ms=nan is not allowed: a finite number"),
        (("efficiency.decode_overhead_ms=inf",), "efficiency.decode_overhead_ms=inf is not allowed: a finite number"),
        (("efficiency.network=nan",), "efficiency.network=nan is out of range: 0.01 to 1.0."),
        (("nodes=1",), "nodes=1 is not allowed: nodes is a group of keys. Give them one by one, nodes.NAME=...: actor, "
         "rollout, reward, gpus_per_node."),
        (("efficiency.train=1.5",), "efficiency.train=1.5 is out of range: 0.01 to 1.0."),
        (("nodes.actor=0",), "nodes.actor=0 is too small: at least 1."),
        (("prompts_per_step=1", "samples_per_prompt=2", "nodes.actor=2"), "fewer than the 4 data-parallel ranks"),
        (("updates_per_rollout=3",), "updates_per_rollout=3 does not divide prompts_per_step=128"),
        (("nodes.rollout=1", "rollout.trtllm.tensor_parallel=3", *APART),
         "rollout.trtllm.tensor_parallel=3 does not divide nodes.gpus_per_node=8"),
        (("rollout.servers=9",), "rollout.servers=9 of 1 GPUs each are more than the 1 actor nodes of 8 GPUs hold"),
        (("rollout.servers=0",), "rollout=trtllm runs in servers"),
        (("actor.recompute=some",), "actor.recompute=some is not allowed"),
        (("rollout.lag=1",), "rollout.lag=1 trains on rollouts of the weights before"),
        (("efficency.train=0.5",), "'efficency.train' is not a key of `crossthink plan`. Did you mean"),
        (("picture=plan.pdf",), "picture=plan.pdf is not allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = planned(capsys, *SEVEN, *words)
    assert (code, out) == (EXIT_USAGE, "") and message in err


def test_models_are_read_from_a_folder_of_nothing_but_its_config(tmp_path: Path) -> None:
    shape = configured(*SEVEN).model.shape
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "rope_theta": 1e6, **shape}), "utf-8")
    given = ("actor.tensor_parallel=4", f"model={tmp_path}")
    assert job_of(*given).shape == job_of("model=qwen2_5_7b", "actor.tensor_parallel=4").shape
    with pytest.raises(ConfigError, match=r"model\.path=.* is not Qwen/Qwen2\.5-32B"):
        job_of("model=qwen2_5_32b", f"model.path={tmp_path}")
    with pytest.raises(ConfigError, match=r"model\.path= is missing"):
        job_of("model.name=folder", *given[:1])
    tiny = job_of("model=tiny", "gpu=cpu", "nodes.gpus_per_node=1")
    assert (tiny.shape.layers, tiny.shape.hidden, tiny.gpu) == (4, 128, None)


def test_what_is_open_is_decided_as_on_a_gpu() -> None:
    actor = job_of("model=qwen2_5_7b", "actor.tensor_parallel=4").config.actor
    assert (actor.dtype, actor.transformer_engine, actor.packing) == ("bfloat16", True, True)
    assert (actor.data_parallel, actor.distributed_optimizer, actor.overlap) == (2, True, True)
    alone = job_of("model=qwen2_5_7b", "nodes.gpus_per_node=1").config.actor
    assert (alone.data_parallel, alone.distributed_optimizer, alone.overlap) == (1, False, False)
    assert not job_of("recipe=crossthink_7b").config.actor.packing  # actor=aligner pads
    cpu = job_of("model=tiny", "gpu=cpu").config.actor
    assert (cpu.dtype, cpu.transformer_engine, cpu.packing, cpu.overlap) == ("float32", False, False, False)


def test_rollout_nodes_stand_for_servers() -> None:
    job = job_of("recipe=crossthink_32b")
    assert (job.world, job.rollout_gpus, job.config.rollout.servers) == (32, 16, 4)
    half = job_of("recipe=crossthink_32b", "rollout.servers=2")
    assert (half.rollout_gpus, half.config.rollout.servers) == (16, 2)
    assert job_of(*SEVEN).config.rollout.servers == 8


def test_nothing_of_it_needs_torch() -> None:
    code = (
        "import sys\n"
        "from recipes.cli import main\n"
        f"code = main(['plan', *{list(FITS)!r}])\n"
        "loaded = {'torch', 'megatron', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_DONE, done.stderr
