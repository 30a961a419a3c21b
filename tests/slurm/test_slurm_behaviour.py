"""What SLURM does that the batch script and its jobs rely on, seen on a real one. Release 22.05."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import Cluster
from slurm_helpers import (
    batch_script,
    call,
    clear_requeue_delay,
    components,
    job_fields,
    node_states,
    output,
    processes,
    submit_script,
    task_processes,
    wait_job,
    wait_until,
)


def variables(path: Path) -> dict[str, str]:
    """What `env` wrote of SLURM's variables."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if line.startswith(("SLURM", "CUDA")))


HETEROGENEOUS = """#SBATCH --nodes=1 --ntasks-per-node=2 --gres=gpu:2 --partition=gpu
#SBATCH hetjob
#SBATCH --nodes=1 --ntasks-per-node=1 --exclude=n2
#SBATCH hetjob
#SBATCH --nodes=1 --ntasks-per-node=1 --partition=cpu"""


def test_parts_of_a_heterogeneous_job_know_themselves_and_each_other(quiet_cluster, tmp_path):
    body = f"""env >{tmp_path}/batch
for group in 0 1 2; do
  srun --het-group=$group bash -c "env >{tmp_path}/$group.\\$SLURM_PROCID"
done
squeue --noheader --jobs="$SLURM_JOB_ID" --format='%i %A %e'"""
    script = batch_script(tmp_path / "job", HETEROGENEOUS, body)
    job = submit_script(quiet_cluster, script)
    assert wait_job(quiet_cluster, job) == "COMPLETED"
    of_batch = variables(tmp_path / "batch")
    nodes = [of_batch[f"SLURM_JOB_NODELIST_HET_GROUP_{group}"] for group in range(3)]
    assert len(set(nodes)) == 3 and nodes[1] != "n2"
    assert of_batch["SLURM_HET_SIZE"] == "3" and of_batch["SLURM_JOB_ID"] == str(job)
    assert [of_batch[f"SLURM_JOB_ID_HET_GROUP_{group}"] for group in range(3)] == [str(job + n) for n in range(3)]
    assert [of_batch[f"SLURM_JOB_PARTITION_HET_GROUP_{group}"] for group in range(3)] == ["gpu", "batch", "cpu"]
    assert of_batch["SLURM_JOB_NODELIST"] == nodes[0]
    assert "SLURM_RESTART_COUNT" not in of_batch, "it is set from the first requeue on"
    for name, group, rank, ranks in (
        ("0.0", 0, "0", "2"),
        ("0.1", 0, "1", "2"),
        ("1.0", 1, "0", "1"),
        ("2.0", 2, "0", "1"),
    ):
        of_task = variables(tmp_path / name)
        assert (of_task["SLURM_PROCID"], of_task["SLURM_NTASKS"]) == (rank, ranks)
        assert of_task["SLURM_JOB_NODELIST"] == of_task["SLURMD_NODENAME"] == nodes[group]
        assert of_task["SLURM_JOB_ID"] == str(job), "every part has the first one's number"
        assert of_task.get("CUDA_VISIBLE_DEVICES") == ("0,1" if group == 0 else None)
    listed = sorted(line.split() for line in output(script).splitlines())
    assert [line[:2] for line in listed] == [[f"{job}+{n}", str(job + n)] for n in range(3)]
    assert all(end[:2] == "20" and end[10] == "T" for *_, end in listed)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--nodes=4", "--gres=gpu:2"], False),
        (["--nodes=1", "--gres=gpu:3"], True),
        (["--nodes=5"], True),
        (["--nodes=4", "--exclude=n3"], True),
        (["--partition=none_such"], True),
        (["--constraint=h100"], True),
    ],
)
def test_a_trial_submission_notices_what_cannot_be(cluster, tmp_path, options, refused):
    script = batch_script(tmp_path / "job", "", "hostname")
    done = cluster.try_call("sbatch", "--test-only", *options, script)
    assert (done.returncode != 0) == refused, done.stderr


