"""A sweep whose runs are jobs: what is submitted, and what is not."""

from __future__ import annotations

import json
import subprocess

import pytest

from conf.cluster import SubmitConfig
from conf.compose import resolve
from conf.sweep import SweepConfig
from recipes.sweeping import on_cluster
from recipes.sweeping.arms import chosen_arms
from recipes.sweeping.runs import Origin, plan_run


@pytest.fixture
def config(tmp_path):
    out = tmp_path / "sweep"
    words = ["recipe=ablation_blends", f"out={out}", "cluster=bare", "cluster.time=24:00:00", "cluster.env.A=b c"]
    found = resolve("sweep", SweepConfig, [*words, "words=['recipe=tiny','steps=2']"])
    out.mkdir()
    return found


@pytest.fixture
def runs(config, tmp_path):
    return [plan_run(config, arm, 0, Origin(tmp_path / "pool", None)) for arm in chosen_arms(config.recipe, [])[:4]]


@pytest.fixture
def calls(monkeypatch):
    """What is called, and what it answers: the second run is in the queue, the submission of the fourth is refused."""
    found = []

    def crossthink(*words):
        found.append(words)
        if words[0] == "status":
            jobs = [{"id": 7, "state": "RUNNING"}] if "mr_up" in words[1] else []
            return subprocess.CompletedProcess(words, 0, json.dumps({"jobs": jobs}), "")
        if any("mcq_up" in word for word in words):
            return subprocess.CompletedProcess(words, 1, "", "crossthink: no such partition\n")
        return subprocess.CompletedProcess(words, 0, "", "submitted job 8: more\n")

    monkeypatch.setattr(on_cluster, "_crossthink", crossthink)
    return found


def test_the_cluster_reaches_submit_as_it_is(config, tmp_path):
    path = on_cluster.write_cluster_file(tmp_path, config.cluster)
    given = resolve("submit", SubmitConfig, ["recipe=tiny", "out=x", f"cluster={path}"])
    assert given.cluster == config.cluster and given.cluster.time == "24:00:00"


def test_each_run_is_a_job_of_its_own(config, runs, calls, tmp_path):
    trained, queued, new, refused = runs
    (trained.out / "checkpoints").mkdir(parents=True)
    (trained.out / "checkpoints" / "latest").write_text("step_000002\n")
    queued.out.mkdir(parents=True)
    (queued.out / "config.yaml").touch()
    left, not_taken = on_cluster.submit_all(runs, tmp_path / "cluster.yaml", lambda said: None)
    assert (set(left), set(not_taken)) == ({queued.name, new.name}, {refused.name})
    assert left[queued.name].startswith("job 7;") and left[new.name] == "submitted job 8: more"
    assert not_taken[refused.name] == "not submitted: crossthink: no such partition"
    submitted = [words for words in calls if words[0] == "submit"]
    assert len(submitted) == 2
    assert f"out={new.out}" in submitted[0] and f"cluster={tmp_path / 'cluster.yaml'}" in submitted[0]
    assert "resume=true" not in submitted[0]


def test_what_ended_unfinished_is_submitted_again(runs, calls, tmp_path):
    new = runs[2]
    new.out.mkdir(parents=True)
    (new.out / "config.yaml").touch()
    on_cluster.submit_all([new], tmp_path / "cluster.yaml", lambda said: None)
    assert [words[0] for words in calls] == ["status", "submit"] and calls[1][-1] == "resume=true"
