"""What a run writes down of its machine and its time."""

import json

import pytest

from recipes import machine
from recipes.demo import counting_seconds, read_seconds
from recipes.run_folder import record_manifest


def test_the_machine_in_the_manifest(tmp_path):
    record_manifest(tmp_path, {"rules_hash": "a"})
    found = json.loads((tmp_path / "manifest.json").read_text())["machine"]
    assert list(found) == ["cpu_count", "memory_gb", "platform", "cpu", "gpus"]
    assert found["cpu_count"] >= 1 and found["memory_gb"] > 0 and found["platform"]
    record_manifest(tmp_path, {"rules_hash": "a"})  # a resumed run keeps what it began with
    assert json.loads((tmp_path / "manifest.json").read_text())["machine"] == found


@pytest.mark.parametrize("cpus, processes, each", [(8, 2, 4), (8, 3, 2), (1, 4, 1), (6, 1, 6)])
def test_threads_are_shares_of_what_this_process_may_use(monkeypatch, cpus, processes, each):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(cpus)), raising=False)
    assert machine.threads_each(processes) == each
    monkeypatch.delattr(machine.os, "sched_getaffinity")  # not Linux
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 10)
    assert machine.threads_each(5) == 2


def test_the_processor(tmp_path):
    path = tmp_path / "cpuinfo"
    assert machine.cpu_model(path) is None
    path.write_text("processor\t: 0\n")
    assert machine.cpu_model(path) is None
    path.write_text("processor\t: 0\nmodel name\t: A Chip @ 3GHz\nprocessor\t: 1\nmodel name\t: A Chip @ 3GHz\n")
    assert machine.cpu_model(path) == "A Chip @ 3GHz"


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'", ["NVIDIA H100"] * 2),
        ("echo 'No devices found.'", []),
        ("exit 9", []),
    ],
)
def test_gpus(monkeypatch, tmp_path, script, names):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_names() == names


def test_seconds_of_all_starts_are_counted(monkeypatch, tmp_path):
    path = tmp_path / "seconds.json"
    clock = iter([100.0, 103.0, 7.0, 12.0])
    monkeypatch.setattr("recipes.demo.time.monotonic", lambda: next(clock))
    assert read_seconds(path) == 0.0
    with pytest.raises(KeyboardInterrupt), counting_seconds(path):
        raise KeyboardInterrupt
    assert read_seconds(path) == 3.0
    with counting_seconds(path):
        pass
    assert read_seconds(path) == 8.0
