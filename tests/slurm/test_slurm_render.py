"""The batch script: what SLURM is asked for, what runs where, and that no value breaks out of its place."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from submit_helpers import config, settled_config

from conf.cluster import SubmitConfig
from crossthink.errors import ConfigError
from slurm import render as render_module
from slurm.render import job_name, render

HOSTILE = """it's "a" $(touch hit) `touch hit` %j;#&| x"""
"""A name with everything that a shell, sbatch or srun might read."""
SHELLCHECK = shutil.which("shellcheck")
CLUSTERS = {
    "bare": (),
    "pyxis": ("cluster=pyxis", "cluster.image=nvcr.io#nvidia/nemo:25.02"),
    "apptainer": ("cluster=apptainer", "cluster.image=/images/a.sif", "cluster.rollout_image=/images/r.sif"),
}
SHAPES = {
    "one_node": (),
    "servers_on_actor_nodes": ("nodes.actor=2", "actor.data_parallel=2", "rollout.servers=4"),
    "heterogeneous": ("nodes.rollout=2", "nodes.reward=1"),
    "servers_of_others": ("reward.url=[http://r:1]",),
}


def script(*words: str, out: str = "/runs/a") -> str:
    return render(settled_config(out, *words))


def directives(text: str) -> list[list[str]]:
    """The #SBATCH options of each component, without a shell's quotes."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("#SBATCH "):
            option = line.removeprefix("#SBATCH ")
            if option == "hetjob":
                parts.append([])
            else:
                [word] = shlex.split(option)
                parts[-1].append(word)
    return parts


def sruns(text: str) -> dict[str, list[str]]:
    """The options of each srun by role."""
    found = re.findall(r"^task (\w+) (.*?)(?: &)?$", text, re.MULTILINE)
    return {role: shlex.split(options) for role, options in found}


def run_bash(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script with SLURM's commands replaced by what lies in folder/bin."""
    path = folder / "job.sh"
    path.write_text(text)
    return subprocess.run(
        ["bash", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7", **environment},
    )


@pytest.mark.parametrize("continuation", ["requeue", "chain"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_script_is_clean(cluster: str, shape: str, continuation: str, tmp_path: Path) -> None:
    text = script(
        *CLUSTERS[cluster],
        *SHAPES[shape],
        f"cluster.continuation={continuation}",
        "cluster.modules=[cuda/12.4]",
        "cluster.setup=['ulimit -l unlimited']",
        "cluster.env.NCCL_DEBUG=WARN",
        out="/runs/it's a run",
    )
    path = tmp_path / "job.sh"
    path.write_text(text)
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True).stderr == ""
    if SHELLCHECK:
        looked = subprocess.run([SHELLCHECK, str(path)], capture_output=True, text=True)
        assert looked.returncode == 0, looked.stdout
    assert "{{" not in text and "{%" not in text
    # sbatch refuses options of pyxis where it is not installed.
    assert "container" not in "\n".join(line for line in text.splitlines() if line.startswith("#SBATCH"))
    assert ("scontrol requeue" in text) == (continuation == "requeue")
    assert ("for id in $behind" in text) == (continuation == "chain")


def test_what_one_node_is_asked_for() -> None:
    assert directives(script()) == [
        [
            "--job-name=crossthink-a",
            "--nodes=1",
            "--ntasks-per-node=4",
            "--time=04:00:00",
            "--exclusive",
            "--requeue",
            "--signal=B:USR1@300",
            "--output=/runs/a/logs/slurm-%j.out",
            "--open-mode=append",
        ]
    ]


def test_everything_that_can_be_asked_for() -> None:
    found = directives(
        script(
            "cluster.account=acct", "cluster.partition=gpu", "cluster.reward_partition=cpu", "cluster.qos=high",
            "cluster.constraint='h100&ib'", "cluster.reservation=res", "cluster.gres=gpu:4", "cluster.cpus_per_task=8",
            "cluster.mem=100G", "cluster.exclude=[n1,n2]", "cluster.exclusive=false",
            "cluster.options=['--comment=rl']", "cluster.time=1-00:00:00", "cluster.signal_s=600",
            "cluster.continuation=chain", "nodes.reward=1",
        )
    )  # fmt: skip
    common = [
        "--account=acct", "--qos=high", "--reservation=res", "--cpus-per-task=8", "--mem=100G", "--exclude=n1,n2",
        "--comment=rl", "--time=1-00:00:00", "--no-requeue", "--job-name=crossthink-a", "--nodes=1",
    ]  # fmt: skip
    actor, reward = map(set, found)
    assert actor == {
        *common, "--ntasks-per-node=4", "--partition=gpu", "--constraint=h100&ib", "--gres=gpu:4",
        "--signal=B:USR1@600", "--output=/runs/a/logs/slurm-%j.out", "--open-mode=append",
    }  # fmt: skip
    # The batch script, its signal and its output belong to the first component; a reward node needs no GPU.
    assert reward == {*common, "--ntasks-per-node=1", "--partition=cpu"}


def test_one_srun_for_each_kind_of_task() -> None:
    found = sruns(script("cluster.gres=gpu:4", "cluster.cpus_per_task=8", "rollout.servers=2"))
    assert list(found) == ["reward", "rollout", "rank"]  # servers first
    common = ["--nodes=1", "--cpus-per-task=8", "--overlap"]
    assert set(found["reward"]) == {*common, "--ntasks=1", "--ntasks-per-node=1", "--gres=none", "--wait=0"}
    assert set(found["rollout"]) == {*common, "--ntasks=2", "--ntasks-per-node=2", "--wait=0"}
    assert set(found["rank"]) == {*common, "--ntasks=4", "--ntasks-per-node=4", "--wait=120"}


def test_sruns_of_a_heterogeneous_job_name_their_component() -> None:
    found = sruns(script(*SHAPES["heterogeneous"], "cluster.gres=gpu:4"))
    groups = {role: [word for word in words if word.startswith("--het-group")] for role, words in found.items()}
    assert groups == {"reward": ["--het-group=2"], "rollout": ["--het-group=1"], "rank": ["--het-group=0"]}
    assert all("--overlap" not in words for words in found.values())
    assert "--gres=none" not in found["reward"]  # its node was asked for without
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4"} <= set(found["rollout"])


def decide_line(text: str) -> list[str]:
    [line] = re.findall(r'^answer="\$\((.*) 2>>"\$logs/decide.log"\)"$', text, re.MULTILINE)
    return shlex.split(line)


def test_without_containers() -> None:
    text = script("cluster.python=/opt/venv/bin/python")
    assert decide_line(text) == ["env", "/opt/venv/bin/python", "-m", "slurm.decide", "$run", "$name", "$code"]
    assert "container" not in text and "apptainer" not in text
    assert '/opt/venv/bin/python -m slurm.task "$role" "$run"' in text


@pytest.mark.parametrize("shape", ["one_node", "heterogeneous"])
def test_pyxis_options_stand_on_srun_alone(shape: str) -> None:
    text = script(
        *CLUSTERS["pyxis"], *SHAPES[shape], "cluster.rollout_image=nvcr.io#nvidia/trtllm:1.0", "rollout.servers=8",
        "cluster.mounts=[/scratch:/scratch:ro]", "nodes.gpus_per_node=4", "data=/pool",
    )  # fmt: skip
    mounts = "--container-mounts=/runs/a:/runs/a,/pool:/pool,/scratch:/scratch:ro"
    images = dict.fromkeys(("reward", "rank"), "nvcr.io#nvidia/nemo:25.02")
    images["rollout"] = "nvcr.io#nvidia/trtllm:1.0"
    for role, words in sruns(text).items():
        found = {word for word in words if "container" in word}
        assert found == {
            f"--container-image={images[role]}", mounts, "--container-workdir=/runs/a", "--no-container-mount-home",
        }  # fmt: skip
    # Python is in the container, so that is where the decision is made.
    decide = decide_line(text)
    assert decide[0] == "srun" and "--container-image=nvcr.io#nvidia/nemo:25.02" in decide
    assert {"--nodes=1", "--ntasks=1", "--overlap"} <= set(decide)
    assert ("--het-group=0" in decide) == (shape == "heterogeneous")
    assert decide[-6:] == ["python3", "-m", "slurm.decide", "$run", "$name", "$code"]


def test_apptainer_wraps_what_srun_starts() -> None:
    text = script(*CLUSTERS["apptainer"], "cluster.gres=gpu:4", "rollout.servers=2", "data=/pool")
    start = ["apptainer", "exec", "--nv", "--bind", "/runs/a:/runs/a", "--bind", "/pool:/pool", "--pwd", "/runs/a"]
    found = [shlex.split(words) for words in re.findall(r"within=\((.*)\)", text)]
    assert found == [[*start, "/images/r.sif"], [*start, "/images/a.sif"]]
    assert decide_line(text)[: len(start) + 2] == [*start, "/images/a.sif", "python3"]
    assert '"${within[@]}" \\\n        python3 -m slurm.task' in text
    assert "--nv" not in script(*CLUSTERS["apptainer"], "cluster.gres=null")


def test_hostile_values_stay_values(tmp_path: Path) -> None:
    """The script is run with an srun that shows its words: whatever was given arrives as it was."""
    out = tmp_path / HOSTILE
    made = settled_config(out, "reward.url=[http://r:1]")
    cluster = made.cluster
    cluster.env = {"SAID": HOSTILE + "\nmore"}
    cluster.modules = [HOSTILE]
    cluster.python = f"/opt/{HOSTILE}/python"
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(
        '#!/bin/bash\nprintf "%s\\0" "$SAID" "${@: -5}" >"$0.words"\nexit 3\n'  # the last words are the task's
    )
    (tools / "module").write_text('#!/bin/bash\nprintf "%s\\0" "$@" >"$0.words"\n')
    (tools / "squeue").write_text("#!/bin/bash\necho N/A\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = run_bash(render(made), tmp_path)
    # No such Python: no decision, so the ranks' own code.
    assert done.returncode == 3 and "slurm.decide failed with code 127" in done.stderr
    words = (tools / "srun.words").read_text().split("\0")[:-1]
    assert words == [HOSTILE + "\nmore", cluster.python, "-m", "slurm.task", "rank", str(out)]
    assert (tools / "module.words").read_text().split("\0")[:-1] == ["load", HOSTILE]
    assert (out / "cluster" / "current").read_text() == "7.0\n"
    assert (out / "cluster" / "attempts" / "7.0" / "over").exists()
    assert not (tmp_path / "hit").exists()
    [log] = [word for word in directives(render(made))[0] if word.startswith("--output=")]
    assert log == f"--output={str(out).replace('%', '%%')}/logs/slurm-%j.out"


def job_with_answer(tmp_path: Path, answer: str, code: int, *words: str, **environment: str):
    """A job whose ranks end with 75 and whose slurm.decide answers so. Returns how it ended, and scontrol's calls."""
    tools = tmp_path / "bin"
    tools.mkdir()
    decide = tmp_path / "python"
    decide.write_text(f'#!/bin/bash\necho "$*" >>"$0.words"\necho decided >&2\necho "{answer}"\nexit {code}\n')
    (tools / "srun").write_text("#!/bin/bash\nexit 75\n")
    for name in ("scontrol", "squeue"):
        (tools / name).write_text(
            f'#!/bin/bash\necho "$*" >>"$0.words"\n[[ {name} == squeue ]] && echo "8 9"\nexit 0\n'
        )
    for tool in (decide, *tools.iterdir()):
        tool.chmod(0o755)
    text = script("reward.url=[http://r:1]", f"cluster.python={decide}", *words, out=str(tmp_path / "run"))
    done = run_bash(text, tmp_path, SLURM_JOB_END_TIME="1", **environment)
    calls = tools / "scontrol.words"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_a_run_that_goes_on_is_requeued(tmp_path: Path) -> None:
    done, calls = job_with_answer(tmp_path, "go-on -", 75)
    assert done.returncode == 75 and calls == ["requeue 7"]
    assert (tmp_path / "python.words").read_text() == f"-m slurm.decide {tmp_path / 'run'} 7.0 75\n"
    assert "decided" in done.stderr  # what it said stands in the job's own output


def test_bad_nodes_are_left_out_of_every_component(tmp_path: Path) -> None:
    done, calls = job_with_answer(
        tmp_path, "go-on n3,n4", 75, SLURM_HET_SIZE="2", SLURM_JOB_ID_HET_GROUP_0="7", SLURM_JOB_ID_HET_GROUP_1="8"
    )
    assert done.returncode == 75
    assert calls == [
        "requeue 7",
        "update JobId=7 ExcNodeList=n3,n4",
        "update JobId=8 ExcNodeList=n3,n4",
    ]


def test_a_chain_goes_on_in_its_next_job(tmp_path: Path) -> None:
    done, calls = job_with_answer(tmp_path, "go-on n3 8 9", 75, "cluster.continuation=chain")
    assert done.returncode == 75 and calls == [f"update JobId={job} ExcNodeList=n3" for job in (8, 9)]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_run_that_has_ended_is_not_requeued(code: int, tmp_path: Path) -> None:
    done, calls = job_with_answer(tmp_path, "stop n3", code)
    assert done.returncode == code and calls == []


def test_a_job_that_slurm_takes_back_decides_nothing(tmp_path: Path) -> None:
    """TERM: the attempt's tasks are told to stop, and SLURM itself has said what becomes of the job."""
    tools = tmp_path / "bin"
    tools.mkdir()
    attempt = tmp_path / "run" / "cluster" / "attempts" / "7.0"
    (tools / "srun").write_text(
        f'#!/bin/bash\nkill -TERM "$JOB"\nuntil [[ -e "{attempt}/stop" ]]; do sleep 0.02; done\nexit 75\n'
    )
    (tools / "scontrol").write_text('#!/bin/bash\ntouch "$0.called"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    text = script("reward.url=[http://r:1]", "cluster.python=/none", out=str(tmp_path / "run"))
    done = run_bash(text.replace("set -uo", "export JOB=$$\nset -uo"), tmp_path, SLURM_JOB_END_TIME="1")
    assert done.returncode == 75 and "SLURM has taken the job back" in done.stderr
    assert (attempt / "over").exists() and not (tools / "scontrol.called").exists()
    assert not (tmp_path / "run" / "logs" / "7.0" / "decide.log").exists()


def test_told_to_stop_the_job_waits_for_its_ranks(tmp_path: Path) -> None:
    """USR1 ends the batch script's wait, and not the ranks."""
    tools = tmp_path / "bin"
    tools.mkdir()
    run = tmp_path / "run"
    (tools / "srun").write_text(
        f'#!/bin/bash\nkill -USR1 "$JOB"\nuntil [[ -e "{run}/cluster/attempts/7.0/stop" ]]; do sleep 0.02; done\n'
        f'[[ -e "{run}/cluster/attempts/7.0/over" ]] && exit 1\nsleep 0.3\nexit 75\n'
    )
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$*" >"$0.words"\necho stop -\nexit 9\n')
    for tool in (python, *tools.iterdir()):
        tool.chmod(0o755)
    text = script("reward.url=[http://r:1]", f"cluster.python={python}", out=str(run))
    done = run_bash(text.replace("set -uo", "export JOB=$$\nset -uo"), tmp_path, SLURM_JOB_END_TIME="1")
    assert done.returncode == 9
    assert (tmp_path / "python.words").read_text() == f"-m slurm.decide {run} 7.0 75\n"


def test_no_decision_is_no_reason_to_go_on(tmp_path: Path) -> None:
    done, calls = job_with_answer(tmp_path, "Traceback", 1)
    assert done.returncode == 1 and calls == []
    assert "slurm.decide failed with code 1" in done.stderr and "the ranks ended with 75" in done.stderr


def test_a_job_behind_the_end_ends_with_its_code(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "cluster").mkdir(parents=True)
    (run / "cluster" / "finished").write_text("2\n")
    done, _ = job_with_answer(tmp_path, "go-on -", 75)
    assert done.returncode == 2 and not (run / "cluster" / "current").exists()


def test_a_requeued_job_is_an_attempt_of_its_own(tmp_path: Path) -> None:
    job_with_answer(tmp_path, "stop -", 0, SLURM_RESTART_COUNT="3")
    assert (tmp_path / "run" / "cluster" / "current").read_text() == "7.3\n"
    assert (tmp_path / "run" / "cluster" / "attempts" / "7.3" / "ends" / "rank.code").read_text() == "75\n"


def change(made: SubmitConfig, key: str, value: object) -> SubmitConfig:
    setattr(made.cluster, key, value)
    return made


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("partition", "gpu --nodelist=n1", ("cluster.partition='gpu --nodelist=n1'", "blank")),
        ("partition", "gpu\n#SBATCH --uid=0", ("cluster.partition=",)),
        ("account", "a#b", ("cluster.account='a#b'", "#")),
        ("time", "4 h", ("cluster.time='4 h'",)),
        ("exclude", ["n1 n2"], ("cluster.options='n1 n2'",)),
        ("options", ["comment=rl"], ("cluster.options", "'comment=rl'", "--name=value")),
        ("options", ["--comment=r l"], ("cluster.options='--comment=r l'",)),
        ("options", ["--container-image=x"], ("cluster.options", "--container-image=x", "cluster.style")),
        ("env", {"A=1; rm": "x"}, ("cluster.env", "'A=1; rm'")),
        ("env", {"1A": "x"}, ("cluster.env", "'1A'")),
        ("mounts", ["/data"], ("cluster.mounts", "'/data'", "FROM:/TO")),
        ("mounts", ["/data:/data:rx"], ("cluster.mounts", "FROM:/TO:ro")),
        ("mounts", ["/a,b:/data"], ("cluster.mounts", "'/a,b:/data'", "commas")),
    ],
)
def test_values_that_would_break_out(key: str, value: object, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        render(change(settled_config("/runs/a"), key, value))
    assert all(part in str(refused.value) for part in parts), refused.value


@pytest.mark.parametrize("out", ["/runs/a\nb", "/runs/a\\b"])
def test_run_folders_that_slurm_cannot_write_its_log_to(out: str) -> None:
    with pytest.raises(ConfigError, match="line break or a backslash"):
        render(settled_config(out))


@pytest.mark.parametrize("out", ["/runs/a:b", "/runs/a,b"])
def test_run_folders_that_no_container_can_be_given(out: str) -> None:
    assert render(settled_config(out))
    for style in ("pyxis", "apptainer"):
        with pytest.raises(ConfigError, match="cluster.mounts.*commas or more colons"):
            script(*CLUSTERS[style], out=out)


def test_a_variable_left_open_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "job.sh.j2"
    template.write_text(render_module.TEMPLATE.read_text() + "{{ walltime }}\n")
    monkeypatch.setattr(render_module, "TEMPLATE", template)
    with pytest.raises(ConfigError, match="job.sh.j2: 'walltime' is undefined"):
        script()


def test_jobs_are_named_after_their_run() -> None:
    assert job_name(config("/runs/my run (2)")) == "crossthink-my_run__2_"