def test_a_trial_submission_looks_at_each_part_by_itself(cluster, tmp_path):
    def code(*nodes: int, partition: str = "cpu") -> int:
        parts = "\n#SBATCH hetjob\n".join(f"#SBATCH --nodes={n} --partition={partition}" for n in nodes)
        script = batch_script(tmp_path / "job", parts, "hostname")
        return cluster.try_call("sbatch", "--test-only", script).returncode

    assert code(2, 2) == 0
    assert code(2, 5) != 0
    assert code(2, 2, partition="none_such") != 0
    assert code(3, 3) == 0, "together more than the cluster has, and SLURM does not say so"


SRUN_CODES = {
    "exit 75": 75,
    "exit $((SLURM_PROCID * 75))": 75,
    "exit $((SLURM_PROCID ? 75 : 1))": 75,
    "((SLURM_PROCID)) || kill -KILL $$; exit 75": 137,
}


def test_the_highest_exit_code_is_that_of_srun(quiet_cluster, tmp_path):
    body = "\n".join(f"srun bash -c '{command}'; echo code $?" for command in SRUN_CODES)
    script = batch_script(tmp_path / "job", "#SBATCH --ntasks=2", body + "\nexit 75")
    job = submit_script(quiet_cluster, script)
    wait_job(quiet_cluster, job, ("FAILED",))
    assert [line for line in output(script).splitlines() if line.startswith("code")] == [
        f"code {code}" for code in SRUN_CODES.values()
    ]
    assert job_fields(quiet_cluster, job)["ExitCode"] == "75:0"


REQUEUE = """echo "restart ${{SLURM_RESTART_COUNT:-none}} on $SLURM_JOB_NODELIST"
if [[ -z ${{SLURM_RESTART_COUNT:-}} ]]; then
  scontrol update JobId="$SLURM_JOB_ID" ExcNodeList=n3 && echo "excluded while it runs"
  # SLURM ends the script and what it has started with TERM as soon as it is requeued.
  trap '' TERM
  scontrol requeue "$SLURM_JOB_ID" && echo requeued
  for id in {ids}; do scontrol update JobId="$id" ExcNodeList=n3 && echo excluded; done
fi"""


@pytest.mark.parametrize("parts", [1, 3])
def test_a_job_requeues_itself_without_a_bad_node(quiet_cluster, tmp_path, parts):
    variable = "$SLURM_JOB_ID" if parts == 1 else " ".join(f"$SLURM_JOB_ID_HET_GROUP_{n}" for n in range(parts))
    header = "\n#SBATCH hetjob\n".join(["#SBATCH --nodes=1 --exclusive --requeue"] * parts)
    script = batch_script(tmp_path / "job", header, REQUEUE.format(ids=variable))
    job = submit_script(quiet_cluster, script)
    wait_until("requeued", lambda: job_fields(quiet_cluster, job)["Restarts"] == "1", 120)
    clear_requeue_delay(quiet_cluster, job)
    assert wait_job(quiet_cluster, job) == "COMPLETED"
    said = output(script).splitlines()
    assert "excluded while it runs" not in said, "refused: the job is not pending"
    assert said.count("requeued") == 1 and said.count("excluded") == parts
    assert said[-1].startswith("restart 1 on n")
    ends = components(quiet_cluster, job)
    assert [end["Restarts"] for end in ends] == ["1"] * parts
    assert {end["ExcNodeList"] for end in ends} == {"n3"} and "n3" not in {end["NodeList"] for end in ends}


def test_a_job_that_may_not_be_requeued_goes_on(quiet_cluster, tmp_path):
    script = batch_script(tmp_path / "job", "", "scontrol requeue $SLURM_JOB_ID; echo code $?")
    assert wait_job(quiet_cluster, submit_script(quiet_cluster, script)) == "COMPLETED"
    assert output(script).splitlines()[-1] == "code 1"


