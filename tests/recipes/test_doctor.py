"""The doctor tells what is here, and never fails over what is not."""

import os
import re
import socket
import subprocess
import sys

import pytest

from conf.report import DoctorConfig
from crossthink.errors import ConfigError
from recipes import doctor

BLOCKED = """
import importlib.metadata, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
real = importlib.metadata.version

def version(name):
    if name.partition("-")[0] in {blocked!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.version = version
from recipes.cli import main
sys.exit(main(["doctor", "ports=[]"]))
"""


def by_name(config):
    return {part.name: part for part in doctor.parts(config)}


@pytest.fixture
def listener():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_ports_are_really_tried(listener):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
    found = by_name(DoctorConfig(ports=[listener, free]))
    assert found[f"port {listener} on 127.0.0.1"].found == "taken"
    assert found[f"port {free} on 127.0.0.1"].found == "free"


def test_an_address_of_another_machine_is_told():
    found = by_name(DoctorConfig(host="192.0.2.1"))["port 8900 on 192.0.2.1"]
    assert found.found == "no" and found.good is False


@pytest.mark.parametrize("port", [0, 70000])
def test_no_such_port(port):
    with pytest.raises(ConfigError, match="1 to 65535"):
        doctor.run(DoctorConfig(ports=[port]))


def test_every_part_has_a_line(capsys, tmp_path):
    doctor.run(DoctorConfig(path=str(tmp_path / "not" / "yet"), ports=[]))
    out = capsys.readouterr().out
    for word in ("Python", "torch", "CUDA", "Transformer", "TensorRT", "NeMo", "SLURM", "disk", "memory", "cores"):
        assert word in out
    assert "Nothing is broken" in out


@pytest.mark.parametrize(
    "blocked", [{"torch"}, {"torch", "megatron", "transformers", "matplotlib", "jinja2", "psutil"}]
)
def test_without_torch(blocked):
    script = BLOCKED.format(blocked=blocked)
    wide = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stderr
    assert re.search(r"│ torch +│ no +│ no train, eval or demo", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr and "cannot be told" not in done.stdout


def test_a_broken_part_does_not_hide_the_others(monkeypatch):
    def broken():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor, "_torch", broken)
    found = by_name(DoctorConfig(ports=[]))
    assert found["torch"].good is False and "libcudart" in found["torch"].meaning
    assert found["CPU cores"].good


def test_an_old_python_is_flagged(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1))
    part = by_name(DoctorConfig(ports=[]))["Python"]
    assert part.good is False and "too old" in part.meaning


def test_missing_and_old_packages(monkeypatch):
    real = doctor.metadata.version

    def version(name):
        if name == "uvicorn":
            raise doctor.metadata.PackageNotFoundError(name)
        return {"safetensors": "0.0.1"}.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = by_name(DoctorConfig(ports=[]))
    assert found["base packages"].good is False and "missing: uvicorn" in found["base packages"].meaning
    assert found["training packages"].good is False and "safetensors>=0.4.5" in found["training packages"].meaning


def test_slurm_on_the_path(monkeypatch, tmp_path):
    for tool in ("sbatch", "srun"):
        (tmp_path / tool).write_text("#!/bin/sh\necho slurm 23.11.4\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    part = by_name(DoctorConfig(ports=[]))["SLURM"]
    assert part.found == "23.11.4" and part.good
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    part = by_name(DoctorConfig(ports=[]))["SLURM"]
    assert part.found == "not usable" and part.good is None and "slurm.conf" in part.meaning