def test_the_batch_script_alone_is_warned_of_the_time_limit(quiet_cluster, tmp_path):
    body = """trap 'echo warned; kill $!; exit 75' USR1
srun --het-group=1 bash -c "trap 'echo task warned' USR1; sleep 90" &
wait"""
    parts = "#SBATCH --nodes=1 --time=1 --signal=B:USR1@30\n#SBATCH hetjob\n#SBATCH --nodes=1 --time=1"
    script = batch_script(tmp_path / "job", parts, body)
    job = submit_script(quiet_cluster, script)
    # slurmctld looks at time limits every 30 s.
    wait_job(quiet_cluster, job, ("FAILED",), limit_s=120)
    assert "warned" in output(script).splitlines() and "task warned" not in output(script)
    assert job_fields(quiet_cluster, job)["ExitCode"] == "75:0"


def test_a_heterogeneous_job_starts_again_without_the_node_that_died(quiet_cluster, tmp_path):
    check_node_failure(quiet_cluster, tmp_path, noticed=False)


@pytest.mark.slow
def test_slurm_notices_by_itself_that_a_node_died(quiet_cluster, tmp_path):
    check_node_failure(quiet_cluster, tmp_path, noticed=True)


def check_node_failure(cluster: Cluster, tmp_path: Path, noticed: bool) -> None:
    """`noticed`: by slurmctld, after some 30 s; else it is told."""
    marker = f"{tmp_path}/task"
    Path(marker).write_text("sleep 120\n")
    body = f"""echo "restart ${{SLURM_RESTART_COUNT:-none}}"
[[ -z ${{SLURM_RESTART_COUNT:-}} ]] || exit 0
trap '' TERM CONT
srun --het-group=1 bash {marker}
echo "srun ended with $?" """
    parts = "#SBATCH --nodes=1 --exclusive --requeue\n#SBATCH hetjob\n#SBATCH --nodes=1 --exclusive --requeue"
    script = batch_script(tmp_path / "job", parts, body)
    job = submit_script(cluster, script)
    tasks = wait_until("the task runs", lambda: task_processes(marker), 120)
    node = job_fields(cluster, job + 1)["NodeList"]
    assert cluster.try_script("kill-node", node).returncode == 0
    assert not tasks & processes(marker), "what ran on the node is killed with it"
    if not noticed:
        call(cluster, "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")
    wait_until("both parts requeued", lambda: restarts(cluster, job) == ["1", "1"], 120)
    clear_requeue_delay(cluster, job)
    assert wait_job(cluster, job) == "COMPLETED"
    said = output(script)
    assert f"Node failure on {node}" in said and said.splitlines()[-1] == "restart 1"
    # A step whose only node died leaves no exit code: srun's is 0, and means nothing.
    assert "srun ended with 0" in said
    assert node not in {part["NodeList"] for part in components(cluster, job)}
    assert node_states(cluster)[node].rstrip("*") == "down"
    assert cluster.try_script("start-node", node).returncode == 0
    assert node_states(cluster)[node] == "idle"


def restarts(cluster: Cluster, job: int) -> list[str]:
    return [part["Restarts"] for part in components(cluster, job)]


def test_tasks_outlive_their_slurmd_until_it_is_started_again(quiet_cluster, tmp_path):
    marker = f"{tmp_path}/task"
    Path(marker).write_text("sleep 120\n")
    script = batch_script(tmp_path / "job", "#SBATCH --nodes=2 --requeue", f"srun bash {marker}")
    job = submit_script(quiet_cluster, script)
    wait_until("two tasks run", lambda: len(task_processes(marker)) == 2, 120)
    assert quiet_cluster.try_script("kill-node", "n2", "--daemon-only").returncode == 0
    call(quiet_cluster, "scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=killed")
    wait_job(quiet_cluster, job, ("PENDING",))
    assert len(task_processes(marker)) == 1, "SLURM has given the job up, and its rank on n2 goes on"
    assert quiet_cluster.try_script("start-node", "n2").returncode == 0
    wait_until("n2's slurmd has killed it", lambda: not task_processes(marker), 120)
